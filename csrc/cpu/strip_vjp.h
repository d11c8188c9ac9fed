// The gradient of one direction's attention of many queries to one context (strip_attention.h). Included once per
// instruction set.
#pragma once

#include "row_products.h"
#include "strip_attention.h"

namespace cmsei {
namespace CMSEI_ISA {

// Panels are matrices cut into kNR columns, one behind the other.
template <class S> struct StripVjp : StripItems<S> {
    using Items = StripItems<S>;
    using typename Items::Mask, typename Items::T, typename Items::V;
    using M = PairMath<V>;
    using Items::columns, Items::cut, Items::n, Items::owner, Items::W;

    // One attention step's values.
    struct Step {
        S* a;      // (context, ld) inner products
        S *e, *h;  // (context, kNR) panels: attention before it is divided by its sum; Gram · that
        S* scale;  // (context, W) by an item's first piece: normalisation
        S *q, *inverse, *dot, *u, *r;          // (ld) |Q|, 1 / sum of e, Q·U, |U|, relevance
        S *gate, *x, *y, *norm, *alpha, *beta; // (ld) of the refinement that follows
        S* d_r;                                // (ld) gradient of the relevance
    };

    const int norm, how, relevance, steps;
    const S temperature;
    const S (*gates)[2];
    const long ld;         // most columns
    Step step[kMaxSteps];
    Gram<S> context{};
    S* factor;             // (context, W) scale times temperature, for powers of two
    // (context, W) what the scale takes from the gradients; of hard attention, the gradients of the squared lengths.
    S* taken;
    // Gradients: of the inner products and of the logits divided by the temperature, (context, ld); of Gram ·
    // attention (context, kNR) panels, and a panel's product with the Gram matrix; of |Q|, and what d_a has of e, (ld).
    S *d_a, *d_logit, *d_h, *g, *d_q, *direct;
    S* choice; // (ld) of hard attention, the row of the context
    S d_gate[kMaxSteps][2];
    S d_temperature;

    static bool suits(const PairSpec<S>& s, int d) {
        return StripAttention<S>::suits(s, d) && (s.attend[d] == kHard || s.relevance[d] == kCosine);
    }

    static long size(const PairSpec<S>& s, int d, long most_context, long longest) {
        const long ld = columns(longest), rows = round_up(most_context, W);
        return s.steps[d] * (3 * rows * ld + most_context * W + 12 * ld) + 2 * most_context * W + 3 * rows * ld +
               most_context * kNR<S> + 4 * ld;
    }

    StripVjp(const PairSpec<S>& s, int d, long most_context, long longest, Arena<S>& arena)
        : norm(s.norm[d]), how(s.attend[d]), relevance(s.relevance[d]), steps(s.steps[d]),
          temperature(s.temperature[d]), gates(s.gate[d]), ld(columns(longest)) {
        const long rows = round_up(most_context, W);
        for (int k = 0; k < steps; ++k) {
            Step& x = step[k];
            S** const matrices[] = {&x.a, &x.e, &x.h};
            S** const lanes[] = {&x.q, &x.inverse, &x.dot,  &x.u,     &x.r,    &x.gate,
                                 &x.x, &x.y,       &x.norm, &x.alpha, &x.beta, &x.d_r};
            for (S** m : matrices) *m = arena.take(rows * ld);
            for (S** v : lanes) *v = arena.take(ld);
            x.scale = arena.take(most_context * W);
        }
        factor = arena.take(most_context * W);
        taken = arena.take(most_context * W);
        d_a = arena.take(rows * ld);
        d_logit = arena.take(rows * ld);
        d_h = arena.take(rows * ld);
        g = arena.take(most_context * kNR<S>);
        d_q = arena.take(ld);
        direct = arena.take(ld);
        choice = arena.take(ld);
        owner = arena.take(ld);
    }

    // Takes the items whose rows are the queries; the caller has filled in step[0].a, zero past the last query up to a
    // register's end.
    void ask(const Gram<S>* items, long count) {
        this->take_items(items, count);
        this->find_owners(items, count);
        // Stores run over the end of an item into the next one, which then stores over them.
        for (long j = 0, at = 0; j < count; at += items[j++].m)
            for (long v = 0; v < items[j].m; v += W) V::store(step[0].q + at + v, V::load(items[j].length + v));
        V::store(step[0].q + n, V::zero());
        d_temperature = 0;
        for (auto& gate : d_gate) gate[0] = gate[1] = 0;
    }

    // The relevances of all steps.
    void forward(const Gram<S>& x) {
        context = x;
        if (how == kHard) {
            this->each_panel([&](auto registers, long at) { choose<registers.value>(at); });
            V::store(step[0].r + round_up(n, W), V::zero());
            return;
        }
        for (int k = 0; k < steps; ++k) {
            const Step& s = step[k];
            with_norm([&](auto squares, auto clip) { normalise<squares.value, clip.value>(s); });
            this->each_panel([&](auto registers, long at) {
                constexpr int NV = registers.value;
                with_norm([&](auto, auto clip) { attend<NV, clip.value>(k, at); });
            });
            V::store(s.r + round_up(n, W), V::zero()); // read with the last item's queries
        }
    }

    // From the steps' d_r to d_a and d_q; adds to the context's Gram gradient. `spread` (ld), if there is any, is added
    // to all rows of d_a.
    void backward(const S* spread, S* d_context) {
        if (how == kHard) return choose_backward(spread, d_context);
        for (int k = steps - 1; k >= 0; --k) {
            const Step& s = step[k];
            const bool refined = k + 1 < steps;
            V::store(s.d_r + n, V::zero());
            T of_gate[2] = {V::zero(), V::zero()};
            this->each_panel([&](auto registers, long at) {
                constexpr int NV = registers.value;
                refined ? attend_vjp<NV, true>(k, at, of_gate) : attend_vjp<NV, false>(k, at, of_gate);
            });
            for (int i = 0; i < 2; ++i) d_gate[k][i] += V::sum(of_gate[i]);
            add_row_products(context.m, (n + W - 1) / W, d_h, s.e, !refined, d_context, context.ld);
            with_norm([&](auto squares, auto clip) { find_taken<squares.value, clip.value>(s); });
            this->each_panel([&](auto registers, long at) {
                constexpr int NV = registers.value;
                with_norm([&](auto squares, auto clip) {
                    normalise_vjp<NV, squares.value, clip.value>(s, refined, k == 0 ? spread : nullptr, at);
                });
            });
        }
    }

private:
    template <class Body> CMSEI_INLINE void with_norm(Body body) const {
        const std::true_type yes;
        const std::false_type no;
        if (is_l2(norm))
            is_clipped(norm) ? body(yes, yes) : body(yes, no);
        else
            is_clipped(norm) ? body(no, yes) : body(no, no);
    }
    CMSEI_INLINE Mask lanes(long v) const { return V::first(n - v); }

    template <int NV> void choose(long at) const {
        const Step& s = step[0];
        const auto x = chosen<S, NV, true, true>(context, s.a + at, ld);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const long v = at + j * W;
            const T q = V::load(s.q + v), held = within<V>(x.dot[j], q * x.length[j]);
            V::store(s.dot + v, x.dot[j]);
            V::store(s.u + v, x.length[j]);
            V::store(choice + v, x.place[j]);
            V::store(s.r + v, M::relevance(relevance, true, x.dot[j], held, q, x.length[j]));
        }
    }

    // The choice is a constant: in d_a each query has one element, and of the Gram matrix's gradient there is only the
    // diagonal.
    void choose_backward(const S* spread, S* d_context) {
        V::store(step[0].d_r + n, V::zero());
        for (long i = 0; i < context.m; ++i) V::store(taken + i * W, V::zero());
        this->each_panel([&](auto registers, long at) { choose_vjp<registers.value>(spread, at); });
        for (long i = 0; i < context.m; ++i) d_context[i * context.ld + i] += V::sum(V::load(taken + i * W));
    }

    template <int NV> void choose_vjp(const S* spread, long at) const {
        const Step& s = step[0];
        T d_dot[NV] = {}, d_squared[NV], more[NV], place[NV];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const long v = at + j * W;
            const T q = V::load(s.q + v), u = V::load(s.u + v), dot = V::load(s.dot + v);
            T d_length = V::zero(), d_u = V::zero();
            M::relevance_vjp(relevance, true, false, dot, within<V>(dot, q * u), q, u, V::load(s.d_r + v), d_dot[j],
                             d_length, d_u);
            V::store(d_q + v, d_length);
            d_squared[j] = M::length_vjp(u, d_u);
            more[j] = spread ? V::load(spread + v) : V::zero();
            place[j] = V::load(choice + v);
        }
        for (long i = 0; i < context.m; ++i) {
            T of_row = V::load(taken + i * W);
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                const auto here = place[j] == static_cast<S>(i);
                V::store(d_a + i * ld + at + j * W, V::select(here, d_dot[j], V::zero()) + more[j]);
                of_row += V::select(here, d_squared[j], V::zero());
            }
            V::store(taken + i * W, of_row);
        }
    }

    template <bool squares, bool clip> void normalise(const Step& s) const {
        const S f = temperature * static_cast<S>(kLog2E);
        this->sum_items(
            context.m,
            [&](long i, long at, Mask valid) {
                T x = (T)((Mask)V::load(s.a + i * ld + at) & valid);
                if (clip) x = M::leaky(x);
                return squares ? x * x : V::abs(x);
            },
            [&](long i, T total) {
                const T scale = M::size_scale(squares, total);
                V::store(s.scale + i * W, scale);
                V::store(factor + i * W, scale * f);
            });
    }

    template <int NV, bool clip> void attend(int k, long at) const {
        const Step& s = step[k];
        const long rows = context.m;
        const S *f = factor, *a = s.a + at;
        S *e = s.e + at * rows, *h = s.h + at * rows;
        Mask from[NV];
        for (int j = 0; j < NV; ++j) __builtin_memcpy(&from[j], owner + at + j * W, sizeof from[j]);
        T sum[NV] = {}, dot[NV] = {}, quad[kNV] = {}, alpha[NV], beta[NV];
        for (long i = 0; i < rows; ++i, f += W, e += kNR<S>, a += ld)
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                const T x = V::load(a + j * W);
                const T weight = V::exp2_within((clip ? M::leaky(x) : x) * V::lookup(V::load(f), from[j]));
                V::store(e + j * W, weight);
                sum[j] += weight;
                dot[j] += weight * x;
            }
        e = s.e + at * rows;
        gram_form(NV, rows, context.panels, e, h, quad);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const long v = at + j * W;
            const T inverse = 1 / sum[j], product = dot[j] * inverse, q = V::load(s.q + v);
            const T u = M::length(quad[j]) * inverse, held = within<V>(product, q * u), r = M::cosine(held, q, u);
            V::store(s.inverse + v, inverse);
            V::store(s.dot + v, product);
            V::store(s.u + v, u);
            V::store(s.r + v, r);
            if (k + 1 == steps) continue;
            const auto y = M::refine(gates[k][0], gates[k][1], r, q, u, held);
            V::store(s.gate + v, y.gate);
            V::store(s.x + v, y.x);
            V::store(s.y + v, y.y);
            V::store(s.norm + v, y.norm);
            V::store(s.alpha + v, y.alpha);
            V::store(s.beta + v, y.beta);
            V::store(step[k + 1].q + v, y.length);
            alpha[j] = y.alpha;
            beta[j] = y.beta * inverse;
        }
        if (k + 1 == steps) return;
        a = s.a + at;
        S* next = step[k + 1].a + at;
        for (long i = 0; i < rows; ++i, a += ld, h += kNR<S>, next += ld)
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                const T x = alpha[j] * V::load(a + j * W) + beta[j] * V::load(h + j * W);
                V::store(next + j * W, V::select(lanes(at + j * W), x, V::zero()));
            }
    }

    // Clamps a refinement's gradients, as direction_vjp.h does for one pair.
    static CMSEI_INLINE T within_steepest(T x) {
        const T most = V::set(kSteepest<S>);
        return V::min(most, V::max(-most, x));
    }

    // From d_r and, if a refinement follows, the next step's d_a and d_q, to this step's d_logit and d_q, and to d_h
    // divided by the sum of e. The part of d_a that does not come by way of the logits is `direct` times e; if a
    // refinement follows, d_a itself holds it.
    template <int NV, bool refined> void attend_vjp(int k, long at, T* of_gate) const {
        const Step& s = step[k];
        const long rows = context.m;
        const S *a = s.a + at, *e = s.e + at * rows, *h = s.h + at * rows;
        S *later = d_a + at, *own = d_logit + at, *to_h = d_h + at * rows;
        T d_alpha[NV] = {}, d_beta[NV] = {}, inverse[NV], of_e[NV], of_h[NV], by_h[NV], mean[NV] = {};
        T alpha[NV], beta[NV];
        if (refined)
            for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
                for (int j = 0; j < NV; ++j) {
                    const T x = V::load(later + i * ld + j * W);
                    d_alpha[j] += x * V::load(a + i * ld + j * W);
                    d_beta[j] += x * V::load(h + i * kNR<S> + j * W);
                }
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            const long v = at + j * W;
            const T q = V::load(s.q + v), u = V::load(s.u + v), dot = V::load(s.dot + v);
            const T held = within<V>(dot, q * u);
            T d_r = V::load(s.d_r + v), d_len = V::zero(), d_u = V::zero(), d_quad = V::zero(), d_dot = V::zero();
            inverse[j] = V::load(s.inverse + v);
            if (refined) {
                typename M::Refined f;
                f.gate = V::load(s.gate + v);
                f.x = V::load(s.x + v);
                f.y = V::load(s.y + v);
                f.norm = V::load(s.norm + v);
                alpha[j] = V::load(s.alpha + v);
                beta[j] = V::load(s.beta + v);
                T d_z;
                M::refine_vjp(f, gates[k][0], q, u, held, d_alpha[j], d_beta[j] * inverse[j], V::load(d_q + v), d_r,
                              d_len, d_u, d_quad, d_dot, d_z);
                of_gate[0] += V::select(lanes(v), d_z * V::load(s.r + v), V::zero());
                of_gate[1] += V::select(lanes(v), d_z, V::zero());
            }
            M::relevance_vjp(kCosine, k == 0, refined, dot, held, q, u, d_r, d_dot, d_len, d_u);
            d_quad += M::length_vjp(u, d_u);
            V::store(d_q + v, d_len);
            of_e[j] = d_dot * inverse[j];
            of_h[j] = d_quad * inverse[j];
            by_h[j] = S(refined ? 1 : 2) * of_h[j] * inverse[j];
            V::store(direct + v, of_e[j]);
        }
        if (refined) {
            for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
                for (int j = 0; j < NV; ++j) {
                    const T x = V::load(later + i * ld + j * W), p = V::load(e + i * kNR<S> + j * W);
                    V::store(to_h + i * kNR<S> + j * W, within_steepest(of_h[j] * p + beta[j] * x) * inverse[j]);
                    V::store(later + i * ld + j * W, within_steepest(of_e[j] * p + alpha[j] * x));
                }
            T unused[kNV] = {};
            gram_form(NV, rows, context.panels, to_h, g, unused);
        }
        // The gradient of the attention, divided by the sum of e.
        for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j) {
                const T p = V::load(e + i * kNR<S> + j * W), product = V::load(h + i * kNR<S> + j * W);
                T x = of_e[j] * V::load(a + i * ld + j * W) + by_h[j] * product;
                if (refined)
                    x += V::load(g + i * kNR<S> + j * W);
                else
                    V::store(to_h + i * kNR<S> + j * W, of_h[j] * inverse[j] * p);
                V::store(own + i * ld + j * W, x);
                mean[j] += p * x;
            }
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) mean[j] *= inverse[j];
        for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < NV; ++j)
                V::store(own + i * ld + j * W,
                         M::softmax_vjp(V::load(e + i * kNR<S> + j * W), V::load(own + i * ld + j * W), mean[j]));
    }

    // For each row and item, its part of the temperature's gradient, and `taken`: what the normalisation subtracts from
    // the gradients.
    template <bool squares, bool clip> void find_taken(const Step& s) {
        T all = V::zero();
        this->sum_items(
            context.m,
            [&](long i, long at, Mask valid) {
                const T a = V::load(s.a + i * ld + at);
                return (T)((Mask)(V::load(d_logit + i * ld + at) * (clip ? M::leaky(a) : a)) & valid);
            },
            [&](long i, T total) {
                const T scale = V::load(s.scale + i * W), own = total * scale;
                all += V::select(cut.first, own, V::zero());
                V::store(taken + i * W, M::size_pull(squares, temperature * own, scale));
            });
        d_temperature += V::sum(all);
    }

    template <int NV, bool squares, bool clip>
    void normalise_vjp(const Step& s, bool refined, const S* spread, long at) const {
        const long rows = context.m;
        Mask from[NV];
        T of_e[NV], more[NV];
        for (int j = 0; j < NV; ++j) {
            __builtin_memcpy(&from[j], owner + at + j * W, sizeof from[j]);
            of_e[j] = V::load(direct + at + j * W);
            more[j] = spread ? V::load(spread + at + j * W) : V::zero();
        }
        const auto all = [&](auto without_e) {
            for (long i = 0; i < rows; ++i)
#pragma GCC unroll 2
                for (int j = 0; j < NV; ++j) {
                    const long here = i * ld + at + j * W;
                    const T raw = V::load(s.a + here), x = clip ? M::leaky(raw) : raw;
                    T y = M::sized_vjp(squares, x, temperature * V::load(d_logit + here),
                                       V::lookup(V::load(s.scale + i * W), from[j]),
                                       V::lookup(V::load(taken + i * W), from[j]));
                    if (clip) y = M::leaky_vjp(raw, y);
                    const T other = without_e.value ? V::load(d_a + here)
                                                    : of_e[j] * V::load(s.e + (at * rows + i * kNR<S>) + j * W);
                    V::store(d_a + here, other + y + more[j]);
                }
        };
        refined ? all(std::true_type()) : all(std::false_type());
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
