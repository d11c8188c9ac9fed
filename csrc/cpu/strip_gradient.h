// The gradients of many pairs of a tile: each context (an image, then a caption) with the items whose rows attend to
// it, side by side. Included once per instruction set.
#pragma once

#include "cross_level.h"
#include "direction_vjp.h"
#include "strip_side.h"
#include "strip_vjp.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripGradients {
    using V = Simd<S>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    using Vjp = StripVjp<S>;
    static constexpr int W = V::W;

    const PairSpec<S>& spec;
    const Strip<S>& strip;
    const StripGradient<S>& g;
    Arena<S> memory;
    S *d_length[2], *d_mean[2]; // of the lengths of all queries of a direction, and of those of their items' means

    static bool suits(const PairSpec<S>& s) {
        for (int d = 0; d < 2; ++d)
            if (s.active[d] && !Vjp::suits(s, d)) return false;
        return true;
    }

    static long scratch(const PairSpec<S>& s, const StripSize& most) {
        long work = 0;
        for (int d = 0; d < 2; ++d) {
            const long context = d ? most.longest : most.most_regions, longest = d ? most.most_regions : most.longest;
            const long own = Vjp::size(s, d, context, longest) + Level::size(longest) +
                             (Vjp::columns(longest) + W) * round_up(context, W);
            work = own > work ? own : work;
        }
        return work + row(most.regions) + row(most.words) + row(most.images) + row(most.captions);
    }

    StripGradients(const PairSpec<S>& s, const Strip<S>& x, const StripGradient<S>& gradient, const Arena<S>& arena)
        : spec(s), strip(x), g(gradient), memory(arena) {
        const long rows[] = {row(x.size.words), row(x.size.regions)};
        const long items[] = {row(x.size.captions), row(x.size.images)};
        for (int d = 0; d < 2; ++d) {
            d_length[d] = zeros(memory.take(rows[d]), rows[d]);
            d_mean[d] = zeros(memory.take(items[d]), items[d]);
        }
    }

    void backward() {
        for (long r = 0; r < strip.size.regions; ++r)
            for (long v = 0; v < strip.size.words; ++v) g.d_block[r * g.ld_block + v] = 0;
        if (StripSide<S>::needed(spec, 0)) side<0>();
        if (StripSide<S>::needed(spec, 1)) side<1>();
        S* d_w = g.d_w;
        for (long j = 0, at = 0; j < strip.size.captions; ++j) {
            lengths_vjp(strip.w[j], d_length[0] + at, d_mean[0][j], d_w);
            at += strip.w[j].m;
            d_w += strip.w[j].m * strip.w[j].ld;
        }
        for (long i = 0, at = 0; i < strip.size.images; at += strip.v[i++].m)
            lengths_vjp(strip.v[i], d_length[1] + at, d_mean[1][i], g.d_v[i]);
    }

private:
    // Stores run over the end of a row by up to a register.
    static long row(long n) { return round_up(n, W) + W; }
    static S* zeros(S* x, long n) {
        for (long v = 0; v < n; v += W) V::store(x + v, V::zero());
        return x;
    }
    static CMSEI_INLINE T first_of(const S* x, long left) { return V::select(V::first(left), V::load(x), V::zero()); }
    static CMSEI_INLINE void add(S* to, const S* x, long n) {
        for (long v = 0; v < n; v += W) V::store(to + v, V::load(to + v) + first_of(x + v, n - v));
    }

    static void lengths_vjp(const Gram<S>& gram, const S* d, S d_mean, S* d_gram) {
        length_vjp(gram, d, d_gram);
        if (gram.mean) mean_length_vjp(gram, *gram.mean, d_mean, d_gram);
    }

    // Some of the items that attend to a context: those whose pairs have a gradient. Neighbours form one run.
    struct Asking {
        Gram<S> item[W];
        S* d_gram[W];            // of the items
        S d_score[W];
        long index[W], first[W], at[W]; // of an item among all; of its first query among all, and here
        long run_first[W], run_at[W], run_size[W];
        long count, runs, n;
        void add(const Gram<S>& x, S* d, S score, long i, long row) {
            if (runs == 0 || run_first[runs - 1] + run_size[runs - 1] != row) {
                run_first[runs] = row;
                run_at[runs] = n;
                run_size[runs++] = 0;
            }
            run_size[runs - 1] += x.m;
            item[count] = x;
            d_gram[count] = d;
            d_score[count] = score;
            index[count] = i;
            first[count] = row;
            at[count++] = n;
            n += x.m;
        }
    };

    // The items' rows weighed by their cosines with the context's mean: these weights guide the direction's
    // aggregation.
    struct Level {
        CrossLevel<S> item[W];
        S *mean, *d_guide, *spread;         // rows of the queries
        S *d_p, *d_other, *d_length;        // of one item
        S total[W];
        bool attends;

        static long size(long longest) {
            const long columns = Vjp::columns(longest);
            return CrossLevel<S>::size(1) * (columns + W * W) + 6 * columns;
        }
        Level(Arena<S>& arena, long longest) {
            S** const rows[] = {&mean, &d_guide, &spread, &d_p, &d_other, &d_length};
            for (S** x : rows) *x = arena.take(Vjp::columns(longest));
        }
    };

    // Direction d and the attention of its queries to the mean of their context.
    template <int d> void side() {
        Arena<S> arena = memory;
        const long items = d ? strip.size.images : strip.size.captions;
        const long contexts = d ? strip.size.captions : strip.size.images;
        const long most_context = d ? strip.size.longest : strip.size.most_regions;
        const long longest = d ? strip.size.most_regions : strip.size.longest;
        const Gram<S>*asks = d ? strip.v : strip.w, *asked = d ? strip.w : strip.v;
        Vjp vjp(spec, d, most_context, longest, arena);
        S* turned = d ? arena.take((vjp.ld + W) * round_up(most_context, W)) : nullptr;
        Level level(arena, longest);
        S* own = g.d_w; // of context c, or of item j
        for (long c = 0, row = 0; c < contexts; row += asked[c++].m) {
            S* d_context = d ? own : g.d_v[c];
            if (d) own += asked[c].m * asked[c].ld;
            S* d_item = g.d_w;
            for (long j = 0, at = 0; j < items;) {
                Asking x;
                x.count = x.runs = x.n = 0;
                typename Vjp::Room room;
                for (; j < items; at += asks[j++].m) {
                    const S d_score = d ? g.d_scores[j * g.stride + c] : g.d_scores[c * g.stride + j];
                    if (d_score != 0) {
                        if (!room.takes(asks[j].m)) break;
                        x.add(asks[j], d ? g.d_v[j] : d_item, d_score, j, at);
                    }
                    if (!d) d_item += asks[j].m * asks[j].ld;
                }
                if (x.count > 0) ask<d>(x, asked[c], c, row, d_context, vjp, level, arena, turned);
            }
        }
    }

    template <int d>
    void ask(const Asking& x, const Gram<S>& context, long c, long row, S* d_context, Vjp& vjp, Level& level,
             Arena<S> arena, S* turned) {
        const bool means = StripSide<S>::reads_means(spec, d), active = spec.active[d];
        gather<d>(x, context.m, row, vjp.step[0].a, vjp.ld);
        if (means) meet<d>(x, context, vjp.step[0].a, vjp.ld, level, arena);
        if (active) {
            vjp.ask(x.item, x.count);
            vjp.forward(context);
            aggregate<d>(x, vjp, level);
        }
        if (means) means_vjp<d>(x, context, d_mean[1 - d][c], level);
        if (active) {
            vjp.backward(means ? level.spread : nullptr, d_context);
            for (long t = 0; t < x.count; ++t) add(d_length[d] + x.first[t], vjp.d_q + x.at[t], x.item[t].m);
            g.d_scalars[d ? kI2TTemperature : kT2ITemperature] += vjp.d_temperature;
            for (int k = 0; k + 1 < spec.steps[d]; ++k)
                for (int i = 0; i < 2; ++i) g.d_scalars[spec.first_gate(d) + 2 * k + i] += vjp.d_gate[k][i];
        } else {
            for (long i = 0; i < context.m; ++i)
                for (long v = 0; v < x.n; v += W) V::store(vjp.d_a + i * vjp.ld + v, V::load(level.spread + v));
        }
        scatter<d>(x, context.m, row, vjp.d_a, vjp.ld, turned);
    }

    // The inner products of the queries with the context, side by side, and zero behind them.
    template <int d> void gather(const Asking& x, long m, long row, S* a, long ld) const {
        for (long k = 0; k < x.runs; ++k) {
            S* to = a + x.run_at[k];
            const long from = x.run_first[k], n = x.run_size[k];
            if (d) {
                transpose(strip.block + from * strip.ld_block + row, strip.ld_block, n, m, to, ld);
                continue;
            }
            for (long i = 0; i < m; ++i)
                for (long v = 0; v < n; v += W)
                    V::store(to + i * ld + v, V::load(strip.block + (row + i) * strip.ld_block + from + v));
        }
        for (long i = 0; i < m; ++i) V::store(a + i * ld + x.n, V::zero());
    }

    // The gradients of these inner products, back to where gather() read them.
    template <int d> void scatter(const Asking& x, long m, long row, const S* d_a, long ld, S* turned) const {
        const long ld_turned = round_up(m, W);
        for (long k = 0; k < x.runs; ++k) {
            const S* from = d_a + x.run_at[k];
            const long to = x.run_first[k], n = x.run_size[k];
            if (d) {
                transpose(from, ld, m, n, turned, ld_turned);
                for (long i = 0; i < n; ++i) add(g.d_block + (to + i) * g.ld_block + row, turned + i * ld_turned, m);
            } else {
                for (long i = 0; i < m; ++i) add(g.d_block + (row + i) * g.ld_block + to, from + i * ld, n);
            }
        }
    }

    // The items' attention to the context's mean.
    template <int d>
    void meet(const Asking& x, const Gram<S>& context, const S* a, long ld, Level& level, Arena<S> arena) const {
        const bool matched = StripSide<S>::is_matched(spec, d);
        level.attends = matched || StripSide<S>::is_guided(spec, d);
        column_means(a, context.m, ld, x.n, level.mean);
        for (long t = 0; t < x.count; ++t) {
            CrossLevel<S>& item = level.item[t];
            item.gram = &x.item[t];
            item.mu = spec.mu;
            item.other_length = *context.mean;
            item.lay_out(arena);
            T total = V::zero();
            for (long v = 0; v < item.gram->ld; v += W) {
                const T own = first_of(level.mean + x.at[t] + v, item.gram->m - v);
                V::store(item.other + v, own);
                total += own;
            }
            level.total[t] = V::sum(total) / item.gram->m;
            if (!level.attends) continue;
            item.forward();
            if (matched)
                g.d_scalars[d ? kWeightObjectSentence : kWeightWordImage] +=
                    static_cast<double>(x.d_score[t]) * item.score;
        }
        zeros(level.d_guide, x.n);
    }

    // The directions' scores, and the gradients of the steps' relevances.
    template <int d> void aggregate(const Asking& x, Vjp& vjp, Level& level) const {
        DirectionVjp<S> item;
        typename DirectionVjp<S>::Gradients b;
        item.aggregate = spec.aggregate[d];
        item.lse = spec.lse[d];
        b.d_lse = 0;
        for (long t = 0; t < x.count; ++t) {
            item.n = x.item[t].m;
            item.guide = level.item[t].p;
            b.d_guide = level.d_guide + x.at[t];
            S score = 0;
            for (int k = 0; k < spec.steps[d]; ++k) {
                const S* r = vjp.step[k].r + x.at[t];
                b.d_r = vjp.step[k].d_r + x.at[t];
                score += item.aggregated(r);
                item.aggregated_vjp(r, x.d_score[t] * spec.weight[d] / spec.steps[d], b);
            }
            g.d_scalars[d] += static_cast<double>(x.d_score[t]) * (score / spec.steps[d]);
        }
        g.d_scalars[d ? kI2TLse : kT2ILse] += b.d_lse;
    }

    template <int d> void means_vjp(const Asking& x, const Gram<S>& context, S& d_context_mean, Level& level) const {
        const int match = d ? kWeightObjectSentence : kWeightWordImage;
        const S weight = StripSide<S>::is_matched(spec, d) ? spec.weight[match] : 0;
        for (long t = 0; t < x.count; ++t) {
            const Gram<S>& gram = x.item[t];
            for (long v = 0; v < gram.ld; v += W)
                V::store(level.d_p + v, first_of(level.d_guide + x.at[t] + v, gram.m - v));
            zeros(level.d_other, gram.ld);
            zeros(level.d_length, gram.ld);
            if (level.attends)
                level.item[t].backward(x.d_score[t] * weight, level.d_p, level.d_other, level.d_length, x.d_gram[t],
                                       d_context_mean, g.d_scalars[kGuideTemperature]);
            S d_total = 0;
            if (d == 0 && spec.alignment) {
                const S total = level.total[t], term = One::alignment(total, *gram.mean, *context.mean);
                g.d_scalars[kWeightAlignment] += static_cast<double>(x.d_score[t]) * term;
                One::alignment_vjp(total, *gram.mean, *context.mean, x.d_score[t] * spec.weight[kWeightAlignment],
                                   d_total, d_mean[d][x.index[t]], d_context_mean);
            }
            for (long v = 0; v < gram.m; v += W)
                V::store(level.spread + x.at[t] + v,
                         (V::load(level.d_other + v) + d_total / gram.m) / static_cast<S>(context.m));
            add(d_length[d] + x.first[t], level.d_length, gram.m);
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
