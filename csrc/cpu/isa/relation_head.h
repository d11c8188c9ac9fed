// One head of one image, what forward and backward share: its rows packed, the softmax over the edges, the weights
// summed by bin, and what is fetched ahead.
#pragma once

#include <limits>

#include "../../include/lowest_logit.h"
#include "relation_gemm.h"
#include "relation_plan.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

using cmsei::relation::kLowestLogit;

// The (R, d) matrix of one head.
template <class S> struct Rows {
    S* data;
    long row;
};

template <class S> CMSEI_INLINE Rows<S> head_rows(const RelationTensor<S>& t, long image, long head) {
    return {t.data + image * t.image + head * t.head, t.row};
}

// dst (padded rows × padded columns) = src (rows × dim) and zeros. False if an element is infinite or NaN.
template <class S>
bool pack(const Rows<const S>& src, long rows, long dim, long padded_rows, long padded, S* dst) {
    using V = Simd<S>;
    constexpr long W = V::W;
    typename V::T check = V::zero();
    for (long i = 0; i < rows; ++i) {
        const S* from = src.data + i * src.row;
        S* to = dst + i * padded;
        long c = 0;
        for (; c + W <= dim; c += W) {
            const typename V::T x = V::load(from + c);
            V::store(to + c, x);
            check += x * 0;
        }
        if (c < dim) {
            const typename V::T x = load_first(from + c, dim - c);
            V::store(to + c, x);
            check += x * 0;
        }
    }
    for (long n = rows * padded; n < padded_rows * padded; n += W) V::store(dst + n, V::zero());
    return V::sum(check) == 0;
}

template <class S> inline void unpack(const S* src, long padded, long rows, long dim, const Rows<S>& dst) {
    for (long i = 0; i < rows; ++i)
        for (long c = 0; c < dim; ++c) dst.data[i * dst.row + c] = src[i * padded + c];
}

template <class S> CMSEI_INLINE typename Simd<S>::Mask edge_mask(const int32_t* label) {
    typedef int32_t Labels __attribute__((vector_size(Simd<S>::W * sizeof(int32_t))));
    Labels l;
    __builtin_memcpy(&l, label, sizeof l);
    return __builtin_convertvector(l != 0, typename Simd<S>::Mask);
}

template <class S> CMSEI_INLINE typename Simd<S>::T gather(const S* table, const int32_t* index) {
    typename Simd<S>::T v;
    for (int i = 0; i < Simd<S>::W; ++i) v[i] = table[index[i]];
    return v;
}

template <class S> S logit_scale(long dim) { return static_cast<S>(1 / __builtin_sqrt(static_cast<double>(dim))); }

// score (keys × lanes of block): the inner products q · k in, the attention weights out. A query without an edge: 0;
// one whose logits are all -inf: NaN.
template <class S, bool Bias, bool Confidence>
void softmax_block(const Plan<S>& plan, long block, S scale, const S* bias, S* score) {
    using V = Simd<S>;
    using T = typename V::T;
    const long R = plan.rows, L = plan.lanes;
    for (long n = 0; n < L; n += V::W) {
        const int32_t* label = plan.label + block * R * L + n;
        const S* log_confidence = plan.log_confidence + block * R * L + n;
        S* s = score + n;
        T top = V::set(kLowestLogit<S>);
        for (long j = 0; j < R; ++j) {
            T x = V::load(s + j * L) * scale;
            if (Bias) x += gather(bias, label + j * L);
            if (Confidence) x += V::load(log_confidence + j * L);
            V::store(s + j * L, x);
            top = V::max(top, V::select(edge_mask<S>(label + j * L), x, top));
        }
        T sum = V::zero();
        for (long j = 0; j < R; ++j) {
            const T e = V::exp(V::load(s + j * L) - top);
            const T p = V::select(edge_mask<S>(label + j * L), e, V::zero());
            V::store(s + j * L, p);
            sum += p;
        }
        const T none = V::set(std::numeric_limits<S>::quiet_NaN());
        const T inverse = V::select(sum == 0, V::zero(), V::select(top > kLowestLogit<S>, 1 / sum, none));
        for (long j = 0; j < R; ++j) V::store(s + j * L, V::load(s + j * L) * inverse);
    }
}

template <class S>
inline void softmax_block(const Plan<S>& plan, const RelationInputs<S>& in, long head, long block, S scale, S* score) {
    const S* bias = in.bias + (in.bias ? head * in.labels : 0);
    if (in.bias && in.confidence)
        softmax_block<S, true, true>(plan, block, scale, bias, score);
    else if (in.bias)
        softmax_block<S, true, false>(plan, block, scale, bias, score);
    else if (in.confidence)
        softmax_block<S, false, true>(plan, block, scale, bias, score);
    else
        softmax_block<S, false, false>(plan, block, scale, bias, score);
}

// weight[e - first] for the edges e of one query, q its row; weight has room for a register beyond the last edge.
template <class S>
inline void softmax_edges(const Plan<S>& plan, const RelationInputs<S>& in, long head, long query, S scale, const S* q,
                          const Rows<const S>& k, S* weight) {
    using V = Simd<S>;
    const long first = plan.edge_begin[query], count = plan.edge_begin[query + 1] - first;
    S top = kLowestLogit<S>;
    for (long e = 0; e < count; ++e) {
        S x = dot<S, false>(q, k.data + plan.edge_key[first + e] * k.row, nullptr, in.dim) * scale;
        if (in.bias) x += in.bias[head * in.labels + plan.edge_label[first + e]];
        if (in.confidence) x += plan.edge_log_confidence[first + e];
        weight[e] = x;
        top = x > top ? x : top;
    }
    for (long e = count; e % V::W; ++e) weight[e] = kLowestLogit<S>;
    S sum = 0;
    for (long e = 0; e < count; e += V::W) V::store(weight + e, V::exp(V::load(weight + e) - top));
    for (long e = 0; e < count; ++e) sum += weight[e];
    if (!(top > kLowestLogit<S>)) sum = std::numeric_limits<S>::quiet_NaN();
    for (long e = 0; e < count; ++e) weight[e] /= sum;
}

// bins = the block's weights, summed by bin.
template <class S> void fill_bins(const Plan<S>& plan, long block, const S* weight, S* bins) {
    const long elements = plan.rows * plan.lanes;
    const int32_t* bin = plan.bin + block * elements;
    const long used = plan.by_row ? plan.slots(block) + plan.lanes : plan.labels * plan.lanes;
    for (long n = 0; n < used; ++n) bins[n] = 0;
    for (long e = 0; e < elements; ++e) bins[bin[e]] += weight[e];
}

template <class S, class T>
void add_ahead(Ahead& ahead, const RelationInputs<S>& in, const RelationTensor<T>& t, long image, long head) {
    const Rows<T> rows = head_rows(t, image, head);
    ahead.add(rows.data, rows.row, in.rows, in.dim);
}

template <class S> void add_next(Ahead& ahead, const RelationInputs<S>& in, long image, long head) {
    add_ahead(ahead, in, in.k, image, head);
    add_ahead(ahead, in, in.v, image, head);
    add_ahead(ahead, in, in.q, image, head);
}

}  // namespace relation
}  // namespace CMSEI_ISA
}  // namespace cmsei
