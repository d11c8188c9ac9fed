// Which instruction sets this processor has, and the kernels compiled for them.
#include <cstring>

#include "kernels.h"
#include "processor.h"

namespace cmsei {

namespace baseline { CpuKernels kernels(); }
#if defined(CMSEI_HAVE_X86_VARIANTS)
#if !defined(CMSEI_NO_AVX2)
namespace avx2 { CpuKernels kernels(); }
#endif
#if !defined(CMSEI_NO_AVX512)
namespace avx512 { CpuKernels kernels(); }
#endif
#if !defined(CMSEI_NO_AVX512BF16)
namespace avx512bf16 { CpuKernels kernels(); }
#endif
#if !defined(CMSEI_NO_AVX512AMX)
namespace avx512amx { CpuKernels kernels(); }
#endif
#if !defined(CMSEI_NO_AVXVNNI)
namespace avxvnni { void add_int8_kernels(PairKernels<float>& table); }
#endif
#if !defined(CMSEI_NO_AVX512VNNI)
namespace avx512vnni { void add_int8_kernels(PairKernels<float>& table); }
#endif
#if !defined(CMSEI_NO_AMXINT8)
namespace amxint8 { void add_int8_kernels(PairKernels<float>& table); }
#endif
#endif

namespace {

struct Available {
    CpuKernels kernels[5];
    const CpuKernels* list[6] = {};
    int count = 0;

    CpuKernels& add(const CpuKernels& k) {
        kernels[count] = k;
        list[count] = &kernels[count];
        return kernels[count++];
    }

    // Slowest first.
    explicit Available(const Processor& p) {
        add(baseline::kernels());
        CpuKernels *narrow = nullptr, *whole[2] = {}, *tiled = nullptr;  // those that products of int8 are added to
#if defined(CMSEI_HAVE_X86_VARIANTS)
#if !defined(CMSEI_NO_AVX2)
        if (p.avx2) narrow = &add(avx2::kernels());
#endif
#if !defined(CMSEI_NO_AVX512)
        if (p.avx512) whole[0] = &add(avx512::kernels());
#endif
#if !defined(CMSEI_NO_AVX512BF16)
        if (p.avx512bf16) whole[1] = &add(avx512bf16::kernels());
#endif
#if !defined(CMSEI_NO_AVX512AMX)
        if (p.tiles.bf16) tiled = &add(avx512amx::kernels());
#endif
#if !defined(CMSEI_NO_AVXVNNI)
        if (narrow && p.avxvnni) avxvnni::add_int8_kernels(narrow->f32.pair);
#endif
#if !defined(CMSEI_NO_AVX512VNNI)
        for (CpuKernels* k : whole)
            if (k && p.avx512vnni) avx512vnni::add_int8_kernels(k->f32.pair);
#endif
        // Tile registers for bfloat16 alone multiply the same numbers faster than instructions on vectors do.
#if !defined(CMSEI_NO_AMXINT8)
        if (tiled && p.tiles.int8) amxint8::add_int8_kernels(tiled->f32.pair);
#endif
#endif
        (void)p, (void)narrow, (void)whole, (void)tiled;
    }
};

const Available& available() {
    static const Available instance(processor());
    return instance;
}

}  // namespace

const CpuKernels* const* available_kernels() { return available().list; }

const CpuKernels* find_kernels(const char* isa) {
    const Available& a = available();
    if (!isa || !*isa) return a.list[a.count - 1];
    for (int i = 0; i < a.count; ++i)
        if (!std::strcmp(a.list[i]->isa, isa)) return a.list[i];
    return nullptr;
}

}  // namespace cmsei
