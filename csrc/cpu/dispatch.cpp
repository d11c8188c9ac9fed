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
namespace avx512bf16 { void add_bf16_kernels(TypedKernels<float>& table); }
#endif
#if !defined(CMSEI_NO_AVX512AMX)
namespace avx512amx { void add_bf16_kernels(TypedKernels<float>& table); }
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
    // Those of `base`, if there are, with other products of bfloat16.
    CpuKernels* add(const char* isa, const CpuKernels* base, void (*add_products)(TypedKernels<float>&)) {
        if (!base) return nullptr;
        CpuKernels& own = add(*base);
        own.isa = isa;
        add_products(own.f32);
        return &own;
    }

    // Slowest first.
    explicit Available(const Processor& p) {
        add(baseline::kernels());
        CpuKernels *narrow = nullptr, *wide = nullptr, *paired = nullptr, *tiled = nullptr;
#if defined(CMSEI_HAVE_X86_VARIANTS)
#if !defined(CMSEI_NO_AVX2)
        if (p.avx2) narrow = &add(avx2::kernels());
#endif
#if !defined(CMSEI_NO_AVX512)
        if (p.avx512) wide = &add(avx512::kernels());
#endif
#if !defined(CMSEI_NO_AVX512BF16)
        if (p.avx512bf16) paired = add("avx512bf16", wide, avx512bf16::add_bf16_kernels);
#endif
#if !defined(CMSEI_NO_AVX512AMX)
        if (p.tiles.bf16) tiled = add("avx512amx", paired, avx512amx::add_bf16_kernels);
#endif
#if !defined(CMSEI_NO_AVXVNNI)
        if (narrow && p.avxvnni) avxvnni::add_int8_kernels(narrow->f32.pair);
#endif
#if !defined(CMSEI_NO_AVX512VNNI)
        CpuKernels* const whole[] = {wide, paired};
        for (CpuKernels* k : whole)
            if (k && p.avx512vnni) avx512vnni::add_int8_kernels(k->f32.pair);
#endif
        // Tile registers for bfloat16 alone multiply the same numbers faster than instructions on vectors do.
#if !defined(CMSEI_NO_AMXINT8)
        if (tiled && p.tiles.int8) amxint8::add_int8_kernels(tiled->f32.pair);
#endif
#endif
        (void)p, (void)narrow, (void)wide, (void)paired, (void)tiled;
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
