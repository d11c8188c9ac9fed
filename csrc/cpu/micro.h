// The register-tile product every larger product is made of. Included once per instruction set.
#pragma once

#include <type_traits>

#include "pair_kernels.h"
#include "simd.h"

namespace cmsei {
namespace CMSEI_ISA {

// Whether a multiply-add takes a lane of a register as well as a whole one (NEON): then one load is W rows of A.
constexpr bool kByLane = CMSEI_REGISTERS == 32 && CMSEI_VECTOR_BYTES == 16;
// Rows of a tile: as many accumulators as leave room for two columns of B and one element of A, or by lane as many
// whole registers of A.
constexpr int kMR = kByLane ? 12 : CMSEI_REGISTERS == 32 ? 14 : 6;
constexpr int kNV = 2;
template <class S> constexpr int kNR = kNV * Simd<S>::W;

// Lines of memory that are needed next: a tile prefetches them while it multiplies, one every kStride steps; the
// processor's own prefetching comes too late for B's next panel, and a burst would hold up the tile's loads.
struct Ahead {
    static constexpr int kStride = CMSEI_REGISTERS == 32 ? 4 : 16;
    const char *line, *end;
    CMSEI_INLINE void step() {
        __builtin_prefetch(line);
        line = line < end ? line + 64 : line;
    }
    // Part p of `parts` of some bytes.
    static CMSEI_INLINE Ahead part(const void* data, long bytes, long p, long parts) {
        const char* from = static_cast<const char*>(data);
        return {from + bytes * p / parts / 64 * 64, from + bytes * (p + 1) / parts};
    }
};

// body(m as a constant) for the m rows of a tile, from 1 to kMR.
template <class Body> CMSEI_INLINE void with_rows(int m, Body body) {
    switch (m) {
#define CMSEI_ROWS(M) \
    case M: \
        if constexpr (M <= kMR) body(std::integral_constant<int, M>()); \
        break;
        CMSEI_ROWS(1) CMSEI_ROWS(2) CMSEI_ROWS(3) CMSEI_ROWS(4) CMSEI_ROWS(5) CMSEI_ROWS(6) CMSEI_ROWS(7)
        CMSEI_ROWS(8) CMSEI_ROWS(9) CMSEI_ROWS(10) CMSEI_ROWS(11) CMSEI_ROWS(12) CMSEI_ROWS(13) CMSEI_ROWS(14)
#undef CMSEI_ROWS
    }
}

// acc (M × NV registers) += a (M) · b (NV registers).
template <class S, int M, int NV>
CMSEI_INLINE void multiply_add(const S* a, const S* b, typename Simd<S>::T (&acc)[M][NV]) {
    using V = Simd<S>;
#if defined(__clang__)
    asm volatile("" ::: "memory"); // else the compiler loads for the next step early, without registers for it
#endif
    typename V::T x[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) x[j] = V::load(b + j * V::W);
    constexpr int by_lane = kByLane ? M / V::W * V::W : 0;
#pragma GCC unroll 16
    for (int i = 0; i < by_lane; i += V::W) {
        const typename V::T y = V::load(a + i);
#pragma GCC unroll 4
        for (int lane = 0; lane < V::W; ++lane)
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) acc[i + lane][j] += V::spread(y, lane) * x[j];
    }
#pragma GCC unroll 16
    for (int i = by_lane; i < M; ++i) {
        const typename V::T y = V::set(a[i]);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] += y * x[j];
    }
}

// C (M × NV registers) = or += Σ_k a[k * lda + i] · b[k * ldb + lane].
template <class S, int M, int NV>
CMSEI_INLINE void micro(long k, const S* a, long lda, const S* b, long ldb, S* c, long ldc, bool accumulate,
                        Ahead ahead) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
    clear<S>(acc);
    for (; k >= Ahead::kStride; k -= Ahead::kStride) {
        ahead.step();
#pragma GCC unroll 16
        for (int u = 0; u < Ahead::kStride; ++u, a += lda, b += ldb) multiply_add<S>(a, b, acc);
    }
    for (; k > 0; --k, a += lda, b += ldb) multiply_add<S>(a, b, acc);
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
                                         bool accumulate, Ahead ahead) {
    if (nv == 1)
        micro<S, M, 1>(k, a, lda, b, ldb, c, ldc, accumulate, ahead);
    else
        micro<S, M, kNV>(k, a, lda, b, ldb, c, ldc, accumulate, ahead);
}

template <class S>
CMSEI_INLINE void micro_any(int m, int nv, long k, const S* a, long lda, const S* b, long ldb, S* c, long ldc,
                            bool acc, Ahead ahead) {
    with_rows(m, [&](auto rows) { micro_row<S, rows.value>(nv, k, a, lda, b, ldb, c, ldc, acc, ahead); });
}

// quad (NV registers) += Σ_i p_i Σ_{k <= i} g(i, k) p_k over the M rows i of one panel of g, the first of them row
// `first`.
template <class S, int M, int NV>
CMSEI_INLINE void quadratic_panel(long first, const S* g, const S* p, long ldp, typename Simd<S>::T* quad) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
    clear<S>(acc);
#pragma GCC unroll 4
    for (long k = 0; k < first; ++k, g += M, p += ldp) multiply_add<S>(g, p, acc);
    // The panel's own rows are a triangle: each is complete when it has met itself.
#pragma GCC unroll 16
    for (int k = 0; k < M; ++k, g += M, p += ldp)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const typename V::T x = V::load(p + j * V::W);
#pragma GCC unroll 16
            for (int i = k; i < M; ++i) acc[i][j] += V::set(g[i]) * x;
            quad[j] += acc[k][j] * x;
        }
}

// h (M × NV registers) = G · p over the M rows of one panel of g, the first of them row `first` of k; quad += pᵀ h over
// those rows.
template <class S, int M, int NV>
CMSEI_INLINE void gram_panel(long first, long k, const S* g, const S* p, S* h, typename Simd<S>::T* quad) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
    clear<S>(acc);
    const S* own = p + first * kNR<S>;
#pragma GCC unroll 4
    for (; k > 0; --k, g += M, p += kNR<S>) multiply_add<S>(g, p, acc);
    h += first * kNR<S>;
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            quad[j] += acc[i][j] * V::load(own + i * kNR<S> + j * V::W);
            V::store(h + i * kNR<S> + j * V::W, acc[i][j]);
        }
}

template <class S, int M>
__attribute__((noinline)) void quadratic_rows(int nv, long first, const S* g, const S* p, long ldp,
                                              typename Simd<S>::T* quad) {
    if (nv == 1)
        quadratic_panel<S, M, 1>(first, g, p, ldp, quad);
    else
        quadratic_panel<S, M, kNV>(first, g, p, ldp, quad);
}

template <class S, int M>
__attribute__((noinline)) void gram_rows(int nv, long first, long k, const S* g, const S* p, S* h,
                                         typename Simd<S>::T* quad) {
    if (nv == 1)
        gram_panel<S, M, 1>(first, k, g, p, h, quad);
    else
        gram_panel<S, M, kNV>(first, k, g, p, h, quad);
}

// body(rows as a constant, first row) for the panels of a matrix of m rows.
template <class Body> CMSEI_INLINE void each_panel_of_rows(long m, Body body) {
    for (long i = 0; i < m; i += kMR)
        with_rows(m - i < kMR ? static_cast<int>(m - i) : kMR, [&](auto rows) { body(rows, i); });
}

// pᵀ g p for nv registers of columns, with g as the packed lower half of a symmetric matrix (`half` of Gram).
template <class S>
inline void quadratic_form(int nv, long m, const S* g, const S* p, long ldp, typename Simd<S>::T* quad) {
    each_panel_of_rows(m, [&](auto rows, long i) { quadratic_rows<S, rows.value>(nv, i, g + i * m, p, ldp, quad); });
}

// The same of a whole matrix (`panels` of Gram), and h = g p. Rows of p and h are kNR apart.
template <class S>
inline void gram_form(int nv, long m, const S* g, const S* p, S* h, typename Simd<S>::T* quad) {
    each_panel_of_rows(m, [&](auto rows, long i) { gram_rows<S, rows.value>(nv, i, m, g + i * m, p, h, quad); });
}

// The size of the largest part if `whole` is cut as evenly as possible into the fewest parts of at most `most`.
inline long even_part(long whole, long most) {
    const long parts = divide_up(whole, most);
    return parts <= 1 ? whole : divide_up(whole, parts);
}

// Depth of a pass over C: deep enough that C's traffic is small, with a panel of B that nearly fits the first cache.
template <class S> inline long depth_block(long k) {
    const long most = 32768 / (kNR<S> * static_cast<long>(sizeof(S)));
    return k <= most ? k : round_up(even_part(k, most), 8);
}

// A tile's first row, column and element of the depth.
struct Place {
    long row, column, k;
};

// Calls tile(place, rows, registers of columns, depth, a, lda, b, ldb, c, ldc, accumulate, ahead) for the tiles of a
// product of elements E with sums S, `step` of the depth in a pass.
template <class S, class E, class Tile> CMSEI_INLINE void in_tiles(const Gemm<E>& g, S* c, long step, Tile tile) {
    const long parts = divide_up(g.rows, kMR);
    for (long k0 = 0; k0 < g.k || k0 == 0; k0 += step) {
        const bool accumulate = g.accumulate || k0 > 0, last = k0 + step >= g.k;
        const long depth = last ? g.k - k0 : step;
        for (long j = 0, q = 0; j < g.cols; j += kNR<S>, ++q) {
            const int nv = g.cols - j <= Simd<S>::W ? 1 : kNV;
            const E* b = g.b + q * g.b_panel + k0 * g.ldb;
            // B's next panel; behind the last, the first of the next pass or, very likely, of the next product.
            const E* next = j + kNR<S> < g.cols ? b + g.b_panel
                            : last              ? g.b + (q + 1) * g.b_panel
                                                : g.b + (k0 + step) * g.ldb;
            const long bytes = g.ldb == kNR<S> ? depth * kNR<S> * static_cast<long>(sizeof(E)) : 0;
            for (long i = 0, p = 0; i < g.rows; i += kMR, ++p) {
                const int m = g.rows - i < kMR ? static_cast<int>(g.rows - i) : kMR;
                const long lda = g.lda ? g.lda : m;
                tile(Place{i, j, k0}, m, nv, depth, g.a + p * g.a_panel + k0 * lda, lda, b, g.ldb, c + i * g.ldc + j,
                     g.ldc, accumulate, Ahead::part(next, bytes, p, parts));
            }
        }
    }
}

template <class S, class E, class Tile> CMSEI_INLINE void in_tiles(const Gemm<E>& g, S* c, Tile tile) {
    in_tiles(g, c, g.k > 0 ? depth_block<S>(g.k) : 1, tile);
}

template <class S> inline void gemm(const Gemm<S>& g) {
    in_tiles<S>(g, g.c, [](Place, auto... x) { micro_any<S>(x...); });
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
