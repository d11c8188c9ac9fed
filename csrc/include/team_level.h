// One side of the cross-level attention by a team (team.h): items (regions or words) are weighed by their cosines with
// the mean of the other side, and their weighted sum is compared with that mean. Object-sentence for regions,
// word-image for words.
#pragma once

#include "team.h"

namespace cmsei {

// What is known of the rows of one image or caption.
template <class S> struct PairSide {
    int n;
    const S* gram;   // (n, n)
    const S* length; // (n)
    S mean;          // length of the mean row
};

template <class S, class Team> struct TeamLevel {
    using Math = Plain<S>;
    using M = PairMath<Math>;

    const Team* shared_by;
    int n;
    const S* gram;   // (n, n) of the items
    const S* length; // (n)
    S mu;
    S mean;          // length of the other side's mean
    S* memory;       // size(n) numbers: see below

    static CMSEI_FORMULA int64_t size(int64_t n) { return 5 * n; }

    // (n) each. other(): inner products with the other side's mean, which the caller fills in, each lane its own;
    // dot(): with the unit mean; cosine(); p(): attention; h(): attention · Gram.
    CMSEI_TEAM S* other() const { return memory; }
    CMSEI_TEAM S* dot() const { return memory + n; }
    CMSEI_TEAM S* cosine() const { return memory + 2 * n; }
    CMSEI_TEAM S* p() const { return memory + 3 * n; }
    CMSEI_TEAM S* h() const { return memory + 4 * n; }

    // Σ p x over the items. The gradient computes it again, so that it needs no register in between.
    CMSEI_TEAM S attended(const S* x) const {
        const Team& team = *shared_by;
        S sum = 0;
        CMSEI_EACH(i, n) sum += p()[i] * x[i];
        return team.sum(sum);
    }

    // Computes the attention; returns the score if `scored`, else 0.
    CMSEI_TEAM S forward(bool scored) {
        const Team& team = *shared_by;
        const S factor = M::unit_factor(mean), gamma = mean * factor;
        S most = -static_cast<S>(INFINITY), total = 0;
        CMSEI_EACH(i, n) {
            const S x = within<Math>(other()[i] * factor, length[i] * gamma), c = M::cosine(x, length[i], gamma);
            dot()[i] = x;
            cosine()[i] = c;
            most = Math::max(c, most);
        }
        most = team.largest(most);
        CMSEI_EACH(i, n) total += Math::exp(mu * (cosine()[i] - most));
        total = Math::divide(1, team.sum(total));
        CMSEI_EACH(i, n) p()[i] = Math::exp(mu * (cosine()[i] - most)) * total;
        team.sync();
        if (!scored) return 0;
        S product = 0, square = 0;
        CMSEI_EACH(i, n) {
            S sum = 0;
            for (int k = 0; k < n; ++k) sum += p()[k] * gram[k * n + i];
            h()[i] = sum;
            product += p()[i] * dot()[i];
            square += p()[i] * sum;
        }
        product = team.sum(product);
        const S u = M::length(team.sum(square));
        return M::cosine(within<Math>(product, u * gamma), u, gamma);
    }

    // d_p (n): on entry the gradient from guided aggregation; it is overwritten. Writes d_other (n) and d_length (n),
    // each lane its own; adds to d_gram (n, n), d_mean and, the first lane, d_mu. d_score is used only if `scored`.
    CMSEI_TEAM void backward(S d_score, bool scored, S* d_p, S* d_other, S* d_length, S* d_gram, S& d_mean,
                             double* d_mu) const {
        const Team& team = *shared_by;
        const S factor = M::unit_factor(mean), gamma = mean * factor;
        S d_dot = 0, d_gamma = 0, d_quad = 0, pull = 0, factors = 0, mus = 0, gammas = 0;
        if (scored) {
            const S u = M::length(attended(h())), product = attended(dot());
            S d_u = 0;
            M::cosine_vjp(M::cosine(within<Math>(product, u * gamma), u, gamma), u, gamma, d_score, d_dot, d_u, d_gamma);
            within_vjp<Math>(product, u, gamma, d_dot, d_u, d_gamma);
            d_quad = M::length_vjp(u, d_u);
        }
        CMSEI_EACH(i, n) {
            const S d = d_p[i] + d_dot * dot()[i] + (scored ? 2 * d_quad * h()[i] : S(0));
            d_p[i] = d;
            pull += p()[i] * d;
        }
        pull = team.sum(pull);
        CMSEI_EACH(i, n) {
            const S c = cosine()[i], d_logit = M::softmax_vjp(p()[i], d_p[i], pull);
            S d_x = d_dot * p()[i], d_l = 0;
            M::cosine_vjp(c, length[i], gamma, mu * d_logit, d_x, d_l, gammas);
            within_vjp<Math>(other()[i] * factor, length[i], gamma, d_x, d_l, gammas);
            mus += d_logit * c;
            factors += d_x * other()[i];
            d_other[i] = d_x * factor;
            d_length[i] = d_l;
        }
        mus = team.sum(mus);
        factors = team.sum(factors);
        d_gamma += team.sum(gammas);
        if (team.lane() == 0) *d_mu += mus;
        d_mean += d_gamma * factor + M::unit_factor_vjp(mean, factors + d_gamma * mean);
        if (!scored) return;
        CMSEI_EACH(i, n)
            for (int k = 0; k < n; ++k) d_gram[k * n + i] += d_quad * p()[k] * p()[i];
    }
};

}  // namespace cmsei
