// One direction's attention of many queries to one context: the words of neighbouring captions to the regions of an
// image, or the regions of neighbouring images to the words of a caption. The queries lie side by side, so that a
// register's lanes are full and the Gram matrix meets wide panels; only the normalisation goes item by item.
// Included once per instruction set.
#pragma once

#include "direction.h"
#include "strip_choice.h"
#include "strip_items.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripAttention : StripItems<S> {
    using Items = StripItems<S>;
    using typename Items::T, typename Items::V;
    using M = PairMath<V>;
    using Items::columns, Items::cut, Items::n, Items::owner, Items::W;

    const int norm, how, relevance_kind, steps;
    const S factor_of_scale; // temperature · log2(e), for exp2
    const S (*gates)[2];
    const long ld;  // most columns
    S *factor;      // (context, W) by an item's first piece: normalisation times factor_of_scale
    S *q, *refined_q; // (ld) lengths of the queries, and after a refinement
    S *refined;     // (context, ld) inner products after a refinement
    S *p, *h;       // (context, kNR) attention before it is divided by its sum; Gram · that
    Gram<S> context{};

    // The attention is divided by its sum only at the end: temperatures up to 12 keep what comes before from
    // overflowing.
    static bool suits(const PairSpec<S>& s, int d) {
        const bool sized = (is_l1(s.norm[d]) || is_l2(s.norm[d])) && s.temperature[d] <= 12 && s.temperature[d] >= -12;
        return (s.attend[d] == kHard && s.steps[d] == 1) || (s.attend[d] == kSoft && sized);
    }

    static long size(const PairSpec<S>& s, int d, long most_context, long longest) {
        const bool refines = s.steps[d] > 1;
        return most_context * (W + (refines ? 2 : 1) * kNR<S>) +
               (refines ? 3 + most_context : 2) * columns(longest);
    }

    StripAttention(const PairSpec<S>& s, int d, long most_context, long longest, Arena<S>& arena)
        : norm(s.norm[d]), how(s.attend[d]), relevance_kind(s.relevance[d]), steps(s.steps[d]),
          factor_of_scale(s.temperature[d] * static_cast<S>(kLog2E)), gates(s.gate[d]), ld(columns(longest)) {
        factor = arena.take(most_context * W);
        owner = arena.take(ld);
        q = arena.take(ld);
        p = arena.take(most_context * kNR<S>);
        refined_q = refined = h = nullptr;
        if (steps == 1) return;
        refined_q = arena.take(ld);
        refined = arena.take(most_context * ld);
        h = arena.take(most_context * kNR<S>);
    }

    // How many of the items from the first on are worked on together.
    static long together(const Gram<S>* items, long count) {
        typename Items::Room room;
        long taken = 0;
        while (taken < count && room.takes(items[taken].m)) ++taken;
        return taken;
    }

    // Takes the items whose rows are the queries.
    void ask(const Gram<S>* items, long count) {
        this->take_items(items, count);
        // Stores run over the end of an item into the next one, which then stores over them.
        for (long j = 0, at = 0; j < count; at += items[j++].m)
            for (long v = 0; v < items[j].m; v += W) V::store(q + at + v, V::load(items[j].length + v));
        if (how != kHard) this->find_owners(items, count);
    }

    // Writes the relevances of step k to `r + k * step`, whole registers. `block`: inner products (context, queries).
    void answer(const Gram<S>& x, const S* block, long stride, S* r, long step) {
        context = x;
        if (how == kHard) {
            this->each_panel([&](auto registers, long at) { choose<registers.value>(block + at, stride, r + at, at); });
            return;
        }
        const bool clip = is_clipped(norm);
        for (int k = 0; k < steps; ++k, r += step) {
            const bool last = k + 1 == steps;
            const bool held = is_held(relevance_kind, k == 0);
            const S *own = k == 0 ? block : refined, *length = k == 0 ? q : refined_q, *gate = gates[k];
            const long ld_own = k == 0 ? stride : ld;
            normalise(own, ld_own);
            this->each_panel([&](auto registers, long at) {
                constexpr int NV = registers.value;
                const Panel x{own + at, ld_own, length + at, owner + at, r + at, refined + at, refined_q + at};
                if (!last)
                    clip ? attend<NV, kRefine, true>(x, held, gate) : attend<NV, kRefine, false>(x, held, gate);
                else if (held)
                    clip ? attend<NV, kLength, true>(x, held, gate) : attend<NV, kLength, false>(x, held, gate);
                else
                    clip ? attend<NV, kDotAlone, true>(x, held, gate) : attend<NV, kDotAlone, false>(x, held, gate);
            });
        }
    }

private:
    // What follows an attention: nothing, the attended vectors' lengths, or the queries' refinement.
    enum Then { kDotAlone, kLength, kRefine };

    struct Panel {
        const S* a;
        long stride;
        const S *q, *owner;
        S *r, *next, *next_q;
    };

    void normalise(const S* block, long stride) const {
        const bool clip = is_clipped(norm);
        if (is_l2(norm))
            clip ? find_factors<true, true>(block, stride) : find_factors<true, false>(block, stride);
        else
            clip ? find_factors<false, true>(block, stride) : find_factors<false, false>(block, stride);
    }
    // Sets `factor`, for each row of the context and each item, from the size of their inner products.
    template <bool squares, bool clip> void find_factors(const S* block, long stride) const {
        this->sum_items(
            context.m,
            [=](long i, long at, typename V::Mask valid) {
                T x = (T)((typename V::Mask)V::load(block + i * stride + at) & valid);
                if (clip) x = M::leaky(x);
                return squares ? x * x : V::abs(x);
            },
            [&](long i, T total) { V::store(factor + i * W, factor_of_scale * M::size_scale(squares, total)); });
    }

    template <int NV, Then then, bool clip> void attend(const Panel& x, bool holds, const S* gate) const {
        const long rows = context.m;
        const S *f = factor, *a_row = x.a;
        S* e = p;
        typename V::Mask from[NV];
        for (int k = 0; k < NV; ++k) __builtin_memcpy(&from[k], x.owner + k * W, sizeof from[k]);
        T sum[NV] = {}, dot[NV] = {}, quad[kNV] = {}, alpha[NV], beta[NV];
        for (long i = 0; i < rows; ++i, f += W, e += kNR<S>, a_row += x.stride)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T a = V::load(a_row + k * W);
                const T weight = V::exp2_within((clip ? M::leaky(a) : a) * V::lookup(V::load(f), from[k]));
                if (then != kDotAlone) V::store(e + k * W, weight);
                sum[k] += weight;
                dot[k] += weight * a;
            }
        if (then == kLength) quadratic_form(NV, rows, context.half, p, kNR<S>, quad);
        if (then == kRefine) gram_form(NV, rows, context.panels, p, h, quad);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T inverse = 1 / sum[k], product = dot[k] * inverse;
            const T length = V::load(x.q + k * W), u = then == kDotAlone ? sum[k] : M::length(quad[k]) * inverse;
            const T held = within<V>(product, length * u);
            const T r = !holds ? product : relevance_kind == kDot ? held : M::cosine(held, length, u);
            V::store(x.r + k * W, r);
            if (then != kRefine) continue;
            const auto y = M::refine(gate[0], gate[1], r, length, u, held);
            V::store(x.next_q + k * W, y.length);
            alpha[k] = y.alpha;
            beta[k] = y.beta * inverse;
        }
        if (then != kRefine) return;
        a_row = x.a;
        const S* product = h;
        S* next = x.next;
        for (long i = 0; i < rows; ++i, a_row += x.stride, product += kNR<S>, next += ld)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k)
                V::store(next + k * W, alpha[k] * V::load(a_row + k * W) + beta[k] * V::load(product + k * W));
    }

    template <int NV> void choose(const S* block, long stride, S* r, long at) const {
        const bool cosines = relevance_kind == kCosine;
        cosines ? choose<NV, true>(block, stride, r, at) : choose<NV, false>(block, stride, r, at);
    }
    template <int NV, bool cosines> void choose(const S* block, long stride, S* r, long at) const {
        const auto x = chosen<S, NV, cosines, false>(context, block, stride);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T dot = x.dot[k], length = V::load(q + at + k * W), u = x.length[k];
            V::store(r + k * W, cosines ? M::cosine(within<V>(dot, length * u), length, u) : dot);
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
