// The product of a matrix that is nearly all zero: in hard attention's gradient each query has one element per item.
// Included once per instruction set.
#pragma once

#include "micro.h"

namespace cmsei {
namespace CMSEI_ISA {

// Lists the elements (i, k) of d (rows, depth) that are not zero, k in order for each i: d[i * ld + k] or, transposed,
// d[k * ld + i]; a register's lanes past the last are read. Returns how many they are, or more than `most`.
template <class S>
long nonzeros(const S* d, long ld, bool transposed, long rows, long depth, long most, const Nonzeros<S>& out) {
    using V = Simd<S>;
    using Mask = typename V::Mask;
    using Int = typename V::Int;
    constexpr long W = V::W, kBlock = 16 * W;
    Mask lane;
    for (int v = 0; v < W; ++v) lane[v] = v;
    // A few registers are enough to recognise most matrices that are not nearly all zero.
    constexpr long kSamples = 8;
    long seen = 0;
    for (long n = 0; n < kSamples && rows * depth > 0; ++n) {
        const long i = rows * n / kSamples, k = depth * n / kSamples;
        const typename V::T x = V::load(transposed ? d + k * ld + i : d + i * ld + k);
        seen += V::count((x != V::zero()) & V::first(transposed ? rows - i : depth - k));
    }
    if (seen > kSamples * W / 2) return most + 1;
    long count = 0;
    // Lists the elements of the first `left` lanes that are not zero: their index along the lanes starts at `at`, their
    // other index is `other`.
    const auto take = [&](const S* from, long left, long at, long other) {
        const typename V::T x = V::load(from);
        const Mask which = (x != V::zero()) & V::first(left);
        const Mask along = lane + static_cast<Int>(at), across = Mask{} + static_cast<Int>(other);
        V::compress(out.value + count, which, x);
        V::compress((transposed ? out.i : out.k) + count, which, (typename V::T)along);
        V::store((transposed ? out.k : out.i) + count, (typename V::T)across);
        count += V::count(which);
    };
    if (transposed) {
        for (long k = 0; k < depth && count <= most; ++k)
            for (long i = 0; i < rows && count <= most; i += W) take(d + k * ld + i, rows - i, i, k);
        return count;
    }
    // Blocks of columns, for all rows: a product then uses the same rows of its other side again while they are in the
    // cache.
    for (long k0 = 0; k0 < depth; k0 += kBlock) {
        const long end = k0 + kBlock < depth ? k0 + kBlock : depth;
        for (long i = 0; i < rows && count <= most; ++i)
            for (long k = k0; k < end && count <= most; k += W) take(d + i * ld + k, end - k, k, i);
    }
    return count;
}

// C (rows, cols) = the matrix of these elements times B, whose panels and C's columns are as in Gemm, whole panels of
// them.
template <class S>
void nonzero_gemm(const Nonzeros<S>& d, long count, const S* b, long b_panel, S* c, long ldc, long rows, long cols) {
    using V = Simd<S>;
    const auto place = [](const S* bits) {
        typename V::Int at;
        __builtin_memcpy(&at, bits, sizeof at);
        return static_cast<long>(at);
    };
    for (long j = 0; j < cols; j += kNR<S>, b += b_panel, c += kNR<S>) {
        for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
            for (int v = 0; v < kNV; ++v) V::store(c + i * ldc + v * V::W, V::zero());
        for (long n = 0; n < count; ++n) {
            const typename V::T x = V::set(d.value[n]);
            const S* from = b + place(d.k + n) * kNR<S>;
            S* to = c + place(d.i + n) * ldc;
#pragma GCC unroll 2
            for (int v = 0; v < kNV; ++v)
                V::store(to + v * V::W, V::load(to + v * V::W) + x * V::load(from + v * V::W));
        }
    }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
