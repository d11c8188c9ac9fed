// The cross-level attention of both sides of a pair, forward, and the sum of its inner products, by a warp whose lanes
// exchange registers: MatrixTeam of csrc/cuda/tile_pairs.cuh. The block is read once: lane l reads words 4 i + l / 8
// and regions l % 8 + 8 j, and the lanes add up each other's sums. From then on lane l has region l and, if it is one
// of the first eight, 32 + l, and words l and 32 + l. The attention is not divided by its sum: a guided direction
// multiplies by share[].
#pragma once

#include "team_fragments.h"
#include "team_level.h"

namespace cmsei {

constexpr int kMostWordsInFragments = 64;

CMSEI_FORMULA constexpr bool levels_in_fragments(int64_t regions, int64_t words) {
    return regions <= kMostInFragments && words <= kMostWordsInFragments;
}

template <class Team> struct TeamLevelFragments {
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    static constexpr int kTiles = kMostInFragments / 8;
    static constexpr int kRows = 16; // of the block at a time
    static constexpr int kSize = kMostInFragments + kMostWordsInFragments; // numbers of memory

    const Team& team;
    const PairConfig& config;
    const S* scalars;
    PairSide<S> regions, words;
    const S* block; // (L, R) inner products
    int ld;
    S* memory;

    // Attention over the regions (1), over the words (0), without the factor share[] of forward(); 0 up to whole tiles.
    static CMSEI_FORMULA constexpr int place(int d) { return d ? 0 : kMostInFragments; }
    CMSEI_TEAM S* weights(int d) const { return memory + place(d); }

    // Adds up the 2 kHalf numbers x of two lanes that differ in this bit: the lane without it keeps the sums of the
    // first half, the other lane those of the second half, both in x[0] to x[kHalf - 1].
    template <int kHalf> CMSEI_TEAM void halve(S* x, int lane, int bit) const {
        const bool high = (lane & bit) != 0;
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            const S given = high ? x[i] : x[i + kHalf], kept = high ? x[i + kHalf] : x[i];
            x[i] = kept + team.exchanged(given, bit);
        }
    }
    CMSEI_TEAM void add(S& x, int bit) const { x += team.exchanged(x, bit); }

    // Sums of the inner products. Each word's goes to the place of its weight, 0 up to whole kRows. Each region's goes
    // to column[0] of lane r or, from region 32 on, to column[1] of all lanes l with the same l % 8. Returns a part of
    // the sum of all; lanes with the same l / 2 have the same part. There are at least kLeast regions.
    template <int kLeast> CMSEI_TEAM S gather(int lane, S (&column)[2]) const {
        const int down = lane >> 3, across = lane & 7, step = 4 * ld;
        const S* from = block + (down * ld + across);
        S* to = weights(0) + ((across >> 1) * 4 + down);
        S sum[kTiles], all = 0;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) sum[j] = 0;
        int left = words.n - down;
#pragma unroll 1
        do {
            S row[kRows / 4];
#pragma unroll
            for (int i = 0; i < kRows / 4; ++i) {
                row[i] = 0;
                if (4 * i < left) {
#pragma unroll
                    for (int j = 0; j < kTiles; ++j) {
                        if (8 * (j + 1) > kLeast && 8 * j + across >= regions.n) continue;
                        const S x = from[8 * j];
                        sum[j] += x;
                        row[i] = j == 0 ? x : row[i] + x;
                    }
                }
                from += step;
            }
            halve<2>(row, lane, 4);
            halve<1>(row, lane, 2);
            add(row[0], 1);
            all += row[0];
            if ((lane & 1) == 0) *to = row[0];
            to += kRows;
            left -= kRows;
        } while (left + down > 0);
        halve<2>(sum, lane, 16);
        halve<1>(sum, lane, 8);
        add(sum[kTiles - 1], 16);
        add(sum[kTiles - 1], 8);
        column[0] = sum[0];
        column[1] = sum[kTiles - 1];
        return all;
    }

    // The lane's part of half of p G pᵀ, where n lies in the last of kTall tiles of 8. G is symmetric: half of it is
    // the tiles above the diagonal and half of those on it. Columns past the last read numbers of the next row, and
    // weigh 0.
    template <int kTall> CMSEI_TEAM S square_of(int lane, const S* p, const S* gram, int n) const {
        const int down = lane >> 3 << 1, across = lane & 7, last = n - 1;
        const S* top = team.opaque(gram + (down * n + across));
        S column[kTall], total = 0;
#pragma unroll
        for (int i = 0; i < kTall; ++i) {
            const Numbers<2> weight = read<2>(p + (8 * i + down));
            const S *upper = top, *lower = top + n;
            if (i == kTall - 1) {
                const int r = 8 * i + down, c = 8 * i + across;
                upper = gram + ((r < last ? r : last) * n + (c < last ? c : last)) - 8 * i;
                lower = gram + ((r + 1 < last ? r + 1 : last) * n + (c < last ? c : last)) - 8 * i;
            }
            S on = weight.x[0] * upper[8 * i];
            on += weight.x[1] * lower[8 * i];
            column[i] = i == 0 ? S(0.5) * on : column[i] + S(0.5) * on;
            total += p[8 * i + across] * column[i];
#pragma unroll
            for (int j = i + 1; j < kTall; ++j) {
                column[j] = i == 0 ? weight.x[0] * upper[8 * j] : column[j] + weight.x[0] * upper[8 * j];
                column[j] += weight.x[1] * lower[8 * j];
            }
            if (i + 2 < kTall) top = team.opaque(top + 8 * n);
        }
        return total;
    }
    // For any n.
    CMSEI_TEAM S square_of(int lane, const S* p, const S* gram, int n) const {
        const int down = lane >> 3, across = lane & 7;
        S total = 0;
#pragma unroll 1
        for (int j = 0; j < n; j += 8) {
            const int c = j + across < n ? j + across : n - 1;
            S sum = 0;
#pragma unroll 1
            for (int i = down; i < n; i += 4) sum += p[i] * gram[i * n + c];
            total += sum * p[j + across];
        }
        return S(0.5) * total;
    }

    // Every lane gets the weighted sum of the terms; share: by side, the factor that its weights still lack. `known`:
    // the team's KnownGram is that of the regions.
    CMSEI_TEAM S forward(S (&share)[2], bool known) const {
        const int lane = team.lane();
        constexpr int kSlots = 2;
        S sum[2][kSlots], logit[2][kSlots];  // by side: words (0), regions (1)
        S all = regions.n > 32 ? gather<33>(lane, sum[1]) : gather<1>(lane, sum[1]);
        team.sync();
        const S mu = scalars[kGuideTemperature] * static_cast<S>(kLog2OfE);
        S factor[2], most[2], total[2], product[2], square[2] = {0, 0}, gamma[2], weight[2];
#pragma unroll
        for (int d = 0; d < 2; ++d) {
            const PairSide<S>&own = d ? regions : words, &other = d ? words : regions;
            const S* const length = team.opaque(own.length);
            const S unit = M::unit_factor(other.mean);
            gamma[d] = other.mean * unit;
            factor[d] = Math::divide(unit, static_cast<S>(other.n));
            const bool scored = (d ? config.object_sentence : config.word_image) != 0;
            weight[d] = scored ? scalars[d ? kWeightObjectSentence : kWeightWordImage] : S(0);
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) {
                const int i = lane + 32 * slot;
                if (!d) sum[d][slot] = 0;
                logit[d][slot] = -static_cast<S>(INFINITY);
                if (d || slot == 0 || words.n > 32) {
                    const bool inside = i < own.n;
                    if (!d) sum[d][slot] = inside ? weights(0)[i] : S(0);
                    const S size = length[inside ? i : own.n - 1];
                    sum[d][slot] = within<Math>(sum[d][slot] * factor[d], size * gamma[d]);
                    const S c = M::cosine(sum[d][slot] * mu, size, gamma[d]);
                    logit[d][slot] = inside ? c : -static_cast<S>(INFINITY);
                }
            }
            most[d] = Math::max(logit[d][0], logit[d][1]);
        }
        const bool high = (lane & 16) != 0;
        S largest = Math::max(high ? most[0] : most[1], team.exchanged(high ? most[1] : most[0], 16));
#pragma unroll
        for (int bit = 8; bit > 0; bit /= 2) largest = Math::max(team.exchanged(largest, bit), largest);
        const S theirs = team.exchanged(largest, 16);
        most[0] = high ? largest : theirs;
        most[1] = high ? theirs : largest;
#pragma unroll
        for (int d = 0; d < 2; ++d) {
            total[d] = product[d] = 0;
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) {
                if (d || slot == 0 || words.n > 32) {
                    const int i = lane + 32 * slot;
                    const S e = Math::exp2(logit[d][slot] - most[d]);
                    total[d] += e;
                    product[d] += e * sum[d][slot];
                    if (d ? slot == 0 || lane < kMostInFragments - 32 : i < words.n) weights(d)[i] = e;
                }
            }
        }
        team.sync();
        if (config.object_sentence)
            square[1] = known ? team.known.square_of(weights(1), lane)
                              : square_of(lane, weights(1), regions.gram, regions.n);
        if (config.word_image)
            square[0] = words.n > 8 && words.n <= 16    ? square_of<2>(lane, weights(0), words.gram, words.n)
                        : words.n > 16 && words.n <= 24 ? square_of<3>(lane, weights(0), words.gram, words.n)
                                                        : square_of(lane, weights(0), words.gram, words.n);
        // Lanes from 16 on finish the words.
        S x[3][2] = {{total[1], total[0]}, {product[1], product[0]}, {square[1], square[0]}};
#pragma unroll
        for (int i = 0; i < 3; ++i) halve<1>(x[i], lane, 16);
        add(all, 16);
        S y[4] = {x[0][0], x[1][0], x[2][0], all};
        halve<2>(y, lane, 8);
        halve<1>(y, lane, 4);
        add(y[0], 2);
        add(y[0], 1);
        const int first = lane & 16;
        const S inverse = Math::divide(1, team.taken(y[0], first));
        const S dot = team.taken(y[0], first + 4), quad = 2 * team.taken(y[0], first + 8);
        const S attended = M::length(quad) * inverse, mean = high ? gamma[0] : gamma[1];
        S score = M::cosine(within<Math>(dot * inverse, attended * mean), attended, mean);
        score *= high ? weight[0] : weight[1];
        add(score, 16);
        const S other = team.exchanged(inverse, 16);
        share[0] = high ? inverse : other;
        share[1] = high ? other : inverse;
        if (config.alignment)
            score += scalars[kWeightAlignment] *
                     within<Math>(S(0.5) * team.taken(y[0], 12) * factor[0] * factor[1], gamma[0] * gamma[1]);
        return score;
    }
};

}  // namespace cmsei
