// The register-tile product every larger product is made of. Included once per instruction set.
#pragma once

#include "pair_kernels.h"
#include "simd.h"

namespace cmsei {
namespace CMSEI_ISA {

// Rows of a tile: as many accumulators as leave room for two columns of B and one element of A.
constexpr int kMR = CMSEI_VECTOR_BYTES == 64 ? 14 : 6;
constexpr int kNV = 2;
template <class S> constexpr int kNR = kNV * Simd<S>::W;

// C (M × NV registers) = or += Σ_k a[k * lda + i] · b[k * ldb + lane].
template <class S, int M, int NV>
CMSEI_INLINE void micro(long k, const S* a, long lda, const S* b, long ldb, S* c, long ldc, bool accumulate) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = V::zero();
#pragma GCC unroll 4
    for (; k > 0; --k, a += lda, b += ldb) {
        typename V::T x[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) x[j] = V::load(b + j * V::W);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            const typename V::T y = V::set(a[i]);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) acc[i][j] += y * x[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            S* p = c + i * ldc + j * V::W;
            V::store(p, accumulate ? V::load(p) + acc[i][j] : acc[i][j]);
        }
}

template <class S, int M>
__attribute__((noinline)) void micro_row(int nv, long k, const S* a, long lda, const S* b, long ldb, S* c, long ldc,
                                         bool accumulate) {
    if (nv == 1)
        micro<S, M, 1>(k, a, lda, b, ldb, c, ldc, accumulate);
    else
        micro<S, M, kNV>(k, a, lda, b, ldb, c, ldc, accumulate);
}

template <class S>
CMSEI_INLINE void micro_any(int m, int nv, long k, const S* a, long lda, const S* b, long ldb, S* c, long ldc,
                            bool acc) {
    switch (m) {
#define CMSEI_ROWS(M) \
    case M: \
        if constexpr (M <= kMR) micro_row<S, M>(nv, k, a, lda, b, ldb, c, ldc, acc); \
        break;
        CMSEI_ROWS(1) CMSEI_ROWS(2) CMSEI_ROWS(3) CMSEI_ROWS(4) CMSEI_ROWS(5) CMSEI_ROWS(6) CMSEI_ROWS(7)
        CMSEI_ROWS(8) CMSEI_ROWS(9) CMSEI_ROWS(10) CMSEI_ROWS(11) CMSEI_ROWS(12) CMSEI_ROWS(13) CMSEI_ROWS(14)
#undef CMSEI_ROWS
    }
}

// quad (NV registers) += Σ_i p_i Σ_{k < i + M} g(i, k) p_k over the M rows of one panel of g, p_i at p + i * ldp.
template <class S, int M, int NV>
CMSEI_INLINE void quadratic_panel(long k, const S* g, const S* p, long ldp, const S* own, typename Simd<S>::T* quad) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = V::zero();
#pragma GCC unroll 4
    for (; k > 0; --k, g += M, p += ldp) {
        typename V::T x[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) x[j] = V::load(p + j * V::W);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            const typename V::T y = V::set(g[i]);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) acc[i][j] += y * x[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) quad[j] += acc[i][j] * V::load(own + i * ldp + j * V::W);
}

template <class S, int M>
__attribute__((noinline)) void quadratic_rows(int nv, long k, const S* g, const S* p, long ldp, const S* own,
                                              typename Simd<S>::T* quad) {
    if (nv == 1)
        quadratic_panel<S, M, 1>(k, g, p, ldp, own, quad);
    else
        quadratic_panel<S, M, kNV>(k, g, p, ldp, own, quad);
}

// pᵀ g p for nv registers of columns, with g as the packed lower half of a symmetric matrix (`half` of Gram).
template <class S>
inline void quadratic_form(int nv, long m, const S* g, const S* p, long ldp, typename Simd<S>::T* quad) {
    for (long i = 0; i < m; i += kMR) {
        const int rows = m - i < kMR ? static_cast<int>(m - i) : kMR;
        switch (rows) {
#define CMSEI_ROWS(M) \
    case M: \
        if constexpr (M <= kMR) quadratic_rows<S, M>(nv, i + M, g + i * m, p, ldp, p + i * ldp, quad); \
        break;
            CMSEI_ROWS(1) CMSEI_ROWS(2) CMSEI_ROWS(3) CMSEI_ROWS(4) CMSEI_ROWS(5) CMSEI_ROWS(6) CMSEI_ROWS(7)
            CMSEI_ROWS(8) CMSEI_ROWS(9) CMSEI_ROWS(10) CMSEI_ROWS(11) CMSEI_ROWS(12) CMSEI_ROWS(13) CMSEI_ROWS(14)
#undef CMSEI_ROWS
        }
    }
}

// Depth of a pass over C: deep enough that C's traffic is small, with a panel of B that nearly fits the first cache.
template <class S> inline long depth_block(long k) {
    const long most = 32768 / (kNR<S> * static_cast<long>(sizeof(S)));
    const long blocks = (k + most - 1) / most;
    return blocks <= 1 ? k : ((k + blocks - 1) / blocks + 7) / 8 * 8;
}

// Whether the next panel of B is fetched while the present one is used: worth it where a processor does not do it by
// itself; where it does, two panels push each other out of the first cache.
constexpr bool kFetchNext = CMSEI_VECTOR_BYTES < 64;

// Brings part p of `parts` of the next panel (64 bytes at a time) into the cache.
CMSEI_INLINE void prefetch_part(const void* panel, long bytes, long p, long parts) {
    const char* line = static_cast<const char*>(panel);
    for (long i = bytes * p / parts / 64 * 64; i < bytes * (p + 1) / parts; i += 64) __builtin_prefetch(line + i);
}

template <class S> inline void gemm(const Gemm<S>& g) {
    const long step = g.lower || g.k == 0 ? (g.k > 0 ? g.k : 1) : depth_block<S>(g.k);
    for (long k0 = 0; k0 < g.k || k0 == 0; k0 += step) {
        const bool accumulate = g.accumulate || k0 > 0;
        for (long j = 0, q = 0; j < g.cols; j += kNR<S>, ++q) {
            const int nv = g.cols - j <= Simd<S>::W ? 1 : kNV;
            const S* b = g.b + q * g.b_panel + k0 * g.ldb;
            const long parts = (g.rows + kMR - 1) / kMR, depth = g.k - k0 < step ? g.k - k0 : step;
            const long next = kFetchNext && g.ldb == kNR<S> && parts > 3 ? depth * kNR<S> * static_cast<long>(sizeof(S)) : 0;
            for (long i = 0, p = 0; i < g.rows; i += kMR, ++p) {
                if (next) prefetch_part(b + g.b_panel, next, p, parts);
                const int m = g.rows - i < kMR ? static_cast<int>(g.rows - i) : kMR;
                const long lda = g.lda ? g.lda : m;
                long k = g.k - k0 < step ? g.k - k0 : step;
                if (g.lower && k > i + m) k = i + m;
                micro_any<S>(m, nv, k, g.a + p * g.a_panel + k0 * lda, lda, b, g.ldb, g.c + i * g.ldc + j, g.ldc,
                             accumulate);
            }
        }
    }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
