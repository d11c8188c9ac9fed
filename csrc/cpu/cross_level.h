// One side of the cross-level attention: items (regions or words) are weighed by their cosines with the mean of the
// other side, and their weighted sum is compared with that mean. Object–sentence for regions, word–image for words.
// Included once per instruction set.
#pragma once

#include "direction.h"

namespace cmsei {
namespace CMSEI_ISA {

// The means of a matrix's columns, registers of them at a time.
template <class S> inline void column_means(const S* matrix, long rows, long stride, long columns, S* out) {
    using V = Simd<S>;
    for (long v = 0; v < columns; v += V::W) {
        typename V::T even = V::zero(), odd = V::zero();
        for (long i = 0; i + 1 < rows; i += 2) {
            even += V::load(matrix + i * stride + v);
            odd += V::load(matrix + (i + 1) * stride + v);
        }
        if (rows % 2) even += V::load(matrix + (rows - 1) * stride + v);
        V::store(out + v, (even + odd) / static_cast<S>(rows));
    }
}

// Adds to a Gram matrix's gradient what follows from d, the gradients of its rows' lengths, or of their mean's length.
template <class S> inline void length_vjp(const Gram<S>& gram, const S* d, S* d_gram) {
    for (long i = 0; i < gram.m; ++i) d_gram[i * gram.ld + i] += PairMath<Plain<S>>::length_vjp(gram.length[i], d[i]);
}
template <class S> inline void mean_length_vjp(const Gram<S>& gram, S length, S d, S* d_gram) {
    using V = Simd<S>;
    const S share = PairMath<Plain<S>>::length_vjp(length, d) / (static_cast<S>(gram.m) * gram.m);
    if (share == 0) return;
    for (long i = 0; i < gram.m; ++i)
        for (long v = 0; v < gram.ld; v += V::W)
            V::store(d_gram + i * gram.ld + v, V::load(d_gram + i * gram.ld + v) + share);
}

template <class S> struct CrossLevel {
    using V = Simd<S>;
    using M = PairMath<V>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const Gram<S>* gram; // of the items
    S* other;            // (ld) inner products of the items with the other side's mean, zero past the last
    S other_length;      // length of that mean
    S mu;
    S *x, *cosine, *p, *h; // (ld) products with the unit mean, cosines, attention, Gram · attention
    S factor, gamma;       // 1 / max(length, eps) and the length of the unit mean
    S quad, length, dot, score; // dot: of the attended vector and the unit mean, not clamped

    static long size(long ld) { return 5 * ld; }

    void lay_out(Arena<S>& arena) {
        S** const all[] = {&other, &x, &cosine, &p, &h};
        for (S** q : all) *q = arena.take(gram->ld);
    }

    CMSEI_INLINE typename V::Mask lanes(long v) const { return V::first(gram->m - v); }

    void forward() {
        const long n = gram->m, ld = gram->ld;
        factor = One::unit_factor(other_length);
        gamma = other_length * factor;
        T most = V::set(static_cast<S>(-1e30));
        for (long v = 0; v < n; v += W) {
            const T length = V::load(gram->length + v), a = within<V>(V::load(other + v) * factor, length * gamma);
            const T c = M::cosine(a, length, V::set(gamma));
            V::store(x + v, a);
            V::store(cosine + v, c);
            most = V::max(V::select(lanes(v), c, most), most);
        }
        const S largest = V::largest(most);
        T total = V::zero(), product = V::zero(), square = V::zero();
        for (long v = 0; v < n; v += W) {
            const T e = V::select(lanes(v), V::exp(mu * (V::load(cosine + v) - largest)), V::zero());
            V::store(p + v, e);
            total += e;
        }
        const S inverse = 1 / V::sum(total);
        for (long v = 0; v < n; v += W) V::store(p + v, V::load(p + v) * inverse);
        for (long v = 0; v < ld; v += W) {
            T even = V::zero(), odd = V::zero();
            for (long i = 0; i + 1 < n; i += 2) {
                even += p[i] * V::load(gram->rows + i * ld + v);
                odd += p[i + 1] * V::load(gram->rows + (i + 1) * ld + v);
            }
            if (n % 2) even += p[n - 1] * V::load(gram->rows + (n - 1) * ld + v);
            V::store(h + v, even + odd);
        }
        for (long v = 0; v < n; v += W) {
            product += V::load(p + v) * V::load(x + v);
            square += V::load(p + v) * V::load(h + v);
        }
        quad = V::sum(square);
        length = One::length(quad);
        dot = V::sum(product);
        score = One::cosine(within<Plain<S>>(dot, length * gamma), length, gamma);
    }

    // d_p (ld): on entry the gradient from guided aggregation; it is overwritten. Writes d_other (ld); adds to d_length
    // (ld), d_gram (m, ld), d_other_length and d_mu.
    void backward(S d_score, S* d_p, S* d_other, S* d_length, S* d_gram, S& d_other_length, double& d_mu) const {
        const long n = gram->m, ld = gram->ld;
        S d_dot = 0, d_len = 0, d_gamma = 0;
        One::cosine_vjp(score, length, gamma, d_score, d_dot, d_len, d_gamma);
        within_vjp<Plain<S>>(dot, length, gamma, d_dot, d_len, d_gamma);
        const S d_quad = One::length_vjp(length, d_len);
        T mean = V::zero();
        for (long v = 0; v < n; v += W) {
            const T d = V::load(d_p + v) + d_dot * V::load(x + v) + 2 * d_quad * V::load(h + v);
            V::store(d_p + v, d);
            mean += V::load(p + v) * d;
        }
        const S pull = V::sum(mean);
        T gammas = V::zero(), factors = V::zero(), mus = V::zero();
        for (long v = 0; v < n; v += W) {
            const T d_logit = M::softmax_vjp(V::load(p + v), V::load(d_p + v), V::set(pull)), c = V::load(cosine + v);
            T d_x = d_dot * V::load(p + v), d_len_v = V::zero(), d_gamma_v = V::zero();
            const T own = V::load(gram->length + v), with = V::load(other + v);
            M::cosine_vjp(c, own, V::set(gamma), mu * d_logit, d_x, d_len_v, d_gamma_v);
            within_vjp<V>(with * factor, own, V::set(gamma), d_x, d_len_v, d_gamma_v);
            mus += d_logit * c;
            gammas += d_gamma_v;
            factors += d_x * with;
            V::store(d_other + v, d_x * factor);
            V::store(d_length + v, V::load(d_length + v) + d_len_v);
        }
        d_mu += V::sum(mus);
        d_gamma += V::sum(gammas);
        const S d_factor = V::sum(factors) + d_gamma * other_length;
        d_other_length += d_gamma * factor + One::unit_factor_vjp(other_length, d_factor);
        if (d_quad != 0)
            for (long i = 0; i < n; ++i)
                for (long v = 0; v < n; v += W)
                    V::store(d_gram + i * ld + v,
                             V::load(d_gram + i * ld + v) + d_quad * p[i] * V::load(p + v));
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
