// SCAN's own case, many captions of one image at a time: words ask, once, and their inner products are normalised by
// their size, or each chooses one region (MaxSim). The words of all captions lie side by side, so that a register's
// lanes are full and the Gram matrix meets wide panels; only the normalisation and the last sum go caption by caption.
// Included once per instruction set.
#pragma once

#include "pair_epilogue.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripScores {
    using V = Simd<S>;
    using M = PairMath<V>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    using Int = typename V::Int;
    static constexpr int W = V::W;
    // Columns that are worked on together: what is read of them stays in the first cache.
    static constexpr long kColumns = 12 * W;

    // The words of some captions as registers, none of which holds words of two captions.
    struct Pieces {
        static long of(long words) { return (words + W - 1) / W; }
        long at[W] = {};
        typename V::Mask valid[W] = {}, further = {}; // lanes that are words; of a caption's first piece, how many follow
        long rounds = 0;                              // most that follow one
    };

    const PairSpec<S>& spec;
    const Strip<S>& strip;
    Gram<S> v;     // of the image at hand
    long R, ld;    // its regions; most columns
    S *factor;     // (R, W) by a caption's first piece: normalisation times temperature, for powers of two
    S *owner;      // (ld) the first piece of each word's caption, as integers
    S *q, *r;      // (ld) lengths of the words, their relevances
    S *p;          // (R, kNR) attention before it is divided by its sum
    S *total, *most; // (captions) of the last sum

    // The attention is divided by its sum at the very end, which the temperature keeps from overflowing.
    static bool suits(const PairSpec<S>& s) {
        const bool sized = (is_l1(s.norm[0]) || is_l2(s.norm[0])) && s.temperature[0] <= 12 && s.temperature[0] >= -12;
        return s.active[0] && !s.active[1] && !s.cross_level() && s.steps[0] == 1 &&
               (s.attend[0] == kHard || (s.attend[0] == kSoft && sized));
    }

    // A caption longer than kColumns is worked on alone.
    static long columns(long words) { return round_up(words > kColumns ? words : kColumns, kNR<S>) + kNR<S>; }
    static long scratch(long regions, long words) {
        return regions * W + 3 * columns(words) + regions * kNR<S> + 2 * W;
    }

    StripScores(const PairSpec<S>& s, const Strip<S>& x, S* memory)
        : spec(s), strip(x), R(0), ld(columns(x.longest)), factor(memory), owner(factor + x.most_regions * W), q(owner + ld),
          r(q + ld), p(r + ld), total(p + x.most_regions * kNR<S>), most(total + W) {}

    void forward(S* scores, long stride) {
        const S* column = strip.block;
        const bool cosines = spec.relevance[0] == kCosine, soft = spec.attend[0] != kHard;
        for (long j = 0; j < strip.count;) {
            long n = 0, last = j, pieces = 0;
            do {
                n += strip.w[last].m;
                pieces += Pieces::of(strip.w[last++].m);
            } while (last < strip.count && pieces + Pieces::of(strip.w[last].m) <= W && n + strip.w[last].m <= kColumns);
            const Gram<S>* captions = strip.w + j;
            const long count = last - j;
            Pieces cut;
            if (cosines) lengths(captions, count);
            if (soft) cut = pieces > W ? one_piece(n) : cut_of(captions, count, n);
            const S* block = column;
            for (long i = 0; i < strip.images; ++i) {
                v = strip.v[i];
                R = v.m;
                if (!soft)
                    cosines ? choose_all<true>(block, n) : choose_all<false>(block, n);
                else
                    with_norm([&](auto squares, auto clip) {
                        if (pieces > W)
                            normalise_long<squares.value, clip.value>(block, n);
                        else if (pieces > W / 2)
                            normalise<squares.value, clip.value, 1>(block, cut);
                        else
                            normalise<squares.value, clip.value, 2>(block, cut);
                        cosines ? attend_all<true, clip.value>(block, n) : attend_all<false, clip.value>(block, n);
                    });
                aggregate(captions, count, scores + i * stride + j);
                block += R * strip.ld_block;
            }
            column += n;
            j = last;
        }
    }

private:
    template <bool value_> struct Is { static constexpr bool value = value_; };
    template <class Body> CMSEI_INLINE void with_norm(Body body) const {
        const int norm = spec.norm[0];
        if (is_l2(norm))
            is_clipped(norm) ? body(Is<true>(), Is<true>()) : body(Is<true>(), Is<false>());
        else
            is_clipped(norm) ? body(Is<false>(), Is<true>()) : body(Is<false>(), Is<false>());
    }

    template <bool cosines, bool clip> void attend_all(const S* block, long n) const {
        for (long c = 0; c < n; c += kNR<S>) {
            if (n - c <= W)
                attend<1, cosines, clip>(block + c, c);
            else
                attend<kNV, cosines, clip>(block + c, c);
        }
    }
    template <bool cosines> void choose_all(const S* block, long n) const {
        for (long c = 0; c < n; c += kNR<S>) {
            if (n - c <= W)
                choose<1, cosines>(block + c, c);
            else
                choose<kNV, cosines>(block + c, c);
        }
    }

    // Stores run over the end of a caption into the next one, which then stores over them.
    void lengths(const Gram<S>* captions, long count) const {
        for (long j = 0, at = 0; j < count; at += captions[j++].m)
            for (long v = 0; v < captions[j].m; v += W) V::store(q + at + v, V::load(captions[j].length + v));
    }
    static CMSEI_INLINE void store_lanes(S* p, typename V::Mask x) { __builtin_memcpy(p, &x, sizeof x); }

    // These fill `owner` as well.
    Pieces cut_of(const Gram<S>* captions, long count, long n) const {
        Pieces x;
        long k = 0, at = 0;
        for (long j = 0; j < count; at += captions[j++].m) {
            const long first = k, m = captions[j].m;
            for (long v = 0; v < m; v += W, ++k) {
                store_lanes(owner + at + v, typename V::Mask{} + static_cast<Int>(first));
                x.at[k] = at + v;
                x.valid[k] = V::first(m - v);
            }
            x.further[first] = static_cast<Int>(k - first - 1);
            x.rounds = k - first - 1 > x.rounds ? k - first - 1 : x.rounds;
        }
        store_lanes(owner + n, typename V::Mask{});
        return x;
    }

    Pieces one_piece(long n) const {
        for (long v = 0; v <= n; v += W) store_lanes(owner + v, typename V::Mask{});
        return Pieces();
    }

    template <bool squares, bool clip> static CMSEI_INLINE T sized(T x) {
        if (clip) x = M::leaky(x);
        return squares ? x * x : V::abs(x);
    }

    // The sizes of the inner products of each region with all captions: the lanes of their pieces are summed together,
    // of as many regions at once as the pieces leave room for.
    template <bool squares, bool clip, int regions> void normalise(const S* block, const Pieces& x) const {
        constexpr int each = W / regions;
        const S f = spec.temperature[0] * static_cast<S>(kLog2E);
        typename V::Mask lane;
        for (int k = 0; k < W; ++k) lane[k] = k;
        for (long i = 0; i < R; i += regions, block += regions * strip.ld_block) {
            const long next = i + 1 < R ? strip.ld_block : 0;
            T sums[W];
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) {
                const T a = V::load(block + (k < each ? 0 : next) + x.at[k % each]);
                sums[k] = sized<squares, clip>((T)((typename V::Mask)a & x.valid[k % each]));
            }
            const T own = lane_sums<S>(sums);
            for (int m = 0; m < regions && i + m < R; ++m) {
                const T pieces = m == 0 ? own : V::template turned<W / 2>(own);
                T total = pieces;
                for (long k = 1; k <= x.rounds; ++k)
                    total += V::select(x.further >= static_cast<Int>(k),
                                       V::lookup(pieces, (lane + static_cast<Int>(k)) & (W - 1)), V::zero());
                V::store(factor + (i + m) * W, f * M::size_scale(squares, total));
            }
        }
    }

    // Of a caption of more pieces than a register has lanes.
    template <bool squares, bool clip> void normalise_long(const S* block, long n) const {
        const S f = spec.temperature[0] * static_cast<S>(kLog2E);
        for (long i = 0; i < R; ++i, block += strip.ld_block) {
            T sum = V::zero();
            for (long v = 0; v < n; v += W) sum += V::select(V::first(n - v), sized<squares, clip>(V::load(block + v)), V::zero());
            V::store(factor + i * W, f * M::size_scale(squares, V::set(V::sum(sum))));
        }
    }

    template <int NV, bool cosines, bool clip> void attend(const S* block, long at) const {
        const long stride = strip.ld_block, rows = R;
        const S* f = factor;
        S* e = p;
        typename V::Mask from[NV];
        for (int k = 0; k < NV; ++k) __builtin_memcpy(&from[k], owner + at + k * W, sizeof from[k]);
        T sum[NV] = {}, dot[NV] = {}, quad[kNV] = {};
        for (long i = 0; i < rows; ++i, f += W, e += kNR<S>, block += stride)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T a = V::load(block + k * W);
                const T weight = V::exp2_within((clip ? M::leaky(a) : a) * V::lookup(V::load(f), from[k]));
                if (cosines) V::store(e + k * W, weight);
                sum[k] += weight;
                dot[k] += weight * a;
            }
        if (cosines) quadratic_form(NV, rows, v.half, p, kNR<S>, quad);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T inverse = 1 / sum[k];
            if (!cosines) {
                V::store(r + at + k * W, dot[k] * inverse);
                continue;
            }
            const T u = M::length(quad[k]) * inverse;
            V::store(r + at + k * W, M::cosine(dot[k] * inverse, V::load(q + at + k * W), u));
        }
    }

    // The largest inner product of each word, and the length of the first region that has it; NaN if one is.
    template <int NV, bool cosines> void choose(const S* block, long at) const {
        T best[NV], sum[NV], u[NV];
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            best[k] = sum[k] = V::load(block + k * W);
            u[k] = V::set(v.length[0]);
        }
        for (long i = 1; i < R; ++i) {
            block += strip.ld_block;
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T a = V::load(block + k * W);
                if (cosines) u[k] = V::select(a > best[k], V::set(v.length[i]), u[k]);
                best[k] = V::max(a, best[k]);
                sum[k] += a;
            }
        }
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T dot = V::select(sum[k] == sum[k], best[k], sum[k]);
            V::store(r + at + k * W, cosines ? M::cosine(dot, V::load(q + at + k * W), u[k]) : dot);
        }
    }

    void aggregate(const Gram<S>* captions, long count, S* scores) const {
        const int kind = spec.aggregate[0];
        const S lse = spec.lse[0], weight = spec.weight[0];
        const S* x = r;
        for (long j = 0; j < count; x += captions[j++].m) {
            const long n = captions[j].m;
            T sum = V::zero(), best = V::set(x[0]);
            if (kind == kLse || kind == kMax)
                for (long v = 0; v < n; v += W) best = V::max(V::select(V::first(n - v), V::load(x + v), best), best);
            most[j] = V::largest(best);
            for (long v = 0; v < n; v += W) {
                T y = V::load(x + v);
                if (kind == kLse) y = M::lse_share(lse, y, V::set(most[j]));
                sum += V::select(V::first(n - v), y, V::zero());
            }
            total[j] = V::sum(sum);
            if (kind == kMean) total[j] /= static_cast<S>(n);
            // A sum of what is not a number is none: so is then the largest.
            if (kind == kMax) total[j] = total[j] == total[j] ? most[j] : total[j];
        }
        for (long j = 0; j < count; ++j)
            scores[j] = weight * (kind == kLse ? One::lse_value(lse, most[j], total[j]) : total[j]);
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
