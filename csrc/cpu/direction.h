// One direction of attention between one image and one caption, from their inner products to its score. Queries lie
// along the lanes, the context along the rows; t2i reads the block as the product leaves it, i2t its transpose. Lanes
// past the last query hold zero inner products. Included once per instruction set.
#pragma once

#include "../include/pair_math.h"
#include "pack.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct Arena {
    S* next;
    S* take(long n) {
        S* p = next;
        next += round_up(n, Simd<S>::W);
        return p;
    }
};

// One attention step's values, kept for the backward pass.
template <class S> struct Step {
    S *a, *p, *h;                  // (m, ld) inner products, attention, Gram · attention
    S *shift, *scale;              // (m) of the normalisation: exp(a - shift) * scale, or a * scale
    S *factor;                     // (m) temperature * scale * log2(e), for exp2
    S *q, *dot, *u, *r;            // (ld) |Q|, Q·U, |U|, relevance
    S *gate, *x, *y, *norm, *alpha, *beta; // (ld) of the refinement that follows
    // Of a negative-aware direction, whose only step leaves the memory of a refinement free: the softmax over all items
    // (m, ld), where `p` has the weights above the threshold; the largest inner product less the threshold, and where
    // it is; what is added to the cosine; whether a mismatch counts (1 or 0).
    S *soft, *best, *choice, *extra, *miss;
};

// How inner products enter the normalisation: as their exp (less the largest), unchanged, or clipped.
enum class Shape { kExponential, kAsIs, kLeaky };

template <class S> struct Direction {
    using V = Simd<S>;
    using M = PairMath<V>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    static constexpr int W = V::W;

    long n, m, ld, m_padded; // queries, context, padded lanes, padded rows
    int norm, aggregate, steps, how, relevance_kind; // `how`: an Attend
    S temperature, lse, threshold;
    const S (*gates)[2];
    const Gram<S> *context, *queries;
    const S* guide; // (ld) weights of guided aggregation, zero past n
    Step<S> step[kMaxSteps];

    static long step_size(long m_padded, long ld, bool aware) {
        return (aware ? 4 : 3) * m_padded * ld + 3 * m_padded + 10 * ld;
    }

    void lay_out(Arena<S>& arena, bool keep) {
        for (int k = 0; k < steps; ++k) {
            if (k > 0 && !keep) {
                step[k] = step[0];
                continue;
            }
            S* p = arena.take(step_size(m_padded, ld, how == kNegativeAware));
            Step<S>& s = step[k];
            S** const matrices[] = {&s.a, &s.p, &s.h};
            S** const rows[] = {&s.shift, &s.scale, &s.factor};
            S** const lane[] = {&s.q, &s.dot, &s.u, &s.r, &s.gate, &s.x, &s.y, &s.norm, &s.alpha, &s.beta};
            for (S** x : matrices) *x = p, p += m_padded * ld;
            for (S** x : rows) *x = p, p += m_padded;
            for (S** x : lane) *x = p, p += ld;
            s.soft = p; // the last
            s.best = s.gate, s.choice = s.x, s.extra = s.y, s.miss = s.norm;
        }
    }

    CMSEI_INLINE typename V::Mask lanes(long v) const { return V::first(n - v); }

    // Σ_c term(c) over the context, as sums side by side, so that an addition need not wait for the one before.
    template <class Term> static CMSEI_INLINE T over_rows(long m, Term term) {
        T even = V::zero(), odd = V::zero();
        for (long c = 0; c + 1 < m; c += 2) {
            even += term(c);
            odd += term(c + 1);
        }
        if (m % 2) even += term(m - 1);
        return even + odd;
    }

    // The inner products as the norm takes them, before they are scaled.
    template <Shape shape> static CMSEI_INLINE T shaped(T a, S shift) {
        // The difference is above 0 only in lanes past the last query.
        if constexpr (shape == Shape::kExponential) return V::exp(V::min(a - shift, V::zero()));
        if constexpr (shape == Shape::kAsIs) return a;
        return M::leaky(a);
    }
    template <Shape shape> static CMSEI_INLINE T normalised(T a, S shift, S scale) {
        return shaped<shape>(a, shift) * scale;
    }
    template <class Body> CMSEI_INLINE void with_shape(Body body) const {
        if (norm == kSoftmax)
            body(std::integral_constant<Shape, Shape::kExponential>());
        else if (is_clipped(norm))
            body(std::integral_constant<Shape, Shape::kLeaky>());
        else
            body(std::integral_constant<Shape, Shape::kAsIs>());
    }

    void normalise(const Step<S>& s) const {
        find_scale(s);
        const S f = temperature * static_cast<S>(kLog2E);
        for (long c = 0; c < m_padded; c += W) V::store(s.factor + c, V::load(s.scale + c) * f);
    }

    void find_scale(const Step<S>& s) const {
        if (is_plain(norm)) {
            for (long c = 0; c < m_padded; ++c) s.scale[c] = 1;
            return;
        }
        if (norm == kSoftmax) {
            for (long c = 0; c < m; ++c) {
                const S* a = s.a + c * ld;
                T best = V::set(a[0]), total = V::zero();
                for (long v = 0; v < n; v += W) best = V::max(V::select(lanes(v), V::load(a + v), best), best);
                const S most = V::largest(best);
                for (long v = 0; v < n; v += W)
                    total += V::select(lanes(v), V::exp(V::load(a + v) - most), V::zero());
                s.shift[c] = most;
                s.scale[c] = 1 / V::sum(total);
            }
            return;
        }
        if (is_l2(norm))
            is_clipped(norm) ? find_size<true, true>(s) : find_size<true, false>(s);
        else
            is_clipped(norm) ? find_size<false, true>(s) : find_size<false, false>(s);
    }

    // W rows at a time; rows past the last repeat the last one.
    template <bool squares, bool clip> void find_size(const Step<S>& s) const {
        const auto sized = [](const S* a) {
            const T x = clip ? M::leaky(V::load(a)) : V::load(a);
            return squares ? x * x : V::abs(x);
        };
        for (long c = 0; c < m; c += W) {
            const S* row[W];
            T total[W];
#pragma GCC unroll 16
            for (long i = 0; i < W; ++i) {
                row[i] = s.a + (c + i < m ? c + i : m - 1) * ld;
                total[i] = sized(row[i]);
            }
            for (long v = W; v < n; v += W)
#pragma GCC unroll 16
                for (long i = 0; i < W; ++i) total[i] += sized(row[i] + v);
            V::store(s.scale + c, M::size_scale(squares, lane_sums<S>(total)));
        }
    }

    // Attention over the context and Q·U, registers of queries at a time.
    template <Shape shape> void attend(const Step<S>& s) const {
        is_bounded(norm, temperature) ? attend<shape, true>(s) : attend<shape, false>(s);
    }
    template <Shape shape, bool bounded> void attend(const Step<S>& s) const {
        for (long v = 0; v < n; v += W) {
            T shift = V::zero();
            if (!bounded) {
                shift = shaped<shape>(V::load(s.a + v), s.shift[0]) * s.factor[0];
                for (long c = 1; c < m; ++c)
                    shift = V::max(shift, shaped<shape>(V::load(s.a + c * ld + v), s.shift[c]) * s.factor[c]);
            }
            T total = V::zero(), dot = V::zero();
            for (long c = 0; c < m; ++c) {
                const T a = V::load(s.a + c * ld + v);
                const T logit = shaped<shape>(a, s.shift[c]) * s.factor[c];
                // Round the logit before subtracting the maximum, so that the largest exponent is exactly 0: a fused
                // multiply-add would leave the rounding error of a logit of 1e10, up to 512, and exp2 makes 2^512 of
                // that.
                const T e = bounded ? V::exp2_within(logit) : V::exp2(V::rounded(logit) - shift);
                V::store(s.p + c * ld + v, e);
                total += e;
                dot += e * a;
            }
            if (is_focal(how)) continue;
            const T inverse = 1 / total;
            for (long c = 0; c < m; ++c) V::store(s.p + c * ld + v, V::load(s.p + c * ld + v) * inverse);
            V::store(s.dot + v, dot * inverse);
        }
    }

    // From the softmax's weights, not yet divided by their sum, to those that are above their mean, and Q·U.
    template <bool prob> void focus(const Step<S>& s) const {
        for (long v = 0; v < n; v += W) {
            T weighted = V::zero(), confident = V::zero(), total = V::zero(), dot = V::zero();
            for (long c = 0; c < m; ++c) {
                const T p = V::load(s.p + c * ld + v), g = M::confidence(prob, p);
                weighted += p * g;
                confident += g;
            }
            const T least = M::focal_least(weighted, confident);
            for (long c = 0; c < m; ++c) {
                const T p = M::focal(V::load(s.p + c * ld + v), least);
                V::store(s.p + c * ld + v, p);
                total += p;
                dot += p * V::load(s.a + c * ld + v);
            }
            const T inverse = 1 / total;
            for (long c = 0; c < m; ++c) V::store(s.p + c * ld + v, V::load(s.p + c * ld + v) * inverse);
            V::store(s.dot + v, dot * inverse);
        }
    }

    // For each lane, the largest of m numbers a, `ld` apart, and the first place where it is. NaN if any of them is not
    // finite: 0 times it is NaN.
    struct Largest {
        T value, place;
    };
    CMSEI_INLINE Largest largest(const S* a) const {
        T value = V::load(a), place = V::zero(), nothing = value * 0;
        for (long c = 1; c < m; ++c) {
            const T x = V::load(a + c * ld);
            place = V::select(x > value, V::set(static_cast<S>(c)), place);
            value = V::max(x, value);
            nothing += x * 0;
        }
        return {value + nothing, place};
    }

    // Hard attention: Q·U, |U| and the relevance of the one item chosen; with `attention`, its weights too.
    void choose(const Step<S>& s, bool first, bool attention) const {
        for (long v = 0; v < n; v += W) {
            const Largest found = largest(s.a + v);
            T u = V::zero();
            for (long c = 0; c < m; ++c) {
                const auto here = found.place == static_cast<S>(c);
                u = V::select(here, V::set(context->length[c]), u);
                if (attention) V::store(s.p + c * ld + v, V::select(here, V::set(1), V::zero()));
            }
            const T q = V::load(s.q + v);
            V::store(s.dot + v, found.value);
            V::store(s.u + v, u);
            const T held = within<V>(found.value, q * u);
            V::store(s.r + v, M::relevance(relevance_kind, first, found.value, held, q, u));
        }
    }

    // Negative-aware attention: the weights of the items above the threshold, from the inner products alone, and what
    // the relevance has besides the cosine.
    void match(const Step<S>& s) const {
        const S f = temperature * static_cast<S>(kLog2E);
        for (long v = 0; v < n; v += W) {
            const Largest found = largest(s.a + v);
            T total = V::zero(), dot = V::zero();
            for (long c = 0; c < m; ++c) {
                const T a = V::load(s.a + c * ld + v), p = M::above(a, threshold, V::exp2(f * (a - found.value)));
                V::store(s.p + c * ld + v, p);
                total += p;
                dot += p * a;
            }
            const T inverse = M::matched_factor(total);
            for (long c = 0; c < m; ++c) V::store(s.p + c * ld + v, V::load(s.p + c * ld + v) * inverse);
            V::store(s.dot + v, dot * inverse);
            V::store(s.best + v, found.value - threshold);
            V::store(s.choice + v, found.place);
        }
        for (long v = 0; v < n; v += W) {
            const S* alike = queries->rows + v;
            T most = V::load(alike), agreed = V::zero();
            for (long k = 1; k < n; ++k) most = V::max(V::load(alike + k * ld), most);
            for (long k = 0; k < n; ++k)
                agreed += V::exp((S)kIntraTemperature * (V::load(alike + k * ld) - most)) * s.best[k];
            V::store(s.miss + v, M::mismatch(agreed, V::set(1)));
            V::store(s.extra + v, V::load(s.extra + v) + M::mismatch(agreed, V::load(s.best + v)));
        }
    }

    // The softmax of a negative-aware direction and its Q·U.
    Step<S> soft_step(const Step<S>& s) const {
        Step<S> soft = s;
        soft.p = s.soft;
        soft.dot = s.extra;
        return soft;
    }

    template <class Body> void each_lane(Body body) const {
        for (long v = 0; v < n; v += W) body(v);
    }

    void gram_product(const Step<S>& s) const {
        gemm(Gemm<S>{context->panels, kMR * m, 0, s.p, kNR<S>, ld, s.h, ld, m, n, m});
    }

    // The relevance alone: |U|² is formed while the product with the Gram matrix is in registers, and h is not written.
    void last_relevance(const Step<S>& s) const {
        for (long v = 0; v < n; v += kNR<S>) {
            T quad[kNV] = {};
            quadratic_form(n - v <= W ? 1 : kNV, m, context->half, s.p + v, ld, quad);
            for (int j = 0; j < kNV && v + j * W < n; ++j) {
                const long q = v + j * W;
                const T length = V::load(s.q + q), u = M::length(quad[j]);
                const T held = within<V>(V::load(s.dot + q), length * u);
                V::store(s.r + q, relevance_kind == kDot ? held : M::cosine(held, length, u));
            }
        }
    }

    // Whether the step's attended vectors need the Gram matrix.
    bool needs_gram(int k) const { return cmsei::needs_gram(how, relevance_kind, k == 0, k + 1 < steps); }

    void relevance(const Step<S>& s, bool first) const {
        for (long v = 0; v < n; v += W) {
            T quad = V::zero();
            for (long c = 0; c < m; ++c) quad += V::load(s.p + c * ld + v) * V::load(s.h + c * ld + v);
            const T u = M::length(quad), q = V::load(s.q + v), dot = V::load(s.dot + v);
            V::store(s.u + v, u);
            V::store(s.r + v, M::relevance(relevance_kind, first, dot, within<V>(dot, q * u), q, u));
        }
    }

    void refine(const Step<S>& s, const Step<S>& next, const S* gate) const {
        for (long v = 0; v < n; v += W) {
            const T q = V::load(s.q + v), u = V::load(s.u + v);
            const auto f = M::refine(gate[0], gate[1], V::load(s.r + v), q, u,
                                     within<V>(V::load(s.dot + v), q * u));
            V::store(s.gate + v, f.gate);
            V::store(s.x + v, f.x);
            V::store(s.y + v, f.y);
            V::store(s.norm + v, f.norm);
            V::store(s.alpha + v, f.alpha);
            V::store(s.beta + v, f.beta);
            V::store(next.q + v, f.length);
            const auto valid = lanes(v);
            for (long c = 0; c < m; ++c) {
                const T a = f.alpha * V::load(s.a + c * ld + v) + f.beta * V::load(s.h + c * ld + v);
                V::store(next.a + c * ld + v, V::select(valid, a, V::zero()));
            }
        }
    }

    S aggregated(const S* r) const {
        T total = V::zero();
        if (aggregate == kMax) {
            S most = r[0];
            for (long i = 0; i < n; ++i) {
                if (r[i] != r[i]) return r[i];
                most = r[i] > most ? r[i] : most;
            }
            return most;
        }
        if (aggregate == kLse) {
            T best = V::set(r[0]);
            for (long v = 0; v < n; v += W) best = V::max(V::select(lanes(v), V::load(r + v), best), best);
            const S most = V::largest(best);
            for (long v = 0; v < n; v += W)
                total += V::select(lanes(v), M::lse_share(lse, V::load(r + v), V::set(most)), V::zero());
            return One::lse_value(lse, most, V::sum(total));
        }
        for (long v = 0; v < n; v += W) {
            const T x = V::load(r + v);
            total += aggregate == kGuided ? x * V::load(guide + v) : V::select(lanes(v), x, V::zero());
        }
        return aggregate == kMean ? V::sum(total) / n : V::sum(total);
    }

    // The caller has filled in step[0].a and step[0].q. `keep`: keeps every step's values for backward().
    S forward(bool keep) const {
        S score = 0;
        for (int k = 0; k < steps; ++k) {
            const Step<S>& s = step[k];
            const bool last = k + 1 == steps;
            if (how == kHard) {
                choose(s, k == 0, keep || !last);
            } else {
                const Step<S> soft = how == kNegativeAware ? soft_step(s) : s;
                normalise(s);
                with_shape([&](auto shape) { attend<shape.value>(soft); });
                if (how == kFocalEqual) focus<false>(s);
                if (how == kFocalProb) focus<true>(s);
                if (how == kNegativeAware) match(s);
            }
            if (!needs_gram(k)) {
                if (how != kHard) each_lane([&](long v) { V::store(s.r + v, V::load(s.dot + v)); });
            } else if (keep || !last) {
                gram_product(s);
                relevance(s, k == 0);
            } else {
                last_relevance(s);
            }
            if (how == kNegativeAware)
                each_lane([&](long v) { V::store(s.r + v, V::load(s.r + v) + V::load(s.extra + v)); });
            score += aggregated(s.r);
            if (!last) refine(s, step[k + 1], gates[k]);
        }
        return score / steps;
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
