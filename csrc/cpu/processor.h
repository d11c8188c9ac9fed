// Which of the instruction sets that kernels are compiled for this processor has, and this process may use.
#pragma once

#include "amx_support.h"

namespace cmsei {

struct Processor {
    bool avx2, avx512, avx512bf16; // each as the variant of that name needs it
    bool avxvnni, avx512vnni;
    TileProducts tiles;
};

#if defined(CMSEI_HAVE_X86_VARIANTS)
inline Processor processor() {
    __builtin_cpu_init();
    Processor p{};
    p.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#if !defined(CMSEI_NO_AVXVNNI)
    p.avxvnni = __builtin_cpu_supports("avxvnni"); // older compilers do not know the name
#endif
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
