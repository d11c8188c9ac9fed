// Small matrix products on register tiles, and sums of few weighted rows.
#pragma once

#include "../rounding.h"
#include "../simd.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

#if CMSEI_REGISTERS == 32
constexpr int kTileRows[4] = {0, 8, 8, 8};  // by registers per row
#else
constexpr int kTileRows[4] = {0, 8, 6, 4};
#endif

// One term of C[m, lane] = sum over terms of sum over k of a[m * a_row + k * a_k] * b[k * b_row + lane].
template <class S> struct Product {
    long depth;
    const S* a;
    long a_row, a_k;
    const S* b;
    long b_row;
};

// Rows of memory wanted soon, fetched into the second-level cache a few at a time between the tiles of other work.
struct Ahead {
    struct Rows {
        const char* data;
        long stride, bytes, left;
    };
    Rows rows[8];
    int count, at;

    template <class S> void add(const S* data, long row, long number, long dim) {
        rows[count++] = {reinterpret_cast<const char*>(data), row * static_cast<long>(sizeof(S)),
                         dim * static_cast<long>(sizeof(S)), number};
    }
    CMSEI_INLINE void step(long most) {
        for (; most > 0 && at < count; --most) {
            Rows& r = rows[at];
            for (long n = 0; n < r.bytes; n += 64) __builtin_prefetch(r.data + n, 0, 2);
            r.data += r.stride;
            if (--r.left <= 0) ++at;
        }
    }
};

template <class S, int M, int NV, bool Packed>
__attribute__((noinline)) void tile(const Product<S>* terms, long count, long row, long column, S* c, long c_row,
                                    bool accumulate) {
    using V = Simd<S>;
    typename V::T sum[M][NV];
    clear<S>(sum);
    for (const Product<S>* p = terms; p < terms + count; ++p) {
        const long a_row = Packed ? 1 : p->a_row, a_k = Packed ? p->a_k : 1, b_row = p->b_row;
        const S* a = p->a + row * a_row;
        const S* b = p->b + column;
        for (long k = p->depth; k > 0; --k) {
            typename V::T lanes[NV];
#pragma GCC unroll 8
            for (int n = 0; n < NV; ++n) lanes[n] = V::load(b + n * V::W);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
                const S x = a[m * a_row];
#pragma GCC unroll 8
                for (int n = 0; n < NV; ++n) sum[m][n] += lanes[n] * x;
            }
            a += a_k;
            b += b_row;
        }
    }
    c += row * c_row + column;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m, c += c_row)
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n)
            V::store(c + n * V::W, accumulate ? V::load(c + n * V::W) + sum[m][n] : sum[m][n]);
}

template <class S, int NV, bool Packed>
inline void panel(const Product<S>* terms, long count, long rows, long column, S* c, long c_row, bool accumulate,
                  Ahead& ahead) {
    constexpr int most = kTileRows[NV];
    // Tiles of nearly equal height: a last tile of one row would wait on its own latency.
    const long tiles = divide_up(rows, most);
    for (long t = 0; t < tiles; ++t) {
        const long row = t * rows / tiles;
        const long height = (t + 1) * rows / tiles - row;
        ahead.step(2);
#define CMSEI_TILE(M) \
    case M: tile<S, (M <= most ? M : 1), NV, Packed>(terms, count, row, column, c, c_row, accumulate); break;
        switch (height) {
            CMSEI_TILE(1)
            CMSEI_TILE(2)
            CMSEI_TILE(3)
            CMSEI_TILE(4)
            CMSEI_TILE(5)
            CMSEI_TILE(6)
            CMSEI_TILE(7)
            CMSEI_TILE(8)
        }
#undef CMSEI_TILE
    }
}

// c (rows × lanes, lanes a multiple of the width) = the sum of the products (+ c). Packed: every term's a_row is 1;
// otherwise every a_k is.
template <class S, bool Packed>
inline void gemm(const Product<S>* terms, long count, long rows, long lanes, S* c, long c_row, bool accumulate,
                 Ahead& ahead) {
    constexpr long W = Simd<S>::W;
    for (long column = 0; column < lanes;) {
        const long left = (lanes - column) / W;
        if (left == 1) {
            panel<S, 1, Packed>(terms, count, rows, column, c, c_row, accumulate, ahead);
            column += W;
        } else if (left % 2) {
            panel<S, 3, Packed>(terms, count, rows, column, c, c_row, accumulate, ahead);
            column += 3 * W;
        } else {
            panel<S, 2, Packed>(terms, count, rows, column, c, c_row, accumulate, ahead);
            column += 2 * W;
        }
    }
}

// The first n < W elements, the other lanes 0.
template <class S> CMSEI_INLINE typename Simd<S>::T load_first(const S* p, long n) {
    typename Simd<S>::T v = Simd<S>::zero();
    __builtin_memcpy(&v, p, n * sizeof(S));
    return v;
}

// a · (b + c), or a · b without c.
template <class S, bool WithC> CMSEI_INLINE S dot(const S* a, const S* b, const S* c, long n) {
    using V = Simd<S>;
    constexpr long W = V::W;
    typename V::T sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    long i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) {
            typename V::T x = V::load(b + i + u * W);
            if (WithC) x += V::load(c + i + u * W);
            sum[u] += V::load(a + i + u * W) * x;
        }
    for (; i + W <= n; i += W) {
        typename V::T x = V::load(b + i);
        if (WithC) x += V::load(c + i);
        sum[0] += V::load(a + i) * x;
    }
    if (i < n) {
        typename V::T x = load_first(b + i, n - i);
        if (WithC) x += load_first(c + i, n - i);
        sum[1] += load_first(a + i, n - i) * x;
    }
    return V::sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// Weighted rows base[index[e] * row], e = 0..count-1.
template <class S> struct WeightedRows {
    const S* base;
    long row;
    const int32_t* index;
    const S* weight;
    long count;
};

template <class S, int NV>
CMSEI_INLINE void combine_block(const WeightedRows<S>* terms, long count, long column, S* out, bool accumulate) {
    using V = Simd<S>;
    typename V::T sum[NV];
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) sum[n] = accumulate ? V::load(out + column + n * V::W) : V::zero();
    for (long t = 0; t < count; ++t) {
        const WeightedRows<S>& r = terms[t];
        for (long e = 0; e < r.count; ++e) {
            const S* x = r.base + r.index[e] * r.row + column;
            const S w = r.weight[e];
#pragma GCC unroll 8
            for (int n = 0; n < NV; ++n) sum[n] += V::load(x + n * V::W) * w;
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) V::store(out + column + n * V::W, sum[n]);
}

// Columns of the table that stay in the first-level cache while many rows use them.
template <class S> constexpr long kColumns = 8 * Simd<S>::W;

// out[from..to) = the sum of the weighted rows (+ out).
template <class S>
inline void combine(const WeightedRows<S>* terms, long count, long from, long to, S* out, bool accumulate) {
    using V = Simd<S>;
    constexpr long W = V::W;
    long column = from;
    for (; column + 8 * W <= to; column += 8 * W) combine_block<S, 8>(terms, count, column, out, accumulate);
    for (; column + 2 * W <= to; column += 2 * W) combine_block<S, 2>(terms, count, column, out, accumulate);
    for (; column + W <= to; column += W) combine_block<S, 1>(terms, count, column, out, accumulate);
    if (column == to) return;
    typename V::T sum = accumulate ? load_first(out + column, to - column) : V::zero();
    for (long t = 0; t < count; ++t) {
        const WeightedRows<S>& r = terms[t];
        for (long e = 0; e < r.count; ++e)
            sum += load_first(r.base + r.index[e] * r.row + column, to - column) * r.weight[e];
    }
    __builtin_memcpy(out + column, &sum, (to - column) * sizeof(S));
}

template <class S, int NV>
CMSEI_INLINE void scatter_block(const S* x, const int32_t* index, const S* weight, long count, S* table, long row) {
    using V = Simd<S>;
    typename V::T lanes[NV];
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) lanes[n] = V::load(x + n * V::W);
    for (long e = 0; e < count; ++e) {
        S* to = table + index[e] * row;
#pragma GCC unroll 8
        for (int n = 0; n < NV; ++n) V::store(to + n * V::W, V::load(to + n * V::W) + lanes[n] * weight[e]);
    }
}

// table[index[e] * row] += weight[e] * x over n elements, n a multiple of the width.
template <class S>
inline void scatter_rows(const S* x, long n, const int32_t* index, const S* weight, long count, S* table, long row) {
    constexpr long W = Simd<S>::W;
    long column = 0;
    for (; column + 8 * W <= n; column += 8 * W)
        scatter_block<S, 8>(x + column, index, weight, count, table + column, row);
    for (; column < n; column += W) scatter_block<S, 1>(x + column, index, weight, count, table + column, row);
}

// out[e] = x · table[index[e] * row] over n elements, n a multiple of the width; W rows at a time share the loads of x.
template <class S>
inline void dot_rows(const S* x, long n, const int32_t* index, long count, const S* table, long row, S* out) {
    using V = Simd<S>;
    constexpr int W = V::W;
    long e = 0;
    for (; e + W <= count; e += W) {
        typename V::T sum[W];
        const S* rows[W];
#pragma GCC unroll 16
        for (int u = 0; u < W; ++u) {
            sum[u] = V::zero();
            rows[u] = table + index[e + u] * row;
        }
        for (long column = 0; column < n; column += W) {
            const typename V::T lanes = V::load(x + column);
#pragma GCC unroll 16
            for (int u = 0; u < W; ++u) sum[u] += lanes * V::load(rows[u] + column);
        }
        V::store(out + e, lane_sums<S>(sum));
    }
    for (; e < count; ++e) out[e] = dot<S, false>(x, table + index[e] * row, nullptr, n);
}

}  // namespace relation
}  // namespace CMSEI_ISA
}  // namespace cmsei
