// From the inner products of one image and one caption to their score, and back. Queries lie along the lanes, the
// context along the rows; t2i reads the block as the product leaves it, i2t its transpose. Lanes past the last query
// hold zero inner products. Included once per instruction set.
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
    S *factor;                     // (m) temperature * scale, for powers of two
    S *q, *dot, *quad, *u, *r;     // (ld) |Q|, Q·U, |U|², |U|, relevance
    S *gate, *x, *y, *norm, *alpha, *beta; // (ld) of the refinement that follows
    // Of a negative-aware direction, whose only step takes the refinement's place: its softmax, which `p` is not, (m, ld);
    // largest product less the threshold and where it is; what it adds to the relevance, and of that the mismatch.
    S *soft, *best, *choice, *extra, *miss;
};

template <class S> struct Direction {
    using V = Simd<S>;
    using M = PairMath<V>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    static constexpr int W = V::W;

    long n, m, ld, m_padded; // queries, context, padded lanes, padded rows
    int norm, aggregate, steps, how, relevance_kind; // `how` it attends
    S temperature, lse, threshold;
    const S (*gates)[2];
    const Gram<S> *context, *queries;
    const S* guide; // (ld) weights of guided aggregation, zero past n
    Step<S> step[kMaxSteps];

    static long step_size(long m_padded, long ld, bool aware) {
        return (aware ? 4 : 3) * m_padded * ld + 3 * m_padded + 11 * ld;
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
            S** const lane[] = {&s.q, &s.dot, &s.quad, &s.u, &s.r, &s.gate, &s.x, &s.y, &s.norm, &s.alpha, &s.beta};
            for (S** x : matrices) *x = p, p += m_padded * ld;
            for (S** x : rows) *x = p, p += m_padded;
            for (S** x : lane) *x = p, p += ld;
            s.soft = p; // the last
            s.best = s.gate, s.choice = s.x, s.extra = s.y, s.miss = s.norm;
        }
    }

    CMSEI_INLINE typename V::Mask lanes(long v) const { return V::first(n - v); }

    // The inner products before they are scaled, kind 0: softmax over queries, 1: as they are, 2: leaky.
    template <int kind> static CMSEI_INLINE T shaped(T a, S shift) {
        if constexpr (kind == 0) return V::exp(V::min(a - shift, V::zero())); // beyond 0 in lanes that are no query
        if constexpr (kind == 1) return a;
        return M::leaky(a);
    }
    template <int kind> static CMSEI_INLINE T normalised(T a, S shift, S scale) { return shaped<kind>(a, shift) * scale; }
    template <class Body> CMSEI_INLINE void with_kind(Body body) const {
        if (norm == kSoftmax)
            body(std_int<0>());
        else if (is_clipped(norm))
            body(std_int<2>());
        else
            body(std_int<1>());
    }
    template <int value_> struct std_int { static constexpr int value = value_; };

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

    // A register of rows at a time, whose lanes are summed together; past the last row, that one again.
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
    template <int kind> void attend(const Step<S>& s) const {
        is_bounded(norm, temperature) ? attend<kind, true>(s) : attend<kind, false>(s);
    }
    template <int kind, bool bounded> void attend(const Step<S>& s) const {
        for (long v = 0; v < n; v += W) {
            T shift = V::zero();
            if (!bounded) {
                shift = shaped<kind>(V::load(s.a + v), s.shift[0]) * s.factor[0];
                for (long c = 1; c < m; ++c)
                    shift = V::max(shift, shaped<kind>(V::load(s.a + c * ld + v), s.shift[c]) * s.factor[c]);
            }
            T total = V::zero(), dot = V::zero();
            for (long c = 0; c < m; ++c) {
                const T a = V::load(s.a + c * ld + v);
                const T logit = shaped<kind>(a, s.shift[c]) * s.factor[c];
                // The largest must be at 0 exactly: of a logit of 1e10 what its rounding left out is a power of 2^512.
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

    // The largest of m numbers a, `stride` apart, for each lane, and the first place where it is; NaN if one is.
    struct Largest {
        T value, place;
    };
    CMSEI_INLINE Largest largest(const S* a) const {
        T value = V::load(a), place = V::zero(), sum = value;
        for (long c = 1; c < m; ++c) {
            const T x = V::load(a + c * ld);
            place = V::select(x > value, V::set(static_cast<S>(c)), place);
            value = V::max(x, value);
            sum += x;
        }
        return {V::select(sum == sum, value, sum), place};
    }

    // Hard attention: Q·U, |U|² and |U| of the one item chosen, and the attention where it is asked for.
    void choose(const Step<S>& s, bool attention) const {
        for (long v = 0; v < n; v += W) {
            const Largest found = largest(s.a + v);
            T u = V::zero();
            for (long c = 0; c < m; ++c) {
                const auto here = found.place == static_cast<S>(c);
                u = V::select(here, V::set(context->length[c]), u);
                if (attention) V::store(s.p + c * ld + v, V::select(here, V::set(1), V::zero()));
            }
            V::store(s.dot + v, found.value);
            V::store(s.u + v, u);
            V::store(s.quad + v, u * u);
            V::store(s.r + v, M::relevance(relevance_kind, found.value, V::load(s.q + v), u));
        }
    }

    // Negative-aware attention: that of what is above the threshold, from the inner products alone, and what the
    // relevance has besides the cosine.
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

    // |U|² and the relevance alone: the Gram matrix's product is met by the attention while it is in registers.
    void last_relevance(const Step<S>& s) const {
        for (long v = 0; v < n; v += kNR<S>) {
            T quad[kNV] = {};
            quadratic_form(n - v <= W ? 1 : kNV, m, context->half, s.p + v, ld, quad);
            for (int j = 0; j < kNV && v + j * W < n; ++j) {
                const long q = v + j * W;
                V::store(s.r + q, M::cosine(V::load(s.dot + q), V::load(s.q + q), M::length(quad[j])));
            }
        }
    }

    // Whether the step's attended vectors need the Gram matrix.
    bool needs_gram(int k) const { return cmsei::needs_gram(how, relevance_kind, k + 1 < steps); }

    void relevance(const Step<S>& s) const {
        for (long v = 0; v < n; v += W) {
            T quad = V::zero();
            for (long c = 0; c < m; ++c) quad += V::load(s.p + c * ld + v) * V::load(s.h + c * ld + v);
            const T u = M::length(quad);
            V::store(s.quad + v, quad);
            V::store(s.u + v, u);
            V::store(s.r + v, M::relevance(relevance_kind, V::load(s.dot + v), V::load(s.q + v), u));
        }
    }

    void refine(const Step<S>& s, const Step<S>& next, const S* gate) const {
        for (long v = 0; v < n; v += W) {
            const auto f = M::refine(gate[0], gate[1], V::load(s.r + v), V::load(s.q + v), V::load(s.u + v),
                                     V::load(s.quad + v), V::load(s.dot + v));
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

    // step[0].a and step[0].q are filled in. `keep`: every step's values are wanted afterwards.
    S forward(bool keep) const {
        S score = 0;
        for (int k = 0; k < steps; ++k) {
            const Step<S>& s = step[k];
            const bool last = k + 1 == steps;
            if (how == kHard) {
                choose(s, keep || !last);
            } else {
                const Step<S> soft = how == kNegativeAware ? soft_step(s) : s;
                normalise(s);
                with_kind([&](auto shape) { attend<decltype(shape)::value>(soft); });
                if (how == kFocalEqual) focus<false>(s);
                if (how == kFocalProb) focus<true>(s);
                if (how == kNegativeAware) match(s);
            }
            if (!needs_gram(k)) {
                if (how != kHard) each_lane([&](long v) { V::store(s.r + v, V::load(s.dot + v)); });
            } else if (keep || !last) {
                gram_product(s);
                relevance(s);
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

    struct Backward {
        S *d_a, *d_q;        // (m, ld), (ld) gradient of the step's inner products and lengths
        S *d_p, *d_h, *d_r;  // (m, ld), (m, ld), (ld) work
        S *left, *right;     // (ld, m_padded) transposes for the Gram's gradient
        S* d_guide;          // (ld) added to
        S* d_context;        // (m, context->ld) added to
        double d_temperature, d_lse, d_threshold, d_gate[kMaxSteps][2];
    };
    static long backward_size(long m_padded, long ld) { return 3 * m_padded * ld + 2 * ld + 2 * ld * m_padded; }

    void lay_out(Backward& b, Arena<S>& arena) const {
        S* p = arena.take(backward_size(m_padded, ld));
        S** const matrices[] = {&b.d_a, &b.d_p, &b.d_h, &b.left, &b.right};
        for (S** x : matrices) *x = p, p += m_padded * ld;
        b.d_q = p;
        b.d_r = p + ld;
        b.d_temperature = b.d_lse = b.d_threshold = 0;
        for (auto& gate : b.d_gate) gate[0] = gate[1] = 0;
    }

    // d_r of one step from the gradient of its aggregate.
    void aggregated_vjp(const S* r, S d, Backward& b) const {
        if (aggregate == kLse) {
            const S value = aggregated(r);
            T mean = V::zero();
            for (long v = 0; v < n; v += W) {
                const T x = V::load(r + v);
                const T share = V::select(lanes(v), M::lse_share(lse, x, V::set(value)), V::zero());
                V::store(b.d_r + v, d * share);
                mean += share * x;
            }
            b.d_lse += d * One::lse_temperature_vjp(lse, V::sum(mean), value);
            return;
        }
        const S most = aggregate == kMax ? aggregated(r) : 0;
        long ties = 0;
        if (aggregate == kMax)
            for (long i = 0; i < n; ++i) ties += r[i] == most;
        for (long v = 0; v < n; v += W) {
            const T x = V::load(r + v);
            T share;
            if (aggregate == kGuided) {
                share = V::load(guide + v);
                V::store(b.d_guide + v, V::load(b.d_guide + v) + V::select(lanes(v), d * x, V::zero()));
            } else if (aggregate == kMax) {
                share = V::select(lanes(v) & (x == most), V::set(S(1) / ties), V::zero());
            } else {
                share = V::select(lanes(v), V::set(aggregate == kMean ? S(1) / n : S(1)), V::zero());
            }
            V::store(b.d_r + v, d * share);
        }
    }

    // Gradients of the attended vector's length and product, per query; the Gram's and the next step's go into d_h.
    void step_vjp(int k, Backward& b) const {
        const Step<S>& s = step[k];
        const bool refined = k + 1 < steps;
        S *d_dot = b.left, *d_quad = b.left + ld; // (ld) each, used before the transposes are
        T d_gate[2] = {V::zero(), V::zero()};
        for (long v = 0; v < n; v += W) {
            const T q = V::load(s.q + v), u = V::load(s.u + v), quad = V::load(s.quad + v);
            const T dot = V::load(s.dot + v), r = V::load(s.r + v);
            T dr = V::load(b.d_r + v), dq = V::zero(), du = V::zero(), dquad = V::zero(), ddot = V::zero();
            if (refined) {
                T d_alpha = V::zero(), d_beta = V::zero(), d_z;
                for (long c = 0; c < m; ++c) {
                    const T d = V::load(b.d_a + c * ld + v);
                    d_alpha += d * V::load(s.a + c * ld + v);
                    d_beta += d * V::load(s.h + c * ld + v);
                }
                typename M::Refined f;
                f.gate = V::load(s.gate + v);
                f.x = V::load(s.x + v);
                f.y = V::load(s.y + v);
                f.norm = V::load(s.norm + v);
                M::refine_vjp(f, gates[k][0], q, u, quad, dot, d_alpha, d_beta, V::load(b.d_q + v), dr, dq, du, dquad,
                              ddot, d_z);
                d_gate[0] += V::select(lanes(v), d_z * r, V::zero());
                d_gate[1] += V::select(lanes(v), d_z, V::zero());
            }
            M::relevance_vjp(relevance_kind, dot, q, u, dr, ddot, dq, du);
            dquad += M::length_vjp(u, du);
            V::store(b.d_q + v, dq);
            V::store(d_dot + v, ddot);
            V::store(d_quad + v, dquad);
        }
        b.d_gate[k][0] += V::sum(d_gate[0]);
        b.d_gate[k][1] += V::sum(d_gate[1]);
        if (!needs_gram(k)) return unattended_vjp(s, d_dot, d_quad, b);
        for (long v = 0; v < n; v += W) {
            const T alpha = V::load(s.alpha + v), beta = V::load(s.beta + v);
            const T dot = V::load(d_dot + v), quad = V::load(d_quad + v);
            for (long c = 0; c < m; ++c) {
                const T p = V::load(s.p + c * ld + v);
                T d_h = quad * p, d_a = dot * p;
                if (refined) {
                    const T later = V::load(b.d_a + c * ld + v);
                    d_h += beta * later;
                    d_a += alpha * later;
                }
                V::store(b.d_h + c * ld + v, d_h);
                V::store(b.d_a + c * ld + v, d_a);
                V::store(b.d_p + c * ld + v,
                         dot * V::load(s.a + c * ld + v) + S(refined ? 1 : 2) * quad * V::load(s.h + c * ld + v));
            }
        }
        // h = G p: d_p += Gᵀ d_h (at the last step that is quad · h again, counted above), dG += d_h pᵀ.
        if (refined)
            gemm(Gemm<S>{context->panels, kMR * m, 0, b.d_h, kNR<S>, ld, b.d_p, ld, m, n, m, true});
        transpose(b.d_h, ld, m, n, b.left, m_padded);
        transpose(s.p, ld, m, n, b.right, m_padded);
        gemm(Gemm<S>{b.left, kMR, m_padded, b.right, kNR<S>, m_padded, b.d_context, context->ld, m, m, n, true});
    }

    // The rest of step_vjp where no Gram matrix was met: of a chosen item, and of inner products alone.
    void unattended_vjp(const Step<S>& s, const S* d_dot, const S* d_quad, Backward& b) const {
        for (long c = 0; c < m; ++c) {
            T own = V::zero();
            for (long v = 0; v < n; v += W) {
                const T dot = V::load(d_dot + v), p = V::load(s.p + c * ld + v);
                if (how == kHard) own += V::load(d_quad + v) * p;
                V::store(b.d_a + c * ld + v, dot * p);
                V::store(b.d_p + c * ld + v, dot * V::load(s.a + c * ld + v));
            }
            if (how == kHard) b.d_context[c * context->ld + c] += V::sum(own);
        }
    }

    // The attention to what is above the threshold, and what the relevance has besides its cosine: adds to d_a, and
    // leaves in d_p the gradient of the softmax's weights.
    void match_vjp(const Step<S>& s, Backward& b) const {
        T d_temperature = V::zero(), d_threshold = V::zero();
        for (long v = 0; v < n; v += W) {
            T mean = V::zero();
            for (long c = 0; c < m; ++c) mean += V::load(s.p + c * ld + v) * V::load(b.d_p + c * ld + v);
            const T d_r = V::load(b.d_r + v), choice = V::load(s.choice + v), d_best = d_r * V::load(s.miss + v);
            d_threshold -= V::select(lanes(v), d_best, V::zero());
            for (long c = 0; c < m; ++c) {
                const T a = V::load(s.a + c * ld + v), soft = V::load(s.soft + c * ld + v);
                const T d = M::softmax_vjp(V::load(s.p + c * ld + v), V::load(b.d_p + c * ld + v), mean);
                d_temperature += V::select(lanes(v), d * a, V::zero());
                V::store(b.d_a + c * ld + v, V::load(b.d_a + c * ld + v) + temperature * d + d_r * soft +
                                                 V::select(choice == static_cast<S>(c), d_best, V::zero()));
                V::store(b.d_p + c * ld + v, d_r * a);
            }
        }
        b.d_temperature += V::sum(d_temperature);
        b.d_threshold += V::sum(d_threshold);
    }

    // Softmax over the context, then the normalisation along the queries: from d_p to d_a.
    template <int kind> void attend_vjp(const Step<S>& s, Backward& b) const {
        T d_temperature = V::zero();
        for (long v = 0; v < n; v += W) {
            T mean = V::zero();
            for (long c = 0; c < m; ++c) mean += V::load(s.p + c * ld + v) * V::load(b.d_p + c * ld + v);
            const auto valid = lanes(v);
            for (long c = 0; c < m; ++c) {
                const T x = normalised<kind>(V::load(s.a + c * ld + v), s.shift[c], s.scale[c]);
                const T d = M::softmax_vjp(V::load(s.p + c * ld + v), V::load(b.d_p + c * ld + v), mean);
                d_temperature += V::select(valid, d * x, V::zero());
                V::store(b.d_p + c * ld + v, V::select(valid, temperature * d, V::zero()));
            }
        }
        b.d_temperature += V::sum(d_temperature);
        const bool plain = is_plain(norm), squares = is_l2(norm);
        for (long c = 0; c < m; ++c) {
            const S shift = s.shift[c], scale = s.scale[c];
            const S *a = s.a + c * ld, *d_x = b.d_p + c * ld;
            T sum = V::zero();
            if (!plain)
                for (long v = 0; v < n; v += W)
                    sum += V::load(d_x + v) * normalised<kind>(V::load(a + v), shift, scale);
            const S total = V::sum(sum);
            const S pull = plain ? S(0) : One::size_pull(squares, total, scale);
            for (long v = 0; v < n; v += W) {
                const T raw = V::load(a + v), d = V::load(d_x + v);
                T out;
                if constexpr (kind == 0) {
                    const T p = normalised<0>(raw, shift, scale);
                    out = V::select(lanes(v), M::softmax_vjp(p, d, V::set(total)), V::zero());
                } else {
                    const T x = kind == 2 ? M::leaky(raw) : raw;
                    out = M::sized_vjp(squares, x, d, V::set(scale), V::set(pull));
                    if constexpr (kind == 2) out = M::leaky_vjp(raw, out);
                }
                V::store(b.d_a + c * ld + v, V::load(b.d_a + c * ld + v) + out);
            }
        }
    }

    // After forward(true). `d`: gradient of the direction's score. Leaves the gradients of step[0].a and step[0].q in
    // b.d_a and b.d_q.
    void backward(S d, Backward& b) const {
        for (int k = steps - 1; k >= 0; --k) {
            aggregated_vjp(step[k].r, d / steps, b);
            step_vjp(k, b);
            if (how == kHard) continue; // the choice is a constant
            const bool aware = how == kNegativeAware;
            if (aware) match_vjp(step[k], b);
            const Step<S> soft = aware ? soft_step(step[k]) : step[k];
            with_kind([&](auto shape) { attend_vjp<decltype(shape)::value>(soft, b); });
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
