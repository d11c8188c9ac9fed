// The score of one image and one caption from their inner products, and its gradient, by a team (team.h).
#pragma once

#include "team_beside.h"
#include "team_direction_vjp.h"
#include "team_level_fragments.h"

namespace cmsei {

// Where the gradient of one pair goes.
template <class S> struct PairTarget {
    S* d_block;          // (L, R) row stride ld, written
    int64_t ld;
    S *d_regions, *d_words; // (R, R), (L, L) of the Gram matrices, added to
    double* totals;      // as PairScorer.scalars(), added to by the first lane
};

template <class S, class Team> struct TeamPair {
    using M = PairMath<Plain<S>>;
    using Direction = TeamDirection<S, Team>;
    using Level = TeamLevel<S, Team>;

    const Team& team;
    const PairConfig& config;
    const S* scalars;
    PairSide<S> regions, words;
    const S* block; // (L, R) inner products
    int ld;         // row stride; odd, so that lanes that own rows meet no bank conflict
    S* memory;      // size(...) numbers

    // Rounds up to an even number: what comes next in memory is read two numbers at a time.
    static CMSEI_FORMULA int64_t even(int64_t numbers) { return (numbers + 1) / 2 * 2; }
    // For any pair of at most these sizes; ld: the row stride of its block.
    static CMSEI_FORMULA int64_t size(const PairConfig& config, int64_t r, int64_t l, int64_t ld, bool keep,
                                      bool fragments = Team::kFragments) {
        int64_t most = 0;
        for (int d = 0; d < 2; ++d) {
            if (!config.on(d)) continue;
            const int64_t own = Direction::size(l * ld, d ? r : l, d ? l : r, config.steps_of(d),
                                                config.attend_of(d), keep, fragments);
            most = own > most ? own : most;
        }
        return most + levels_size(config, r, l, keep, fragments);
    }
    static CMSEI_FORMULA int64_t levels_size(const PairConfig& config, int64_t r, int64_t l, bool keep,
                                             bool fragments) {
        if (!config.cross()) return 0;
        if (fragments && !keep && levels_in_fragments(r, l))
            return kBesideNumbers > TeamLevelFragments<Team>::kSize ? kBesideNumbers : TeamLevelFragments<Team>::kSize;
        return even((Level::size(1) + (keep ? 3 : 0)) * (r + l));
    }

    // The side whose items are the queries of direction d.
    CMSEI_TEAM PairSide<S> side(int d) const {
        return {d ? regions.n : words.n, d ? regions.gram : words.gram, d ? regions.length : words.length,
                d ? regions.mean : words.mean};
    }

    // Computes the attention over the words (0), over the regions (1), and its score if it has one.
    CMSEI_TEAM Level level(int d, S& score) const {
        const PairSide<S> own = side(d), other = side(1 - d);
        S* const place = memory + (d ? Level::size(words.n) : 0);
        Level x{&team, own.n, own.gram, own.length, scalars[kGuideTemperature], other.mean, place};
        const int along = d ? 1 : ld, across = d ? ld : 1;
        CMSEI_EACH(i, own.n) {
            S sum = 0;
            for (int k = 0; k < other.n; ++k) sum += block[i * along + k * across];
            x.other()[i] = Plain<S>::divide(sum, static_cast<S>(other.n));
        }
        score = x.forward(scored(d));
        return x;
    }
    CMSEI_TEAM bool scored(int d) const { return (d ? config.object_sentence : config.word_image) != 0; }
    CMSEI_TEAM S level_weight(int d) const { return scalars[d ? kWeightObjectSentence : kWeightWordImage]; }

    CMSEI_TEAM Direction direction(int d, const S* guide, S* own) const {
        const PairSide<S> asks = side(d), context = side(1 - d);
        return {team,
                asks.n,
                context.n,
                d == 0,
                d ? 1 : ld,
                d ? ld : 1,
                words.n * ld,
                config.norm_of(d),
                config.aggregate_of(d),
                config.steps_of(d),
                config.attend_of(d),
                config.relevance_of(d),
                scalars[d ? kI2TTemperature : kT2ITemperature],
                scalars[d ? kI2TLse : kT2ILse],
                scalars,
                d ? kI2TTemperature : kT2ITemperature,
                config.first_gate(d),
                config.threshold_at(d),
                block,
                context.gram,
                asks.gram,
                asks.length,
                guide,
                own};
    }

    CMSEI_TEAM S alignment_sum() const {
        S sum = 0;
        CMSEI_EACH(j, words.n)
            for (int r = 0; r < regions.n; ++r) sum += block[j * ld + r];
        return Plain<S>::divide(team.sum(sum), static_cast<S>(words.n) * static_cast<S>(regions.n));
    }

    CMSEI_TEAM S aligned(S sum) const {
        return M::alignment(sum, regions.mean, words.mean);
    }

    // The cross-level terms and the alignment; by side, where in memory its attention lies, and the factor that this
    // still lacks.
    struct Crossed {
        S score;
        int guide[2];
        S share[2];
        int numbers; // of memory in use
    };
    // Loads the Gram matrix of 33 regions or more into registers if the words' direction will need it there; returns
    // whether it did.
    CMSEI_TEAM bool know_regions() const {
        if (!config.on(0) || !in_fragments(config.attend_of(0), regions.n) || regions.n <= 32) return false;
        const Direction asking = direction(0, nullptr, memory);
        const Fragments<Direction, kWideRows, kMostInFragments / 8, 33, true> x(asking);
        fragments::load_gram(x);
        return true;
    }
    CMSEI_TEAM Crossed crossed() const {
        Crossed x{0, {0, 0}, {1, 1}, 0};
        if (!config.cross()) return x;
        if constexpr (Team::kFragments) {
            if (levels_in_fragments(regions.n, words.n)) {
                const TeamLevelFragments<Team> both{team, config, scalars, regions, words, block, ld, memory};
                const bool known = config.object_sentence && know_regions();
                x.score = both.forward(x.share, known);
                x.guide[0] = both.place(0);
                x.guide[1] = both.place(1);
                x.numbers = both.kSize;
                return x;
            }
        }
#pragma unroll 1
        for (int d = 0; d < 2; ++d) {
            if (!config.level(d)) continue;
            S score;
            const Level own = level(d, score);
            if (scored(d)) x.score += level_weight(d) * score;
            (d ? x.guide[1] : x.guide[0]) = static_cast<int>(own.p() - memory);
        }
        x.numbers = static_cast<int>(even(Level::size(words.n + regions.n)));
        if (config.alignment) x.score += scalars[kWeightAlignment] * aligned(alignment_sum());
        return x;
    }

    // Hides x from the compiler, so that nothing that follows from it in one direction is kept in registers for the
    // other.
    CMSEI_TEAM int renewed(int x) const {
        if constexpr (Team::kFragments)
            return team.opaque(x);
        else
            return x;
    }
    // What direction d adds to the score; the lane's part of that if the team has fragments.
    CMSEI_TEAM S asked(int d, const Crossed& with) const {
        if (!config.on(d)) return 0;
        S weight = scalars[d ? kWeightI2T : kWeightT2I];
        if (config.aggregate_of(d) == kGuided) weight *= d ? with.share[1] : with.share[0];
        const Direction asking =
            direction(d, memory + (d ? with.guide[1] : with.guide[0]), memory + renewed(with.numbers));
        return weight * asking.forward(false);
    }

    // Every lane gets the score. The caller has a barrier between the writing of the block and this.
    CMSEI_TEAM S forward() const {
        if constexpr (Team::kFragments) {
            if ((team.forms() & kMeansBeside) != 0 && has_rows_for_means(regions.n, words.n))
                return TeamBeside<TeamPair>{*this}.forward();
        }
        const Crossed with = crossed();
        if constexpr (Team::kFragments) {
            // Each direction is compiled separately: most of its fields are then known.
            S part = asked(0, with);
            part += asked(1, with);
            return with.score + team.sum(part);
        } else {
            S score = with.score;
#pragma unroll 1
            for (int d = 0; d < 2; ++d) score += asked(d, with);
            return score;
        }
    }

    CMSEI_TEAM void add(double* totals, int i, S x) const {
        if (team.lane() == 0) totals[i] += x;
    }

    // Computes the score again; d: the score's gradient. Two barriers stand between what a lane writes and others'
    // reading of it.
    CMSEI_TEAM void backward(S d, const PairTarget<S>& to) const {
        const int sides = words.n + regions.n;
        S* const levels = memory + Level::size(sides);  // (words, regions): d_p, d_other, d_length
        S* const own = memory + (config.cross() ? Level::size(sides) + 3 * sides : 0);
        S d_mean_region = 0, d_mean_word = 0;  // of the lengths of the means
        S align = 0;
        if (config.alignment) {
            const S sum = alignment_sum();
            add(to.totals, kWeightAlignment, d * aligned(sum));
            M::alignment_vjp(sum, regions.mean, words.mean, d * scalars[kWeightAlignment], align, d_mean_region,
                             d_mean_word);
            align /= static_cast<S>(words.n) * static_cast<S>(regions.n);
        }
        bool first = true;
#pragma unroll 1
        for (int k = 0; k < 2; ++k) {
            if (!config.level(k) && !config.on(k)) continue;
            const PairSide<S> asks = side(k), context = side(1 - k);
            S *const d_asks = k ? to.d_regions : to.d_words, *const d_context = k ? to.d_words : to.d_regions;
            S* const d_p = levels + (k ? words.n : 0);
            S *const d_other = d_p + sides, *const d_length = d_other + sides;
            Level x{&team, 0, nullptr, nullptr, 0, 0, nullptr};
            if (config.level(k)) {
                S score;
                x = level(k, score);
                CMSEI_EACH(i, asks.n) d_p[i] = 0;
                if (scored(k)) add(to.totals, k ? kWeightObjectSentence : kWeightWordImage, d * score);
            }
            const S* d_a = nullptr;
            if (config.on(k)) {
                const Direction way = direction(k, config.level(k) ? x.p() : nullptr, own);
                typename Direction::Gradient g;
                way.lay_out(g);
                g.d_guide = d_p;
                g.d_gram = d_context;
                g.totals = to.totals;
                add(to.totals, k ? kWeightI2T : kWeightT2I, d * way.forward(true));
                way.backward(d * scalars[k ? kWeightI2T : kWeightT2I], g);
                CMSEI_EACH(i, asks.n) d_asks[i * asks.n + i] += M::length_vjp(asks.length[i], g.d_q[i]);
                d_a = g.d_a;
                team.sync();
            }
            S d_mean_here = 0;
            if (config.level(k)) {
                x.backward(d * level_weight(k), scored(k), d_p, d_other, d_length, d_asks, d_mean_here,
                           to.totals + kGuideTemperature);
                team.sync();
                CMSEI_EACH(i, asks.n) d_asks[i * asks.n + i] += M::length_vjp(asks.length[i], d_length[i]);
            }
            d_mean_word += k ? d_mean_here : S(0);
            d_mean_region += k ? S(0) : d_mean_here;
            emit(to, d_a, config.level(k) ? d_other : nullptr, k != 0, context.n, first);
            first = false;
            team.sync();
        }
        CMSEI_EACH(i, regions.n * words.n) {
            const int j = i / regions.n, r = i - j * regions.n;
            S& out = to.d_block[j * to.ld + r];
            out = first ? align : out + align;
        }
        spread(regions, d_mean_region, to.d_regions);
        spread(words, d_mean_word, to.d_words);
        team.sync();
    }

private:
    // Adds what one direction leaves of the block's gradient, or sets it; each element is always the same lane's.
    CMSEI_TEAM void emit(const PairTarget<S>& to, const S* d_a, const S* d_other, bool by_region, int others,
                         bool first) const {
        CMSEI_EACH(i, regions.n * words.n) {
            const int j = i / regions.n, r = i - j * regions.n;
            S x = d_a ? d_a[j * ld + r] : S(0);
            if (d_other) x += d_other[by_region ? r : j] / static_cast<S>(others);
            S& out = to.d_block[j * to.ld + r];
            out = first ? x : out + x;
        }
    }

    // The length of a mean row is a function of the sum of the Gram matrix.
    CMSEI_TEAM void spread(const PairSide<S>& own, S d, S* d_gram) const {
        const S share = M::length_vjp(own.mean, d) / (static_cast<S>(own.n) * static_cast<S>(own.n));
        if (share == 0) return;
        CMSEI_EACH(i, own.n * own.n) d_gram[i] += share;
    }
};

}  // namespace cmsei
