// The gradient of one direction of attention between one image and one caption (direction.h). Included once per
// instruction set.
#pragma once

#include "direction.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct DirectionVjp : Direction<S> {
    using Base = Direction<S>;
    using typename Base::M;
    using typename Base::One;
    using typename Base::T;
    using typename Base::V;
    using Base::W, Base::n, Base::m, Base::ld, Base::m_padded, Base::norm, Base::aggregate, Base::steps, Base::how,
        Base::relevance_kind, Base::temperature, Base::lse, Base::gates, Base::context, Base::guide, Base::step,
        Base::lanes, Base::aggregated, Base::needs_gram, Base::soft_step, Base::with_shape, Base::over_rows;

    struct Gradients {
        S *d_a, *d_q;        // (m, ld), (ld) gradient of the step's inner products and lengths
        S *d_p, *d_h, *d_r;  // (m, ld), (m, ld), (ld) work
        S *left, *right;     // (ld, m_padded) transposes for the Gram's gradient
        S* row;              // (m_padded) what the normalisation takes from a row's gradients
        S* d_guide;          // (ld) added to
        S* d_context;        // (m, context->ld) added to
        double d_temperature, d_lse, d_threshold, d_gate[kMaxSteps][2];
    };
    static long gradients_size(long m_padded, long ld) { return 4 * m_padded * ld + 2 * ld + m_padded; }

    // Takes the memory of all but d_a, which is needed longer.
    void lay_out_gradients(Gradients& b, Arena<S>& arena) const {
        S* p = arena.take(gradients_size(m_padded, ld));
        S** const matrices[] = {&b.d_p, &b.d_h, &b.left, &b.right};
        for (S** x : matrices) *x = p, p += m_padded * ld;
        b.d_q = p;
        b.d_r = p + ld;
        b.row = p + 2 * ld;
        b.d_temperature = b.d_lse = b.d_threshold = 0;
        for (auto& gate : b.d_gate) gate[0] = gate[1] = 0;
    }

    // d_r of one step from the gradient of its aggregate.
    void aggregated_vjp(const S* r, S d, Gradients& b) const {
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

    // within() by a minimum and a maximum, half as many instructions in the loop over the context.
    static CMSEI_INLINE T within_steepest(T d) {
        const T most = V::set(kSteepest<S>);
        return V::min(most, V::max(-most, d)); // NaN stays NaN
    }

    // Back through relevance and refinement: from d_r and, if there is a next step, its d_a and d_q to this step's, d_p
    // and d_h, the gradient of h = Gram · p.
    void step_vjp(int k, Gradients& b) const {
        const Step<S>& s = step[k];
        const bool refined = k + 1 < steps;
        S *d_dot = b.left, *d_quad = b.left + ld; // (ld) each, used before the transposes are
        T d_gate[2] = {V::zero(), V::zero()};
        for (long v = 0; v < n; v += W) {
            const T q = V::load(s.q + v), u = V::load(s.u + v);
            const T dot = V::load(s.dot + v), held = within<V>(dot, q * u), r = V::load(s.r + v);
            T dr = V::load(b.d_r + v), dq = V::zero(), du = V::zero(), dquad = V::zero(), ddot = V::zero();
            if (refined) {
                T d_z;
                const auto with_later = [&](const S* x) {
                    return over_rows(m, [&](long c) { return V::load(b.d_a + c * ld + v) * V::load(x + c * ld + v); });
                };
                const T d_alpha = with_later(s.a), d_beta = with_later(s.h);
                typename M::Refined f;
                f.gate = V::load(s.gate + v);
                f.x = V::load(s.x + v);
                f.y = V::load(s.y + v);
                f.norm = V::load(s.norm + v);
                M::refine_vjp(f, gates[k][0], q, u, held, d_alpha, d_beta, V::load(b.d_q + v), dr, dq, du, dquad,
                              ddot, d_z);
                d_gate[0] += V::select(lanes(v), d_z * r, V::zero());
                d_gate[1] += V::select(lanes(v), d_z, V::zero());
            }
            M::relevance_vjp(relevance_kind, k == 0, refined, dot, held, q, u, dr, ddot, dq, du);
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
                    d_h = within_steepest(d_h + beta * later);
                    d_a = within_steepest(d_a + alpha * later);
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

    // The rest of step_vjp() for a step without the product with the Gram matrix: hard attention, or relevances that
    // are Q·U alone.
    void unattended_vjp(const Step<S>& s, const S* d_dot, const S* d_quad, Gradients& b) const {
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

    // Negative-aware attention: back through the weights above the threshold and through what the relevance has besides
    // its cosine. Adds to d_a, and leaves in d_p the gradient of the softmax's weights.
    void match_vjp(const Step<S>& s, Gradients& b) const {
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
    template <Shape shape> void attend_vjp(const Step<S>& s, Gradients& b) const {
        for (long v = 0; v < n; v += W) {
            const T mean =
                over_rows(m, [&](long c) { return V::load(s.p + c * ld + v) * V::load(b.d_p + c * ld + v); });
            const auto valid = lanes(v);
            for (long c = 0; c < m; ++c) {
                const T d = M::softmax_vjp(V::load(s.p + c * ld + v), V::load(b.d_p + c * ld + v), mean);
                V::store(b.d_p + c * ld + v, V::select(valid, d, V::zero()));
            }
        }
        // For each row, its part of the temperature's gradient, and `row`: what the normalisation subtracts from its
        // gradients.
        const bool plain = is_plain(norm), squares = is_l2(norm);
        T d_temperature = V::zero();
        for (long c = 0; c < m; c += W) {
            T total[W];
#pragma GCC unroll 16
            for (long i = 0; i < W; ++i) {
                const long at = c + i < m ? c + i : m - 1;
                const S shift = s.shift[at], scale = s.scale[at];
                const S *a = s.a + at * ld, *d = b.d_p + at * ld;
                total[i] = V::zero();
                for (long v = 0; v < n; v += W)
                    total[i] += V::load(d + v) * Base::template normalised<shape>(V::load(a + v), shift, scale);
            }
            const T own = lane_sums<S>(total);
            d_temperature += V::select(V::first(m - c), own, V::zero());
            const T of_logits = temperature * own;
            if constexpr (shape == Shape::kExponential)
                V::store(b.row + c, of_logits);
            else
                V::store(b.row + c, plain ? V::zero() : M::size_pull(squares, of_logits, V::load(s.scale + c)));
        }
        b.d_temperature += V::sum(d_temperature);
        for (long c = 0; c < m; ++c) {
            const S shift = s.shift[c], scale = s.scale[c], taken = b.row[c];
            const S *a = s.a + c * ld, *d_p = b.d_p + c * ld;
            for (long v = 0; v < n; v += W) {
                const T raw = V::load(a + v), d = temperature * V::load(d_p + v);
                T out;
                if constexpr (shape == Shape::kExponential) {
                    const T p = Base::template normalised<Shape::kExponential>(raw, shift, scale);
                    out = V::select(lanes(v), M::softmax_vjp(p, d, V::set(taken)), V::zero());
                } else {
                    const T x = shape == Shape::kLeaky ? M::leaky(raw) : raw;
                    out = M::sized_vjp(squares, x, d, V::set(scale), V::set(taken));
                    if constexpr (shape == Shape::kLeaky) out = M::leaky_vjp(raw, out);
                }
                V::store(b.d_a + c * ld + v, V::load(b.d_a + c * ld + v) + out);
            }
        }
    }

    // After forward(true). `d`: gradient of the direction's score. Leaves the gradients of step[0].a and step[0].q in
    // b.d_a and b.d_q.
    void backward(S d, Gradients& b) const {
        for (int k = steps - 1; k >= 0; --k) {
            aggregated_vjp(step[k].r, d / steps, b);
            step_vjp(k, b);
            if (how == kHard) continue; // the choice is a constant
            const bool aware = how == kNegativeAware;
            if (aware) match_vjp(step[k], b);
            const Step<S> soft = aware ? soft_step(step[k]) : step[k];
            with_shape([&](auto shape) { attend_vjp<shape.value>(soft, b); });
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
