// The gradient of one direction of attention: what team_direction.h declares of it, from the score back to the inner
// products, lengths and Gram matrix. Formulas: docs/scores.md, docs/how-it-is-fast.md.
#pragma once

#include "team_direction.h"

namespace cmsei {

// Sets d_r of one step from the gradient of its aggregate.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::aggregated_vjp(const S* r, S d, const Gradient& g) const {
    const S value = aggregate == kLse || aggregate == kMax ? aggregated(r) : S(0);
    S ties = 0, mean = 0;
    if (aggregate == kMax) {
        CMSEI_EACH(q, n) ties += r[q] == value ? S(1) : S(0);
        ties = team.sum(ties);
    }
    CMSEI_EACH(q, n) {
        S share = aggregate == kMean ? 1 / static_cast<S>(n) : S(1);
        if (aggregate == kGuided) {
            share = guide[q];
            g.d_guide[q] += d * r[q];
        } else if (aggregate == kMax) {
            share = r[q] == value ? 1 / ties : S(0);
        } else if (aggregate == kLse) {
            share = M::lse_share(lse, r[q], value);
            mean += share * r[q];
        }
        g.d_r[q] = d * share;
    }
    if (aggregate == kLse) {
        mean = team.sum(mean);
        if (team.lane() == 0) g.totals[numbers + 1] += d * M::lse_temperature_vjp(lse, mean, value);
    }
}

// Back through relevance and refinement: from d_r and, if there is a next step, its d_a and d_q to this step's, d_p and
// d_h, the gradient of h = P G, which replaces h once that has been read.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::attended_vjp(const Step& s, int k, const Gradient& g) const {
    const bool more = k + 1 < steps, attended = multiplies(k);
    S d_gate[2] = {0, 0};
    CMSEI_EACH(q, n) {
        S d_r = g.d_r[q], d_q = 0, d_u = 0, d_quad = 0, d_dot = 0, alpha = 0, beta = 0;
        const S dot = s.dot[q], u = s.u[q], r = s.r[q], length_q = s.q[q], held = within<Math>(dot, length_q * u);
        if (more) {
            S d_alpha = 0, d_beta = 0, d_z = 0;
#pragma unroll kUnroll
            for (int c = 0; c < m; ++c) {
                const S d = g.d_a[at(q, c)];
                d_alpha += d * s.a[at(q, c)];
                d_beta += d * s.h[at(q, c)];
            }
            const auto f = refined(s, k, q);
            alpha = f.alpha;
            beta = f.beta;
            M::refine_vjp(f, scalars[gate + 2 * k], length_q, u, held, d_alpha, d_beta, g.d_q[q], d_r, d_q,
                          d_u, d_quad, d_dot, d_z);
            d_gate[0] += d_z * r;
            d_gate[1] += d_z;
        }
        M::relevance_vjp(relevance_kind, k == 0, more, dot, held, length_q, u, d_r, d_dot, d_q, d_u);
        d_quad += M::length_vjp(u, d_u);
        g.d_q[q] = d_q;
#pragma unroll kUnroll
        for (int c = 0; c < m; ++c) {
            const int i = at(q, c);
            const S p = s.p[i], later = more ? g.d_a[i] : S(0), h = attended ? s.h[i] : S(0);
            g.d_a[i] = within<Math>(d_dot * p + alpha * later, kSteepest<S>);
            // If no step follows, d_h Gᵀ = d_quad · h: counted twice here, it needs no product.
            g.d_p[i] = d_dot * s.a[i] + S(more ? 1 : 2) * d_quad * h;
            s.h[i] = within<Math>(d_quad * p + beta * later, kSteepest<S>);
        }
    }
    if (more) {
        for (int i = 0; i < 2; ++i) {
            const S total = team.sum(d_gate[i]);
            if (team.lane() == 0) g.totals[gate + 2 * k + i] += total;
        }
    }
}

// Negative-aware attention: back through the weights above the threshold and through what the relevance has besides its
// cosine. Adds to d_a, and leaves the softmax's weights in p and their gradient in d_p.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::match_vjp(const Step& s, const Gradient& g) const {
    S d_temperature = 0, d_threshold = 0;
    CMSEI_EACH(q, n) {
        int place;
        largest(s.a + q * query, place);
        const S d_r = g.d_r[q], d_best = M::mismatch(agreed(s, q), d_r);
        S mean = 0;
#pragma unroll 1
        for (int c = 0; c < m; ++c) mean += s.p[at(q, c)] * g.d_p[at(q, c)];
#pragma unroll 1
        for (int c = 0; c < m; ++c) {
            const int i = at(q, c);
            const S d = M::softmax_vjp(s.p[i], g.d_p[i], mean), soft = s.next_a[i];
            d_temperature += d * s.a[i];
            g.d_a[i] += temperature * d + d_r * soft + (c == place ? d_best : S(0));
            g.d_p[i] = d_r * s.a[i];
            s.p[i] = soft;
        }
        d_threshold -= d_best;
    }
    d_temperature = team.sum(d_temperature);
    d_threshold = team.sum(d_threshold);
    if (team.lane() == 0) {
        g.totals[numbers] += d_temperature;
        g.totals[threshold] += d_threshold;
    }
}

// Softmax over the context, from d_p to the gradient of what the temperature multiplies.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::attention_vjp(const Step& s, const Gradient& g) const {
    S d_temperature = 0;
    CMSEI_EACH(q, n) {
        S mean = 0;
        for (int c = 0; c < m; ++c) mean += s.p[at(q, c)] * g.d_p[at(q, c)];
        for (int c = 0; c < m; ++c) {
            const int i = at(q, c);
            const S d = M::softmax_vjp(s.p[i], g.d_p[i], mean);
            d_temperature += d * (shaped(s.a[i], s.shift[c]) * s.scale[c]);
            g.d_p[i] = temperature * d;
        }
    }
    d_temperature = team.sum(d_temperature);
    if (team.lane() == 0) g.totals[numbers] += d_temperature;
}

// The lengths of the chosen items: of the Gram matrix's gradient only the diagonal.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::chosen_vjp(const Step& s, const Gradient& g) const {
    CMSEI_EACH(c, m) {
        S sum = 0;
        for (int q = 0; q < n; ++q) sum += s.h[at(q, c)];
        g.d_gram[c * m + c] += sum;
    }
}

// The normalisation along the queries, added to d_a.
template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::normalise_vjp(const Step& s, const Gradient& g) const {
    const bool squares = is_l2(norm), clip = is_clipped(norm), plain = is_plain(norm);
    CMSEI_EACH(c, m) {
        const S shift = s.shift[c], scale = s.scale[c];
        S total = 0;
        if (!plain)
            for (int q = 0; q < n; ++q) total += g.d_p[at(q, c)] * (shaped(s.a[at(q, c)], shift) * scale);
        const S pull = plain ? S(0) : M::size_pull(squares, total, scale);
        for (int q = 0; q < n; ++q) {
            const int i = at(q, c);
            const S raw = s.a[i], x = shaped(raw, shift), d = g.d_p[i];
            S out = norm == kSoftmax ? M::softmax_vjp(x * scale, d, total)
                                     : M::sized_vjp(squares, x, d, scale, pull);
            if (clip) out = M::leaky_vjp(raw, out);
            g.d_a[i] += out;
        }
    }
}

template <class S, class Team>
CMSEI_TEAM void TeamDirection<S, Team>::backward(S d, const Gradient& g) const {
#pragma unroll 1
    for (int k = steps - 1; k >= 0; --k) {
        const Step s = step(k, true);
        aggregated_vjp(s.r, d / static_cast<S>(steps), g);
        attended_vjp(s, k, g);
        team.sync();
        const Grid<const S> d_h = grid(s.h);
        if (k + 1 < steps && how != kHard)
            multiply<S>(team, d_h, context_gram(), Grid<S>{g.d_p, query, context}, n, m, m, true);
        if (multiplies(k))
            multiply<S>(team, Grid<const S>{s.p, context, query}, d_h, Grid<S>{g.d_gram, m, 1}, m, m, n, true);
        else if (how == kHard)
            chosen_vjp(s, g);
        team.sync();
        if (how == kHard) continue; // the choice is a constant
        if (how == kNegativeAware) match_vjp(s, g);
        attention_vjp(s, g);
        team.sync();
        normalise_vjp(s, g);
        team.sync();
    }
}

}  // namespace cmsei
