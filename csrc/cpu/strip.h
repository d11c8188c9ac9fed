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
    using T = typename V::T;
    static constexpr int W = V::W;
    // Columns that are worked on together: what is kept of them stays in the first cache.
    static constexpr long kColumns = 8 * W;

    const PairSpec<S>& spec;
    const Strip<S>& strip;
    long R, ld;    // regions; padded columns
    S *logit;      // (R, ld) of the softmax over the regions, for powers of two
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
        return regions * columns(words) + 2 * columns(words) + regions * kNR<S> + 2 * kColumns;
    }

    StripScores(const PairSpec<S>& s, const Strip<S>& x, S* memory)
        : spec(s), strip(x), R(x.v.m), ld(columns(x.longest)), logit(memory), q(logit + R * ld), r(q + ld), p(r + ld),
          total(p + R * kNR<S>), most(total + kColumns) {}

    void forward(S* scores) const {
        const S* block = strip.block;
        const bool cosines = spec.relevance[0] == kCosine;
        for (long j = 0; j < strip.count;) {
            long n = 0, last = j;
            do n += strip.w[last++].m;
            while (last < strip.count && last - j < kColumns && n + strip.w[last].m <= kColumns);
            if (cosines) lengths(strip.w + j, last - j);
            if (spec.attend[0] == kHard) {
                cosines ? choose_all<true>(block, n) : choose_all<false>(block, n);
            } else {
                normalise(block, strip.w + j, last - j, n);
                cosines ? attend_all<true>(block, n) : attend_all<false>(block, n);
            }
            aggregate(strip.w + j, last - j, scores + j);
            block += n;
            j = last;
        }
    }

private:
    template <bool cosines> void attend_all(const S* block, long n) const {
        for (long c = 0; c < n; c += kNR<S>) {
            if (n - c <= W)
                attend<1, cosines>(block + c, c);
            else
                attend<kNV, cosines>(block + c, c);
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
    void normalise(const S* block, const Gram<S>* captions, long count, long n) const {
        for (long i = 0; i < R; ++i) V::store(logit + i * ld + n, V::zero());
        for (long j = 0, at = 0; j < count; at += captions[j++].m) {
            const int norm = spec.norm[0];
            if (is_l2(norm))
                is_clipped(norm) ? caption<true, true>(block, at, captions[j].m) : caption<true, false>(block, at, captions[j].m);
            else
                is_clipped(norm) ? caption<false, true>(block, at, captions[j].m) : caption<false, false>(block, at, captions[j].m);
        }
    }

    template <bool squares, bool clip> void caption(const S* block, long at, long n) const {
        const S f = spec.temperature[0] * static_cast<S>(kLog2E);
        const long stride = strip.ld_block;
        for (long i = 0; i < R; i += W) {
            const long rows = R - i < W ? R - i : W;
            const S* a = block + i * stride + at;
            S* out = logit + i * ld + at;
            T sums[W];
            for (long k = 0; k < W; ++k) sums[k] = V::zero();
            for (long v = 0; v < n; v += W) {
                const auto valid = V::first(n - v);
                for (long k = 0; k < rows; ++k) {
                    T x = V::load(a + k * stride + v);
                    if (clip) x = M::leaky(x);
                    V::store(out + k * ld + v, x);
                    sums[k] += V::select(valid, squares ? x * x : V::abs(x), V::zero());
                }
            }
            const T size = lane_sums<S>(sums);
            alignas(CMSEI_VECTOR_BYTES) S factor[W];
            V::store(factor, f / ((squares ? V::sqrt(size) : size) + (S)kEps));
            for (long v = 0; v < n; v += W)
                for (long k = 0; k < rows; ++k)
                    V::store(out + k * ld + v, V::load(out + k * ld + v) * factor[k]);
        }
    }

    template <int NV, bool cosines> void attend(const S* block, long at) const {
        const long stride = strip.ld_block, rows = R, ld_logit = ld;
        const S* x = logit + at;
        S* e = p;
        T sum[NV] = {}, dot[NV] = {}, quad[kNV] = {};
        for (long i = 0; i < rows; ++i, x += ld_logit, e += kNR<S>, block += stride)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T weight = V::exp2(V::load(x + k * W));
                if (cosines) V::store(e + k * W, weight);
                sum[k] += weight;
                dot[k] += weight * V::load(block + k * W);
            }
        if (cosines) quadratic_form(NV, rows, strip.v.half, p, kNR<S>, quad);
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
            u[k] = V::set(strip.v.length[0]);
        }
        for (long i = 1; i < R; ++i) {
            block += strip.ld_block;
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T a = V::load(block + k * W);
                if (cosines) u[k] = V::select(a > best[k], V::set(strip.v.length[i]), u[k]);
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
                if (kind == kLse) y = V::exp(lse * (y - most[j]));
                sum += V::select(V::first(n - v), y, V::zero());
            }
            total[j] = V::sum(sum);
            if (kind == kMean) total[j] /= static_cast<S>(n);
            // A sum of what is not a number is none: so is then the largest.
            if (kind == kMax) total[j] = total[j] == total[j] ? most[j] : total[j];
        }
        for (long j = 0; j < count; ++j)
            scores[j] = weight * (kind == kLse ? most[j] + static_cast<S>(__builtin_log(total[j])) / lse : total[j]);
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
