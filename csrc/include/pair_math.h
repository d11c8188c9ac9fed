// Formulas of the pair score (normalisation, relevance, refinement, cosines, aggregation) and their vector-Jacobian
// products. `M` is a math policy: M::T is a float, a double or a register of lanes, with the functions that Plain has
// below. Used by every engine in csrc/, on the host and on the device.
#pragma once

#include "scalar_math.h"

namespace cmsei {

// The math policy of a single number.
template <class Scalar> struct Plain {
    using S = Scalar;
    using T = Scalar;
    static CMSEI_FORMULA T set(S x) { return x; }
    static CMSEI_FORMULA T zero() { return 0; }
    static CMSEI_FORMULA T select(bool yes, T a, T b) { return yes ? a : b; }
    static CMSEI_FORMULA T max(T a, T b) { return scalar::max(a, b); }
    static CMSEI_FORMULA T abs(T x) { return x < 0 ? -x : x; }
    static CMSEI_FORMULA T divide(T a, T b) { return scalar::divide(a, b); }
    static CMSEI_FORMULA T sqrt(T x) { return scalar::sqrt(x); }
    static CMSEI_FORMULA T exp(T x) { return scalar::exp(x); }
    static CMSEI_FORMULA T exp2(T x) { return scalar::exp2(x); }
    static CMSEI_FORMULA T log(T x) { return scalar::log(x); }
    static CMSEI_FORMULA T sigmoid(T x) { return divide(1, 1 + exp(-x)); }
};

constexpr double kEps = 1e-8;
constexpr double kLeak = 0.1;
constexpr double kFocalSlack = 1e-5;    // weights that are all alike are all kept, whatever their rounding
constexpr double kIntraTemperature = 5; // of a negative-aware direction's attention among its queries

enum Norm { kSoftmax, kL2, kClippedL2, kL1, kClippedL1, kClipped, kNone };
enum Aggregate { kMean, kSum, kMax, kLse, kGuided };
enum Attend { kSoft, kHard, kFocalEqual, kFocalProb, kNegativeAware };
enum Relevance { kCosine, kDot };
enum ScalarIndex {
    kWeightT2I, kWeightI2T, kWeightObjectSentence, kWeightWordImage, kWeightAlignment, kGuideTemperature,
    kT2ITemperature, kT2ILse, kI2TTemperature, kI2TLse, kFirstGate
};

// Norms that do not scale the inner products.
CMSEI_FORMULA constexpr bool is_plain(int norm) { return norm == kNone || norm == kClipped; }
CMSEI_FORMULA constexpr bool is_clipped(int norm) {
    return norm == kClippedL2 || norm == kClippedL1 || norm == kClipped;
}
CMSEI_FORMULA constexpr bool is_l2(int norm) { return norm == kL2 || norm == kClippedL2; }
CMSEI_FORMULA constexpr bool is_l1(int norm) { return norm == kL1 || norm == kClippedL1; }

CMSEI_FORMULA constexpr bool is_focal(int attend) { return attend == kFocalEqual || attend == kFocalProb; }
// Whether Q·U is clamped to |Q| |U| (see within()). The relevance "dot" is exact without it for the queries as they
// came (`first`: in the first step); in refined queries, each step multiplies the rounding error of vectors that cancel
// out.
CMSEI_FORMULA constexpr bool is_held(int relevance, bool first) { return relevance == kCosine || !first; }
// Whether a step needs the product with the Gram matrix: for a refinement that follows (`refined`), or for the length
// of an attended vector that is not an item of the context. `first`: whether it is the first step of its direction.
CMSEI_FORMULA constexpr bool needs_gram(int attend, int relevance, bool first, bool refined) {
    return refined || (is_held(relevance, first) && attend != kHard);
}

// With |normalised| <= 1 the temperature's size bounds every logit, which saves the pass for the maximum.
constexpr int kMostBounded = 30;
template <class S> CMSEI_FORMULA bool is_bounded(int norm, S temperature) {
    return !is_plain(norm) && temperature <= kMostBounded && temperature >= -kMostBounded;
}

// An inner product clamped to the product of the lengths, which only rounding makes it exceed: a sum of vectors that
// cancel out has length 0 except for rounding, and without the clamp its cosine could be any number. NaN stays NaN.
template <class M> CMSEI_FORMULA typename M::T within(typename M::T dot, typename M::T most) {
    if constexpr (sizeof dot == sizeof(typename M::S)) return scalar::within(dot, most);
    return M::select(dot > most, most, M::select(dot < -most, -most, dot));
}

// An inner product that was clamped to the product of the lengths a and b passes its gradient on to a and b.
template <class M, class T> CMSEI_FORMULA void within_vjp(T dot, T a, T b, T& d_dot, T& d_a, T& d_b) {
    const auto beyond = M::abs(dot) > a * b;
    const T held = M::select(beyond, M::select(dot < 0, -d_dot, d_dot), M::zero());
    d_dot = M::select(beyond, M::zero(), d_dot);
    d_a += held * b;
    d_b += held * a;
}

// The largest gradient that a refinement passes on. It multiplies gradients of vectors of length 0 by 1 / ε², which at
// the third step exceeds float32's largest number. A finite gradient gives 0 in the product with such a vector, an
// infinite one NaN.
template <class S> constexpr S kSteepest = sizeof(S) == 4 ? S(1e30) : S(1e300);

template <class M> struct PairMath {
    using T = typename M::T;
    using S = typename M::S;

    static CMSEI_FORMULA T leaky(T x, S leak = (S)kLeak) { return M::max(x * leak, x); }
    static CMSEI_FORMULA T leaky_vjp(T x, T dy) { return M::select(x > 0, dy, dy * (S)kLeak); }

    // Normalisation x · scale with scale = 1 / (√total + ε), total = Σx², or 1 / (total + ε), total = Σ|x|.
    static CMSEI_FORMULA T size_scale(bool squares, T total) {
        return M::divide(M::set(1), (squares ? M::sqrt(total) : total) + (S)kEps);
    }
    // The `pull` of sized_vjp(), one for all x that share the scale, from total = Σ d · x · scale.
    static CMSEI_FORMULA T size_pull(bool squares, T total, T scale) {
        const T root = 1 / scale - (S)kEps;
        return squares ? M::select(root > 0, total / M::select(root > 0, root, M::set(1)), M::zero()) : total * scale;
    }
    static CMSEI_FORMULA T sized_vjp(bool squares, T x, T d, T scale, T pull) {
        const T sign = M::select(x > 0, M::set(1), M::select(x < 0, M::set(-1), M::zero()));
        return scale * d - (squares ? x * scale : sign) * pull;
    }

    // Softmax: gradient of a logit from that of its weight p and mean = Σ p d.
    static CMSEI_FORMULA T softmax_vjp(T p, T d, T mean) { return p * (d - mean); }

    // (1/λ) log Σ exp(λ r) from the largest r, `most`, and total = Σ exp(λ (r - most)).
    // lse_share: the value's derivative by one r; with `most` for the value, a summand of total.
    static CMSEI_FORMULA T lse_value(S lse, T most, T total) { return most + M::log(total) / lse; }
    static CMSEI_FORMULA T lse_share(S lse, T r, T value) { return M::exp(lse * (r - value)); }
    // Gradient of λ per unit of the value's, from mean = Σ share · r.
    static CMSEI_FORMULA T lse_temperature_vjp(S lse, T mean, T value) { return (mean - value) / lse; }

    // |x| from x·x; the gradient at 0 is 0. Here and below, the argument of max() that may be NaN comes second: a
    // host's max returns its second argument if either is NaN.
    static CMSEI_FORMULA T length(T squared) { return M::sqrt(M::max(M::zero(), squared)); }
    static CMSEI_FORMULA T length_vjp(T length, T d) {
        return M::select(length > 0, d / (2 * M::select(length > 0, length, M::set(1))), M::zero());
    }

    // cosine = dot / max(a b, eps) of vectors of lengths a and b.
    static CMSEI_FORMULA T cosine(T dot, T a, T b) { return M::divide(dot, M::max(M::set((S)kEps), a * b)); }
    static CMSEI_FORMULA void cosine_vjp(T cosine, T a, T b, T d, T& d_dot, T& d_a, T& d_b) {
        const T inverse = 1 / M::max(M::set((S)kEps), a * b);
        const T free = M::select(a * b > (S)kEps, -d * cosine * inverse, M::zero());
        d_dot += d * inverse;
        d_a += free * b;
        d_b += free * a;
    }

    // r of a query of length q and its attended vector of length u. dot = Q·U; `held`: dot clamped to q u.
    static CMSEI_FORMULA T relevance(int kind, bool first, T dot, T held, T q, T u) {
        if (kind == kCosine) return cosine(held, q, u);
        return is_held(kind, first) ? held : dot;
    }
    // On entry d_dot is the gradient of `held` that a following refinement has left, else 0; on return it is that of
    // dot.
    static CMSEI_FORMULA void relevance_vjp(int kind, bool first, bool refined, T dot, T held, T q, T u, T d, T& d_dot,
                                            T& d_q, T& d_u) {
        const bool holds = is_held(kind, first);
        if (kind == kCosine) cosine_vjp(cosine(held, q, u), q, u, d, d_dot, d_q, d_u);
        else if (holds) d_dot += d;
        if (refined || holds) within_vjp<M>(dot, q, u, d_dot, d_q, d_u);
        if (!holds) d_dot += d;
    }

    // A focal attention keeps the weights p above Σ p g / Σ g, their mean weighted by confidences g, and divides them
    // by their sum: it is the softmax over the items kept, and so is its gradient. p may be divided by its sum or not.
    static CMSEI_FORMULA T confidence(bool prob, T p) { return prob ? M::sqrt(p) : M::set(1); }
    static CMSEI_FORMULA T focal_least(T weighted, T total) {
        return (S)(1 - kFocalSlack) * M::divide(weighted, total);
    }
    static CMSEI_FORMULA T focal(T p, T least) { return M::select(p > least, p, M::zero()); }

    // A negative-aware attention weighs only the items above the threshold: their largest weight is 1, so that a sum
    // below 1 means that there are none. A mismatch counts where the queries' agreement, or any positive multiple of
    // it, is negative.
    static CMSEI_FORMULA T above(T a, S threshold, T weight) { return M::select(a > threshold, weight, M::zero()); }
    static CMSEI_FORMULA T matched_factor(T total) { return M::divide(M::set(1), M::max(M::set(1), total)); }
    static CMSEI_FORMULA T mismatch(T agreed, T best) { return M::select(agreed < 0, best, M::zero()); }

    // 1 / max(x, eps), which makes a vector of length x a unit vector.
    static CMSEI_FORMULA T unit_factor(T length) { return M::divide(M::set(1), M::max(M::set((S)kEps), length)); }
    static CMSEI_FORMULA T unit_factor_vjp(T length, T d) {
        const T f = unit_factor(length);
        return M::select(length > (S)kEps, -d * f * f, M::zero());
    }

    // The alignment ĝ_v · ĝ_t of means of lengths a and b, from their inner product.
    static CMSEI_FORMULA T alignment(T dot, T a, T b) {
        const T of_a = unit_factor(a), of_b = unit_factor(b);
        return within<M>(dot * of_a * of_b, a * of_a * b * of_b);
    }
    // Adds to d_dot, d_a and d_b.
    static CMSEI_FORMULA void alignment_vjp(T dot, T a, T b, T d, T& d_dot, T& d_a, T& d_b) {
        const T of_a = unit_factor(a), of_b = unit_factor(b);
        T d_unit_a = M::zero(), d_unit_b = M::zero();
        within_vjp<M>(dot * of_a * of_b, a * of_a, b * of_b, d, d_unit_a, d_unit_b);
        d_dot += d * of_a * of_b;
        d_a += d_unit_a * of_a + unit_factor_vjp(a, d * dot * of_b + d_unit_a * a);
        d_b += d_unit_b * of_b + unit_factor_vjp(b, d * dot * of_a + d_unit_b * b);
    }

    // Refinement Q' = unit((1 - g) unit(Q) + g unit(U)), g = sigmoid(a r + b), as Q' = alpha Q + beta U.
    struct Refined {
        T gate, x, y, norm, alpha, beta, length;
    };
    // q, u: lengths of Q and U (u² is not the computed |U|², which rounding can make negative); dot = Q·U.
    static CMSEI_FORMULA Refined refine(S a, S b, T r, T q, T u, T dot) {
        Refined f;
        f.gate = M::sigmoid(a * r + b);
        f.x = (1 - f.gate) * unit_factor(q);
        f.y = f.gate * unit_factor(u);
        f.norm = length(f.x * f.x * q * q + f.y * f.y * u * u + 2 * f.x * f.y * dot);
        const T factor = unit_factor(f.norm);
        f.alpha = f.x * factor;
        f.beta = f.y * factor;
        f.length = f.norm * factor;
        return f;
    }
    // Adds to d_r, d_q, d_u, d_quad, d_dot; d_z is the gradient of the gate's argument (d_a = Σ d_z r, d_b = Σ d_z).
    static CMSEI_FORMULA void refine_vjp(const Refined& f, S a, T q, T u, T dot, T d_alpha, T d_beta, T d_length,
                                         T& d_r, T& d_q, T& d_u, T& d_quad, T& d_dot, T& d_z) {
        const T factor = unit_factor(f.norm);
        T d_x = d_alpha * factor, d_y = d_beta * factor;
        const T d_factor = d_alpha * f.x + d_beta * f.y + d_length * f.norm;
        const T d_norm = d_length * factor + unit_factor_vjp(f.norm, d_factor);
        const T d_squared = length_vjp(f.norm, d_norm);
        d_x += d_squared * 2 * (f.x * q * q + f.y * dot);
        d_y += d_squared * 2 * (f.y * u * u + f.x * dot);
        d_q += d_squared * 2 * f.x * f.x * q;
        d_quad += M::select(u > 0, d_squared * f.y * f.y, M::zero());
        d_dot += d_squared * 2 * f.x * f.y;
        const T d_gate = d_y * unit_factor(u) - d_x * unit_factor(q);
        d_q += unit_factor_vjp(q, d_x * (1 - f.gate));
        d_u += unit_factor_vjp(u, d_y * f.gate);
        d_z = d_gate * f.gate * (1 - f.gate);
        d_r += d_z * a;
    }
};

}  // namespace cmsei
