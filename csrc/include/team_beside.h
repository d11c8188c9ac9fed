// The score of a pair with the means of both sides as further queries, by a warp that multiplies matrices. A
// direction's rows are a multiple of 8: most captions leave one of them free, and so do 33 to 39 regions. In the words'
// free row, the mean word attends to the regions in the first step, with the attention of the cross-level term, and its
// relevance is the object-sentence term; likewise, the mean region's relevance is the word-image term. Both attentions
// follow from sums of the inner products with which the regions' direction begins, over its rows and over its columns.
// If both directions clip or neither does, the scales of the words' first step follow from its sums of squares.
#pragma once

#include "team_direction.h"
#include "team_level.h"

namespace cmsei {

// Numbers of memory: the mean word's attention and inner products, by region; the mean region's, by column of the
// words; and its attention once more, by word.
constexpr int kBesideNumbers = 2 * kMostInFragments + 3 * kSomeWords;

template <class Pair> struct TeamBeside {
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    using Direction = typename Pair::Direction;

    const Pair& pair;

    CMSEI_TEAM S* of_regions() const { return pair.memory; }
    CMSEI_TEAM S* of_words() const { return pair.memory + 2 * kMostInFragments; }
    CMSEI_TEAM S* by_word() const { return of_words() + 2 * kSomeWords; }
    // Where the memory of each direction begins. The words' begins with the scales of their first step, which
    // ask_regions() writes.
    static constexpr int kOfRegions = kBesideNumbers, kOfWords = kBesideNumbers + kMostInFragments;

    // Whether both directions normalise the same numbers, so that the regions' sums of squares serve the words' first
    // step.
    CMSEI_TEAM bool alike() const { return is_clipped(pair.config.norm_of(0)) == is_clipped(pair.config.norm_of(1)); }

    template <int kRows> using AskingWords = Fragments<Direction, kRows, kMostInFragments / 8, 33, true, true>;

    // The regions' direction, with the mean region; before it, the attention of both means. Sets `part`.
    template <int kTiles> CMSEI_TEAM void ask_regions(S& part) const {
        using Asking = Fragments<Direction, kNarrowRows, kTiles, kTiles == 2 ? 1 : 8 * kWideRows + 1, true, true>;
        const PairSide<S>&regions = pair.regions, &words = pair.words;
        const Direction direction = pair.direction(1, of_words(), pair.memory + kOfRegions);
        Asking x(direction);
        fragments::begin(x);
        const S mu = pair.scalars[kGuideTemperature] * static_cast<S>(kLog2OfE);
        const S unit[2] = {M::unit_factor(regions.mean), M::unit_factor(words.mean)};  // of the mean of the other side
        const S gamma[2] = {regions.mean * unit[0], words.mean * unit[1]};
        const S factor[2] = {Math::divide(unit[0], static_cast<S>(regions.n)),
                             Math::divide(unit[1], static_cast<S>(words.n))};
        S total[kNarrowRows], squares[kNarrowRows];
        S s[Asking::kSlots], squared[Asking::kSlots], e[Asking::kSlots];
        S column[2 * kTiles], guide[Asking::Columns::kFinished];
#pragma unroll
        for (int row = 0; row < kNarrowRows; ++row)
#pragma unroll
            for (int c = 0; c < 2 * kTiles; ++c) {
                const S y = x.a[row][c / 2][c % 2], z = x.p[row][c / 2][c % 2];
                total[row] = c == 0 ? y : total[row] + y;
                squares[row] = c == 0 ? z * z : squares[row] + z * z;
                column[c] = row == 0 ? y : column[c] + y;
            }
        Asking::Rows::settle(pair.team, x.lane, total, s);
        Asking::Rows::settle(pair.team, x.lane, squares, squared);
        Asking::Columns::meet(pair.team, x.lane, column, [](S y, S z) { return y + z; });
        pair.team.sync();
        S all, mass[2]; // sums: of all inner products, of each side's attention
#pragma unroll
        for (int slot = 0; slot < Asking::kSlots; ++slot) {
            const int q = x.finished(slot);
            s[slot] *= factor[1];
            const S held = within<Math>(s[slot], x.length[slot] * gamma[1]);
            const S weight = Math::exp2(M::cosine(held * mu, x.length[slot], gamma[1]));
            e[slot] = q < regions.n ? weight : S(0);
            of_regions()[q] = e[slot];
            of_regions()[kMostInFragments + q] = held;
            pair.memory[kOfWords + q] = pair.scalars[kT2ITemperature] * static_cast<S>(kLog2OfE) *
                                        M::size_scale(true, squared[slot]);
            if ((x.lane & 3) >= Asking::Rows::rows_of(slot)) s[slot] = e[slot] = 0;
            all = slot == 0 ? s[slot] : all + s[slot];
            mass[1] = slot == 0 ? e[slot] : mass[1] + e[slot];
        }
#pragma unroll
        for (int i = 0; i < Asking::Columns::kFinished; ++i) {
            const int c = x.finished_column(i), word = x.finished_item(i);
            const S length = words.length[word < words.n ? word : words.n - 1];
            const S y = within<Math>(column[i] * factor[0], length * gamma[0]);
            const S weight = Math::exp2(M::cosine(y * mu, length, gamma[0]));
            guide[i] = word < words.n ? weight : S(0);
            of_words()[c] = guide[i];
            of_words()[8 * kTiles + c] = y;
            const S counts = Asking::Columns::first_to_finish(x.lane, i) ? guide[i] : S(0);
            mass[0] = i == 0 ? counts : mass[0] + counts;
        }
        S share[2];
        shares(x.lane, mass, share, all);
#pragma unroll
        for (int slot = 0; slot < Asking::kSlots; ++slot) e[slot] *= share[1];
#pragma unroll
        for (int i = 0; i < Asking::Columns::kFinished; ++i) by_word()[x.finished_item(i)] = guide[i] * share[0];
        pair.team.sync();
        if (x.has_mean()) x.length[Asking::kSlots - 1] = gamma[0];
        const S aligned = pair.scalars[kWeightAlignment] * within<Math>(factor[0] * all, gamma[0] * gamma[1]);
        part = pair.config.alignment && x.lane == 0 ? aligned : S(0);
        S sum[Asking::kSlots];
        fragments::sum_steps(x, sum);
#pragma unroll
        for (int slot = 0; slot < Asking::kSlots; ++slot) part += e[slot] * sum[slot];
        if (x.finishes_mean() && pair.config.word_image)
            part += pair.scalars[kWeightWordImage] * sum[Asking::kSlots - 1];
    }

    // The words' direction, with the mean word: adds to `part`.
    template <int kRows> CMSEI_TEAM void ask_words(S& part) const {
        using Asking = AskingWords<kRows>;
        const Direction direction = pair.direction(0, of_regions(), pair.memory + pair.renewed(kOfWords));
        Asking x(direction);
        x.scaled = alike();
        fragments::begin(x);
        const S mean = pair.words.mean;
        if (x.has_mean() && x.finished(0) >= 8 * (kRows - 1)) x.length[0] = mean * M::unit_factor(mean);
        S sum[1];
        fragments::sum_steps(x, sum);
        if (x.finishes(0)) part += by_word()[x.finished(0)] * sum[0];
        if (x.finishes_mean() && pair.config.object_sentence) part += pair.scalars[kWeightObjectSentence] * sum[0];
    }

    // Every lane gets the score.
    CMSEI_TEAM S forward() const {
        S part;
        if (pair.words.n < 8 * kWideRows) {
            pair.team.passes(kBesideTwoEights);
            ask_regions<kNarrowContext / 8>(part);
            ask_words<kWideRows>(part);
        } else {
            pair.team.passes(kBesideThreeEights);
            ask_regions<kSomeWords / 8>(part);
            ask_words<kSomeWords / 8>(part);
            pair.team.known.forget_rests();
        }
        pair.team.sync();
        return pair.team.sum(part);
    }

    // From the lanes' parts: the factor that each side's attention still lacks (its direction's weight over its sum and
    // the number of steps), and the sum of `all`.
    CMSEI_TEAM void shares(int lane, const S (&mass)[2], S (&share)[2], S& all) const {
        const auto& team = pair.team;
        const bool high = (lane & 16) != 0;
        S x = (high ? mass[1] : mass[0]) + team.exchanged(high ? mass[0] : mass[1], 16);
        all += team.exchanged(all, 16);
        const bool sums = (lane & 8) == 0; // of `all`; the other lanes sum the attention
        x = (sums ? all : x) + team.exchanged(sums ? x : all, 8);
#pragma unroll
        for (int bit = 4; bit > 0; bit /= 2) x += team.exchanged(x, bit);
        all = x;
        const S own = Math::divide(pair.scalars[high ? kWeightI2T : kWeightT2I],
                                   x * static_cast<S>(high ? pair.config.steps_of(1) : pair.config.steps_of(0)));
        share[0] = team.taken(own, 8);
        share[1] = team.taken(own, 24);
    }
};

}  // namespace cmsei
