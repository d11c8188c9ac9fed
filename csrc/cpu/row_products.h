// Inner products of the rows of two matrices whose columns are cut into panels. Included once per instruction set.
#pragma once

#include "micro.h"

namespace cmsei {
namespace CMSEI_ISA {

// Rows of x and of y that meet in a tile of sums, each a register whose lanes are added up at the end.
constexpr int kRowTile = 4, kRowTileOther = CMSEI_REGISTERS == 32 ? 4 : 2;

// out (kRowTile, kRowTileOther) = Σ over the lanes of `registers` of rows x[i] and y[j]; panels of kNR columns are
// `panel` apart.
template <class S>
__attribute__((noinline)) void row_tile(long registers, const S* const* x, const S* const* y, long panel, S* out) {
    using V = Simd<S>;
    constexpr int M = kRowTile, N = kRowTileOther, W = V::W;
    static_assert(M * N % W == 0, "whole registers of sums");
    typename V::T sum[M * N];
#pragma GCC unroll 16
    for (int i = 0; i < M * N; ++i) sum[i] = V::zero();
    const auto add = [&](long at) {
        typename V::T b[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) b[j] = V::load(y[j] + at);
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) {
            const typename V::T a = V::load(x[i] + at);
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) sum[i * N + j] += a * b[j];
        }
    };
    long at = 0;
    for (; registers >= kNV; registers -= kNV, at += panel)
#pragma GCC unroll 2
        for (int v = 0; v < kNV; ++v) add(at + v * W);
    for (int v = 0; v < registers; ++v) add(at + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < M * N; i += W) V::store(out + i, lane_sums<S>(sum + i));
}

// out (m, m), rows of `ld`, += x yᵀ of matrices of m rows, kNR apart in panels. `symmetric`: x yᵀ is symmetric, and
// what belongs above the tiles of the diagonal is added to the mirrored element below, which halves the work.
template <class S>
void add_row_products(long m, long registers, const S* x, const S* y, bool symmetric, S* out, long ld) {
    constexpr int M = kRowTile, N = kRowTileOther;
    alignas(64) S sums[M * N];
    const long panel = m * kNR<S>;
    const S *rows[M], *others[N];
    for (long i = 0; i < m; i += M) {
        for (long k = 0; k < M; ++k) rows[k] = x + (i + k < m ? i + k : m - 1) * kNR<S>;
        const long end = symmetric && i + M < m ? i + M : m;
        for (long j = 0; j < end; j += N) {
            for (long k = 0; k < N; ++k) others[k] = y + (j + k < m ? j + k : m - 1) * kNR<S>;
            row_tile<S>(registers, rows, others, panel, sums);
            const S share = symmetric && j < i ? S(2) : S(1);
            const long high = m - i < M ? m - i : M, wide = m - j < N ? m - j : N;
            for (long r = 0; r < high; ++r)
                for (long c = 0; c < wide; ++c) out[(i + r) * ld + j + c] += share * sums[r * N + c];
        }
    }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
