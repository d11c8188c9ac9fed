// Which of the instruction sets that kernels are compiled for this processor has, and this process may use.
#pragma once

#include "amx_support.h"

#if defined(CMSEI_HAVE_X86_VARIANTS)
#include <cpuid.h>
#endif

namespace cmsei {

struct Processor {
    bool avx2, avx512, avx512bf16; // each as the variant of that name needs it
    bool avxvnni, avx512vnni;
    TileProducts tiles;
};

#if defined(CMSEI_HAVE_X86_VARIANTS)
// What compilers do not all know by name (f16c, avxvnni); that the system saves the registers, a name beside it says.
inline bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
}
inline bool has_avxvnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

inline Processor processor() {
    __builtin_cpu_init();
    Processor p{};
    p.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    p.avxvnni = p.avx2 && has_avxvnni();
#if defined(CMSEI_EMULATE_512)
    // A test build: the 512-bit variants compiled for narrower registers, to run anywhere.
    p.avx512 = p.avx512bf16 = p.avx512vnni = true;
    p.tiles = {true, true};
#else
    p.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    p.avx512bf16 = p.avx512 && __builtin_cpu_supports("avx512bf16");
    p.avx512vnni = p.avx512 && __builtin_cpu_supports("avx512vnni");
    if (p.avx512bf16) p.tiles = tile_products();
#endif
    return p;
}
#else
inline Processor processor() { return {}; }
#endif

}  // namespace cmsei
