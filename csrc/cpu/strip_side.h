// One side of a strip once the relevances of its queries are known: the items whose rows are the queries (captions in
// t2i, images in i2t), each with all items of the other side in the lanes. What a pair sums over the item's own rows is
// summed register by register: the aggregation of the relevances, the attention to the other side's mean (word–image
// for captions, object–sentence for images) and the alignment. Included once per instruction set.
#pragma once

#include "direction.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripSide {
    using V = Simd<S>;
    using M = PairMath<V>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const bool active, guided, matched, aligned; // of the side: its direction, its guide, its own score, the alignment
    const int aggregate, steps;
    const S weight, match_weight, align_weight, lse, mu;
    const long others, lanes;  // of the other side, and rounded up
    const long ld;             // queries in a row of `relevance` and `mean`
    S *relevance, *mean;       // (steps, others, ld), (others, ld): by query; inner products with the others' means
    S *r, *x, *p;              // (steps, rows, lanes), (rows, lanes), (rows, kNR) of one item
    S* other_mean;             // (lanes) lengths of the others' means, zero past the last

    // Whether the score needs anything of the side.
    static bool needed(const PairSpec<S>& s, int d) { return s.active[d] || reads_means(s, d); }
    static bool reads_means(const PairSpec<S>& s, int d) {
        return is_guided(s, d) || is_matched(s, d) || (d == 0 && s.alignment);
    }
    static bool is_guided(const PairSpec<S>& s, int d) { return s.active[d] && s.aggregate[d] == kGuided; }
    static bool is_matched(const PairSpec<S>& s, int d) { return d ? s.object_sentence : s.word_image; }

    // Stores run over the end of a row by up to a register.
    static long row(long queries) { return round_up(queries, W) + W; }
    static long size(const PairSpec<S>& s, int d, long queries, long others, long longest) {
        const long lanes = round_up(others, kNR<S>), rows = round_up(longest, W);
        const long matrices = (s.active[d] ? s.steps[d] : 0) + reads_means(s, d);
        return matrices * (lanes * row(queries) + rows * lanes) + rows * kNR<S> + lanes;
    }

    StripSide(const PairSpec<S>& s, int d, long queries, long count, long longest, Arena<S>& arena)
        : active(s.active[d]), guided(is_guided(s, d)), matched(is_matched(s, d)), aligned(d == 0 && s.alignment),
          aggregate(s.aggregate[d]), steps(s.active[d] ? s.steps[d] : 0), weight(s.weight[d]),
          match_weight(s.weight[d ? kWeightObjectSentence : kWeightWordImage]),
          align_weight(s.weight[kWeightAlignment]), lse(s.lse[d]), mu(s.mu), others(count),
          lanes(round_up(count, kNR<S>)), ld(row(queries)) {
        const long rows = round_up(longest, W);
        relevance = arena.take(steps * lanes * ld);
        r = arena.take(steps * rows * lanes);
        mean = x = nullptr;
        if (reads_means(s, d)) {
            mean = arena.take(lanes * ld);
            x = arena.take(rows * lanes);
        }
        p = arena.take(rows * kNR<S>);
        other_mean = arena.take(lanes);
    }

    long step() const { return lanes * ld; }

    // Takes the other side's items, with whose means the rows are compared.
    void meet(const Gram<S>* items) const {
        for (long j = 0; mean && j < lanes; ++j) other_mean[j] = j < others ? *items[j].mean : S(0);
    }

    // The scores of one item, whose first query is `first`, with all others: (lanes).
    void score(const Gram<S>& item, long first, S* out) const {
        const long rows = round_up(item.m, W);
        for (int k = 0; k < steps; ++k) turn(relevance + k * step() + first, item.m, r + k * rows * lanes);
        if (mean) turn(mean + first, item.m, x);
        for (long v = 0; v < lanes; v += kNR<S>)
            others - v <= W ? score<1>(item, rows, v, out) : score<kNV>(item, rows, v, out);
    }

private:
    void turn(const S* from, long m, S* to) const { transpose(from, ld, others, m, to, lanes); }

    template <int NV> void score(const Gram<S>& item, long rows, long v, S* out) const {
        T total[NV] = {}, share[NV] = {};
        if (guided || matched) attend<NV>(item, v, share, total);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const long lane = v + k * W;
            T sum = V::zero();
            for (int i = 0; i < steps; ++i) sum += aggregated(item.m, lane, r + i * rows * lanes + lane, p + k * W);
            if (guided) sum *= share[k];
            if (active) total[k] += weight / static_cast<S>(steps) * sum;
            if (aligned) total[k] += align_weight * alignment(item, lane);
            V::store(out + lane, total[k]);
        }
    }

    // The item's rows weighed by their cosines with the mean of each other item, in `p`, not divided by the sum of the
    // weights; `share` is 1 / that sum. Sets `score` to the weighted cross-level term.
    template <int NV> CMSEI_INLINE void attend(const Gram<S>& item, long v, T* share, T* score) const {
        // Beyond 12, the quadratic form of undivided weights would leave too little of float32's range for the squares
        // of long vectors.
        const bool bounded = mu <= 12 && mu >= -12;
        const S f = mu * static_cast<S>(kLog2E);
        T sum[NV] = {}, dot[NV] = {}, quad[kNV] = {}, factor[NV], gamma[NV], shift[NV] = {};
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T length = V::load(other_mean + v + k * W);
            factor[k] = M::unit_factor(length);
            gamma[k] = length * factor[k];
        }
        const auto product = [&](long i, int k) {
            return within<V>(V::load(x + i * lanes + v + k * W) * factor[k], item.length[i] * gamma[k]);
        };
        const auto logit = [&](long i, int k, T a) { return f * M::cosine(a, V::set(item.length[i]), gamma[k]); };
        if (!bounded)
            for (long i = 0; i < item.m; ++i)
                for (int k = 0; k < NV; ++k) {
                    const T y = logit(i, k, product(i, k));
                    shift[k] = i == 0 ? y : V::max(y, shift[k]);
                }
        for (long i = 0; i < item.m; ++i)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T a = product(i, k), y = logit(i, k, a);
                const T e = bounded ? V::exp2_within(y) : V::exp2(V::rounded(y) - shift[k]);
                V::store(p + i * kNR<S> + k * W, e);
                sum[k] += e;
                dot[k] += e * a;
            }
        if (matched) quadratic_form(NV, item.m, item.half, p, kNR<S>, quad);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            share[k] = 1 / sum[k];
            if (!matched) continue;
            const T attended = M::length(quad[k]) * share[k];
            score[k] = match_weight * M::cosine(within<V>(dot[k] * share[k], attended * gamma[k]), attended, gamma[k]);
        }
    }

    // The aggregate of m relevances x, `lanes` apart; `guide` is not divided by its sum, which is left to the caller.
    CMSEI_INLINE T aggregated(long m, long lane, const S* x, const S* guide) const {
        T sum = V::zero(), best = V::load(x);
        if (aggregate == kGuided) {
            for (long i = 0; i < m; ++i) sum += V::load(guide + i * kNR<S>) * V::load(x + i * lanes);
            return sum;
        }
        if (aggregate == kMean || aggregate == kSum) {
            for (long i = 0; i < m; ++i) sum += V::load(x + i * lanes);
            return aggregate == kMean ? sum / static_cast<S>(m) : sum;
        }
        for (long i = 1; i < m; ++i) best = V::max(V::load(x + i * lanes), best);
        for (long i = 0; i < m; ++i) {
            const T y = V::load(x + i * lanes);
            sum += aggregate == kLse ? M::lse_share(lse, y, best) : y;
        }
        if (aggregate == kLse) {
            T out = V::zero();
            for (int i = 0; i < W && lane + i < others; ++i) out[i] = One::lse_value(lse, best[i], sum[i]);
            return out;
        }
        // A maximum can drop NaN, a sum cannot: if the sum is NaN, return it.
        return V::select(sum == sum, best, sum);
    }

    // The alignment of a caption with the images in the lanes.
    CMSEI_INLINE T alignment(const Gram<S>& item, long lane) const {
        T sum = V::zero();
        for (long i = 0; i < item.m; ++i) sum += V::load(x + i * lanes + lane);
        return M::alignment(sum / static_cast<S>(item.m), V::set(*item.mean), V::load(other_mean + lane));
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
