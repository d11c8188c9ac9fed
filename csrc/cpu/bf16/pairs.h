// The register-tile product of bfloat16 pairs, where the processor has it (AVX512-BF16), with float32 sums. Included
// once per instruction set.
#pragma once

#include "../pack.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512BF16__) || defined(CMSEI_EMULATE_PAIRS)
#define CMSEI_PAIRS 1
#endif

namespace cmsei {
namespace CMSEI_ISA {

#if defined(CMSEI_PAIRS)
typedef uint32_t Pairs __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

CMSEI_INLINE Simd<float>::T dot_pairs(Simd<float>::T acc, Pairs a, Pairs b) {
#if defined(__AVX512BF16__)
    return (Simd<float>::T)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    const Pairs high = Pairs{} + 0xffff0000u;
    return acc + (Simd<float>::T)(a & high) * (Simd<float>::T)(b & high) +
           (Simd<float>::T)(a << 16) * (Simd<float>::T)(b << 16);
#endif
}

template <int M, int NV>
CMSEI_INLINE void multiply_add_pairs(const uint32_t* a, const uint32_t* b, Simd<float>::T (&acc)[M][NV]) {
    Pairs x[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) __builtin_memcpy(&x[j], b + j * Simd<float>::W, sizeof(Pairs));
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
        const Pairs y = Pairs{} + bits_at(a + i);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = dot_pairs(acc[i][j], y, x[j]);
    }
}

template <int M, int NV>
__attribute__((noinline)) void micro_pairs(long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                                           long ldc, bool accumulate, Ahead ahead) {
    Simd<float>::T acc[M][NV];
    clear<float>(acc);
    for (; k >= Ahead::kStride; k -= Ahead::kStride) {
        ahead.step();
#pragma GCC unroll 16
        for (int u = 0; u < Ahead::kStride; ++u, a += lda, b += ldb) multiply_add_pairs(a, b, acc);
    }
    for (; k > 0; --k, a += lda, b += ldb) multiply_add_pairs(a, b, acc);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            float* p = c + i * ldc + j * Simd<float>::W;
            Simd<float>::store(p, accumulate ? Simd<float>::load(p) + acc[i][j] : acc[i][j]);
        }
}

template <int M>
CMSEI_INLINE void micro_pairs_row(int nv, long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                                  long ldc, bool acc, Ahead ahead) {
    if (nv == 1)
        micro_pairs<M, 1>(k, a, lda, b, ldb, c, ldc, acc, ahead);
    else
        micro_pairs<M, 2>(k, a, lda, b, ldb, c, ldc, acc, ahead);
}

inline void micro_pairs_any(int m, int nv, long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                            long ldc, bool acc, Ahead ahead) {
    with_rows(m, [&](auto rows) { micro_pairs_row<rows.value>(nv, k, a, lda, b, ldb, c, ldc, acc, ahead); });
}
#endif

}  // namespace CMSEI_ISA
}  // namespace cmsei
