// Hard attention of queries side by side to one context: the first row with the largest inner product. Included once
// per instruction set.
#pragma once

#include "pack.h"

namespace cmsei {
namespace CMSEI_ISA {

// For NV registers of queries: the largest inner product, NaN if any of the query's is not finite (0 times it is NaN);
// the length and the index of the row that has it.
template <class S, int NV> struct Chosen {
    typename Simd<S>::T dot[NV], length[NV], place[NV];
};

// `block`: inner products (context, queries). `lengths`, `places`: whether these are computed.
template <class S, int NV, bool lengths, bool places>
CMSEI_INLINE Chosen<S, NV> chosen(const Gram<S>& context, const S* block, long stride) {
    using V = Simd<S>;
    using T = typename V::T;
    Chosen<S, NV> x;
    T nothing[NV];
#pragma GCC unroll 2
    for (int k = 0; k < NV; ++k) {
        x.dot[k] = V::load(block + k * V::W);
        nothing[k] = x.dot[k] * 0;
        x.length[k] = lengths ? V::set(context.length[0]) : V::zero();
        x.place[k] = V::zero();
    }
    for (long i = 1; i < context.m; ++i) {
        block += stride;
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T a = V::load(block + k * V::W);
            const auto larger = a > x.dot[k];
            if (lengths) x.length[k] = V::select(larger, V::set(context.length[i]), x.length[k]);
            if (places) x.place[k] = V::select(larger, V::set(static_cast<S>(i)), x.place[k]);
            x.dot[k] = V::max(a, x.dot[k]);
            nothing[k] += a * 0;
        }
    }
#pragma GCC unroll 2
    for (int k = 0; k < NV; ++k) x.dot[k] += nothing[k];
    return x;
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
