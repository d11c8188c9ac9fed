// One direction of attention between one image and one caption by a team (team.h). A lane owns whole queries and, in
// the normalisation, whole items of the context, so that only the products with the Gram matrix and the last sums go
// over the lanes. Its gradient is in team_direction_vjp.h. Formulas: docs/scores.md, docs/how-it-is-fast.md.
#pragma once

#include "team_fragments.h"

namespace cmsei {

template <class S, class Team> struct TeamDirection {
    using Math = Plain<S>;
    using M = PairMath<Math>;
    // How far loops are unrolled in which a thread has most in its registers.
    static constexpr int kUnroll = sizeof(S) == 8 ? 1 : 4;

    // One attention step. The gradient needs nothing else of it.
    struct Step {
        const S* a;                      // (n, m) inner products
        S *p, *h;                        // (n, m) attention, attention · Gram
        S *shift, *scale;                // (m) of the normalisation
        const S* q;                      // (n) |Q|
        S *dot, *u, *r;                  // (n) Q·U, |U|, relevance
        S *next_a, *next_q;              // (n, m), (n) the next step's a and q; match() uses them otherwise
    };

    const Team& team;
    int n, m;           // queries, context
    bool words;         // whether the queries are words, with `context` = 1; else they are regions, with `query` = 1
    int query, context; // strides of the (n, m) matrices
    int area;           // numbers of one such matrix
    int norm, aggregate, steps, how, relevance_kind; // `how`: an Attend
    S temperature, lse;
    const S* scalars;              // PairScorer.scalars()
    int numbers, gate, threshold;  // places in scalars: the temperature, λ of the LSE next; first gate; threshold
    const S* first;  // (n, m) inner products
    const S* gram;   // (m, m) of the context
    const S* alike;  // (n, n) of the queries
    const S* length; // (n) of the queries
    const S* guide;  // (n) of guided aggregation
    S* memory;       // size(...) numbers

    static CMSEI_FORMULA int64_t step_size(int64_t area, int64_t n, int64_t m) { return 3 * area + 4 * n + 2 * m; }
    // `fragments`: the team has them, and keeps nothing for a gradient.
    static CMSEI_FORMULA int64_t size(int64_t area, int64_t n, int64_t m, int steps, int attend, bool keep,
                                      bool fragments) {
        if (fragments && in_fragments(attend, m))
            return 2 * kMostInFragments + (n > queries_in_fragments(m) ? 2 * n + (steps > 1 ? area : 0) : 0);
        return (keep ? steps : 1) * step_size(area, n, m) + (keep ? 2 * area + 2 * n : 0);
    }

    // Memory of the gradient. d_a: of the step's inner products, in the end of `first`; d_p: work; d_q: of |Q|; d_r: of
    // the relevances.
    struct Gradient {
        S *d_a, *d_p, *d_q, *d_r;
        S* d_guide;   // (n) added to
        S* d_gram;    // (m, m) of the context, added to
        double* totals; // of the scalars, added to
    };

    CMSEI_TEAM int at(int q, int c) const { return q * query + c * context; }
    CMSEI_TEAM Grid<const S> grid(const S* x) const { return {x, query, context}; }
    CMSEI_TEAM Grid<const S> context_gram() const { return {gram, m, 1}; }

    // The memory of step k. Unless `keep`, all steps use the same.
    CMSEI_TEAM Step step(int k, bool keep) const {
        Step s;
        S* base = memory + (keep ? k : 0) * static_cast<int>(step_size(area, n, m));
        S* const before = keep ? base - static_cast<int>(step_size(area, n, m)) : base;
        s.p = base;
        s.h = s.p + area;
        s.next_a = s.h + area;
        s.shift = s.next_a + area;
        s.scale = s.shift + m;
        s.dot = s.scale + m;
        s.u = s.dot + n;
        s.r = s.u + n;
        s.next_q = s.r + n;
        s.a = k == 0 ? first : before + (s.next_a - base);
        s.q = k == 0 ? length : before + (s.next_q - base);
        return s;
    }
    // The gradient's own memory comes after that of the steps.
    CMSEI_TEAM void lay_out(Gradient& g) const {
        S* p = memory + steps * static_cast<int>(step_size(area, n, m));
        g.d_a = p;
        g.d_p = p + area;
        g.d_q = p + 2 * area;
        g.d_r = g.d_q + n;
    }

    // An inner product as the norm takes it, before it is scaled.
    CMSEI_TEAM S shaped(S a, S shift) const { return norm == kSoftmax ? Math::exp(a - shift) : clipped(a); }
    CMSEI_TEAM S clipped(S a) const { return is_clipped(norm) ? M::leaky(a) : a; }

    CMSEI_TEAM void normalise(const Step& s) const {
        CMSEI_EACH(c, m) {
            const S* a = s.a + c * context;
            S shift = 0, scale = 1;
            if (norm == kSoftmax) {
                S total = 0;
                shift = a[0];
                for (int q = 1; q < n; ++q) shift = Math::max(a[q * query], shift);
                for (int q = 0; q < n; ++q) total += Math::exp(a[q * query] - shift);
                scale = Math::divide(1, total);
            } else if (!is_plain(norm)) {
                const bool squares = is_l2(norm), clip = is_clipped(norm);
                S total = 0;
                for (int q = 0; q < n; ++q) {
                    const S x = clip ? M::leaky(a[q * query]) : a[q * query];
                    total += squares ? x * x : Math::abs(x);
                }
                scale = M::size_scale(squares, total);
            }
            s.shift[c] = shift;
            s.scale[c] = scale;
        }
    }

    // Whether step k's attended vectors need the Gram matrix.
    CMSEI_TEAM bool multiplies(int k) const { return needs_gram(how, relevance_kind, k == 0, k + 1 < steps); }

    // Attention over the context and Q·U. `weighs`: whether hard attention writes its weights.
    CMSEI_TEAM void attend(const Step& s, bool first_step, bool weighs) const {
        if (how == kHard) return choose(s, first_step, weighs);
        soften(s);
        if (is_focal(how)) focus(s);
        if (how == kNegativeAware) match(s);
    }

    // The softmax over the context. With focal attention, the weights are left undivided by their sum.
    CMSEI_TEAM void soften(const Step& s) const {
        const S f = temperature * static_cast<S>(kLog2OfE);
        const bool bounded = is_bounded(norm, temperature);
        CMSEI_EACH(q, n) {
            const S* a = s.a + q * query;
            S* p = s.p + q * query;
            // Round the logit before subtracting the maximum, so that the largest exponent is exactly 0: a fused
            // multiply-add would leave the rounding error of a logit of 1e10, up to 512, and exp2 makes 2^512 of that.
            const auto logit = [&](int c) {
                return scalar::rounded_product(shaped(a[c * context], s.shift[c]), f * s.scale[c]);
            };
            S most = 0;
            if (!bounded) {
                most = logit(0);
                for (int c = 1; c < m; ++c) most = Math::max(logit(c), most);
            }
            S total = 0, dot = 0;
            for (int c = 0; c < m; ++c) {
                const S x = a[c * context], e = Math::exp2(logit(c) - most);
                p[c * context] = e;
                total += e;
                dot += e * x;
            }
            if (is_focal(how)) continue;
            const S inverse = Math::divide(1, total);
            for (int c = 0; c < m; ++c) p[c * context] *= inverse;
            s.dot[q] = dot * inverse;
        }
    }

    CMSEI_TEAM void focus(const Step& s) const {
        const bool prob = how == kFocalProb;
        CMSEI_EACH(q, n) {
            const S* a = s.a + q * query;
            S* p = s.p + q * query;
            S weighted = 0, confident = 0, total = 0, dot = 0;
#pragma unroll 1
            for (int c = 0; c < m; ++c) {
                const S g = M::confidence(prob, p[c * context]);
                weighted += p[c * context] * g;
                confident += g;
            }
            const S least = M::focal_least(weighted, confident);
#pragma unroll 1
            for (int c = 0; c < m; ++c) {
                const S e = M::focal(p[c * context], least);
                p[c * context] = e;
                total += e;
                dot += e * a[c * context];
            }
            const S inverse = Math::divide(1, total);
#pragma unroll 1
            for (int c = 0; c < m; ++c) p[c * context] *= inverse;
            s.dot[q] = dot * inverse;
        }
    }

    // A query's largest inner product and the first place where it is. NaN if any of them is not finite: 0 times it is
    // NaN.
    CMSEI_TEAM S largest(const S* a, int& place) const {
        S value = a[0], nothing = 0 * a[0];
        place = 0;
#pragma unroll 1
        for (int c = 1; c < m; ++c) {
            const S x = a[c * context];
            if (x > value) place = c;
            value = Math::max(x, value);
            nothing += 0 * x;
        }
        return value + nothing;
    }

    // Hard attention: the relevance of the one item that each query chooses.
    CMSEI_TEAM void choose(const Step& s, bool first_step, bool weighs) const {
        CMSEI_EACH(q, n) {
            int place;
            const S dot = largest(s.a + q * query, place), u = M::length(gram[place * m + place]);
            const S held = within<Math>(dot, s.q[q] * u);
            s.dot[q] = dot;
            s.u[q] = u;
            s.r[q] = M::relevance(relevance_kind, first_step, dot, held, s.q[q], u);
            if (weighs)
#pragma unroll 1
                for (int c = 0; c < m; ++c) s.p[at(q, c)] = c == place ? S(1) : S(0);
        }
    }

    // Negative-aware attention: the weights of the items above the threshold, from the inner products alone. It has one
    // step, so that next_a is free for the softmax over all items, next_q for the largest inner products less the
    // threshold, and r for the softmax's Q·U, to which relevance() adds the cosine.
    CMSEI_TEAM void match(const Step& s) const {
        const S f = temperature * static_cast<S>(kLog2OfE), limit = scalars[threshold];
        CMSEI_EACH(q, n) {
            const S* a = s.a + q * query;
            S* p = s.p + q * query;
            int place;
            const S most = largest(a, place);
            S total = 0, dot = 0;
#pragma unroll 1
            for (int c = 0; c < m; ++c) {
                const S x = a[c * context], e = M::above(x, limit, Math::exp2(f * (x - most)));
                s.next_a[at(q, c)] = p[c * context];
                p[c * context] = e;
                total += e;
                dot += e * x;
            }
            const S factor = M::matched_factor(total);
#pragma unroll 1
            for (int c = 0; c < m; ++c) p[c * context] *= factor;
            s.r[q] = s.dot[q];
            s.dot[q] = dot * factor;
            s.next_q[q] = most - limit;
        }
    }

    // Whether the queries like it agree on a query's mismatch: negative if so, up to a positive factor. Needs a barrier
    // after match().
    CMSEI_TEAM S agreed(const Step& s, int q) const {
        S most = alike[q], total = 0;
#pragma unroll 1
        for (int k = 1; k < n; ++k) most = Math::max(alike[k * n + q], most);
#pragma unroll 1
        for (int k = 0; k < n; ++k)
            total += Math::exp(static_cast<S>(kIntraTemperature) * (alike[k * n + q] - most)) * s.next_q[k];
        return total;
    }

    CMSEI_TEAM void relevance(const Step& s, bool first_step) const {
        CMSEI_EACH(q, n) {
            S quad = 0;
            for (int c = 0; c < m; ++c) quad += s.p[at(q, c)] * s.h[at(q, c)];
            const S u = M::length(quad), dot = s.dot[q];
            s.u[q] = u;
            const S held = within<Math>(dot, s.q[q] * u);
            const S r = M::relevance(relevance_kind, first_step, dot, held, s.q[q], u);
            s.r[q] = how == kNegativeAware ? r + s.r[q] + M::mismatch(agreed(s, q), s.next_q[q]) : r;
        }
    }

    CMSEI_TEAM typename M::Refined refined(const Step& s, int k, int q) const {
        const S* own = scalars + gate + 2 * k;
        const S length_q = s.q[q], u = s.u[q];
        return M::refine(own[0], own[1], s.r[q], length_q, u, within<Math>(s.dot[q], length_q * u));
    }

    CMSEI_TEAM void refine(const Step& s, int k) const {
        CMSEI_EACH(q, n) {
            const auto f = refined(s, k, q);
            s.next_q[q] = f.length;
            for (int c = 0; c < m; ++c) s.next_a[at(q, c)] = f.alpha * s.a[at(q, c)] + f.beta * s.h[at(q, c)];
        }
    }

    CMSEI_TEAM bool linear() const { return aggregate != kMax && aggregate != kLse; }

    // The aggregate of relevances: each(use) calls use(query, relevance) for those that the lane has. With `part`, a
    // linear aggregate is not summed over the lanes.
    template <bool part = false, class Each> CMSEI_TEAM S aggregate_of(const Each& each) const {
        S total = 0, most = -static_cast<S>(INFINITY);
        if (aggregate == kMax || aggregate == kLse) {
            each([&](int, S x) { most = Math::max(x, most); });
            most = team.largest(most);
        }
        if (aggregate == kLse)
            each([&](int, S x) { total += M::lse_share(lse, x, most); });
        else if (aggregate == kGuided)
            each([&](int q, S x) { total += x * guide[q]; });
        else
            each([&](int, S x) { total += x; });
        if constexpr (!part) total = team.sum(total);
        if (aggregate == kLse) return M::lse_value(lse, most, total);
        // A maximum can drop NaN, a sum cannot: if the sum is NaN, return it.
        if (aggregate == kMax) return total == total ? most : total;
        return aggregate == kMean ? Math::divide(total, static_cast<S>(n)) : total;
    }
    // The lane's part of any aggregate, which is the sum over the lanes.
    template <class Each> CMSEI_TEAM S part_of(const Each& each) const {
        return linear() ? aggregate_of<true>(each) : part_of_all(aggregate_of(each));
    }
    CMSEI_TEAM S part_of_all(S x) const { return team.lane() == 0 ? x : S(0); }
    // The aggregate of relevances in memory; each lane reads only those that it wrote.
    CMSEI_TEAM S aggregated(const S* r) const {
        return aggregate_of([&](const auto& use) { CMSEI_EACH(q, n) use(q, r[q]); });
    }

    // Every lane gets the score or, if the team has fragments, its part of it. A barrier stands between what a lane
    // writes and what others read of it, and one at the end.
    CMSEI_TEAM S forward(bool keep) const {
        if constexpr (Team::kFragments) {
            if (!keep && in_fragments(how, m)) return forward_in_fragments();
        }
        S score = 0;
#pragma unroll 1
        for (int k = 0; k < steps; ++k) {
            const Step s = step(k, keep);
            if (how != kHard) {
                normalise(s);
                team.sync();
            }
            attend(s, k == 0, keep || k + 1 < steps);
            if (multiplies(k)) {
                team.sync();
                multiply<S>(team, grid(s.p), context_gram(), Grid<S>{s.h, query, context}, n, m, m, false);
                team.sync();
                relevance(s, k == 0);
            } else if (how != kHard) {
                CMSEI_EACH(q, n) s.r[q] = s.dot[q];
            }
            score += aggregated(s.r);
            if (k + 1 < steps) refine(s, k);
            team.sync();
        }
        score = Math::divide(score, static_cast<S>(steps));
        if constexpr (Team::kFragments) {
            team.known.forget_rests();
            score = part_of_all(score);
        }
        return score;
    }

    CMSEI_TEAM S forward_in_fragments() const {
        S score = 0;
        if (m <= kNarrowContext)
            score = scored_in_fragments<kNarrowRows, kNarrowContext / 8, 1>();
        else if (m <= 32)
            score = scored_beside_wide<4, kNarrowContext + 1>();
        else
            score = scored_beside_wide<kMostInFragments / 8, 33>();
        team.sync();
        return Math::divide(score, static_cast<S>(steps));
    }
    template <int kRows, int kTiles, int kLeast>
    using Usual = Fragments<TeamDirection, kRows, kTiles, kLeast, true>;
    template <int kTiles, int kLeast> CMSEI_TEAM S scored_beside_wide() const {
        // Usual directions have forms of their own for captions of up to kSomeWords words.
        if (words) {
            using Some = Usual<kSomeWords / 8, kTiles, kLeast>;
            if (n > 8 * kWideRows && Some::usual(*this)) return scored_in<Some>();
        } else if constexpr (kLeast <= kSomeWords) {
            using Some = Usual<kNarrowRows, kSomeWords / 8, kLeast>;
            if (m <= kSomeWords && Some::usual(*this)) return scored_in<Some>();
        }
        return scored_in_fragments<kWideRows, kTiles, kLeast>();
    }
    template <int kRows, int kTiles, int kLeast> CMSEI_TEAM S scored_in_fragments() const {
        using Most = Usual<kRows, kTiles, kLeast>;
        if (Most::usual(*this)) return scored_in<Most>();
        return scored_in<Fragments<TeamDirection, kRows, kTiles, kLeast, false>>();
    }
    template <class Form> CMSEI_TEAM S scored_in() const {
        Form form(*this);
        const S score = fragments::forward(form);
        if constexpr (!Form::kParts) team.known.forget_rests();
        return score;
    }

    // The gradient, which team_direction_vjp.h defines: of an aggregate, of attended vectors and so on, to `first`.
    CMSEI_TEAM void aggregated_vjp(const S* r, S d, const Gradient& g) const;
    CMSEI_TEAM void attended_vjp(const Step& s, int k, const Gradient& g) const;
    CMSEI_TEAM void match_vjp(const Step& s, const Gradient& g) const;
    CMSEI_TEAM void attention_vjp(const Step& s, const Gradient& g) const;
    CMSEI_TEAM void chosen_vjp(const Step& s, const Gradient& g) const;
    CMSEI_TEAM void normalise_vjp(const Step& s, const Gradient& g) const;
    // After forward(true). `d`: gradient of the direction's score. Leaves the gradients of `first` and `length` in d_a
    // and d_q, behind a barrier.
    CMSEI_TEAM void backward(S d, const Gradient& g) const;
};

}  // namespace cmsei
