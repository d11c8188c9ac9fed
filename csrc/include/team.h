// A team is a number of lanes that work on one problem in memory they share. A policy of it has lane(), size(), sync()
// (a barrier that also orders what the lanes wrote), and sum(x) and largest(x) over the lanes, which give every lane
// the same bits. The pair score in team_*.h is written against it: on a GPU a warp or a block is a team, on a host
// Alone.
// kFragments: whether the team is a warp that also multiplies matrices in its registers, for team_fragments.h.
#pragma once

#include <stdint.h>

#include "pair_math.h"

// Functions whose team may be one of the device.
#if defined(__CUDACC__)
#define CMSEI_TEAM __device__ __forceinline__
#else
#define CMSEI_TEAM inline
#endif

namespace cmsei {

// The team of one.
struct Alone {
    static constexpr bool kFragments = false;
    CMSEI_TEAM int lane() const { return 0; }
    CMSEI_TEAM int size() const { return 1; }
    CMSEI_TEAM void sync() const {}
    template <class T> CMSEI_TEAM T sum(T x) const { return x; }
    template <class T> CMSEI_TEAM T largest(T x) const { return x; }
};

// A team's lanes take i = lane, lane + size, ...
#define CMSEI_EACH(i, count) for (int i = team.lane(); i < (count); i += team.size())

// Special forms of the score in fragments, as bits of those that a scorer has: a usual t2i direction (see
// Fragments::usual()), a usual i2t direction, and both with the means as further queries (team_beside.h).
enum Forms : int { kUsualWords = 1, kUsualRegions = 2, kMeansBeside = 4 };

// The structure of a scorer, as PairScorer.config(). In direction 0 words attend to regions (t2i), in direction 1
// regions to words (i2t).
struct PairConfig {
    int active[2], norm[2], aggregate[2], steps[2], attend[2], relevance[2];
    int object_sentence, word_image, alignment;

    // Derived from these; thresholds come after the gates of both directions.
    int levels[2],     // whether the words (0), the regions (1) are weighed by their cosines with the other side's mean
        gates[2],      // by direction, the place of its first gate among the scalars
        thresholds[2], // by direction, the place of its threshold; a direction that has one has no gates
        crosses;       // whether the scorer has anything but the directions
    int forms; // its Forms, if the temperatures are small enough: forms_of() in fragment_forms.h

    CMSEI_FORMULA bool on(int d) const { return active[d] != 0; }
    CMSEI_FORMULA int norm_of(int d) const { return norm[d]; }
    CMSEI_FORMULA int aggregate_of(int d) const { return aggregate[d]; }
    CMSEI_FORMULA int steps_of(int d) const { return steps[d]; }
    CMSEI_FORMULA int attend_of(int d) const { return attend[d]; }
    CMSEI_FORMULA int relevance_of(int d) const { return relevance[d]; }
    CMSEI_FORMULA bool level(int d) const { return levels[d] != 0; }
    CMSEI_FORMULA bool cross() const { return crosses != 0; }
    CMSEI_FORMULA int first_gate(int d) const { return gates[d]; }
    CMSEI_FORMULA int threshold_at(int d) const { return thresholds[d]; }
    inline void derive();
};

constexpr int kMaxScalars = kFirstGate + 2 * 2 * 7;

inline void PairConfig::derive() {
    const auto aware = [this](int d) { return active[d] && attend[d] == kNegativeAware ? 1 : 0; };
    const int own[2] = {active[0] ? 2 * (steps[0] - 1) : 0, active[1] ? 2 * (steps[1] - 1) : 0};
    gates[0] = kFirstGate;
    gates[1] = kFirstGate + own[0];
    thresholds[0] = gates[1] + own[1];
    thresholds[1] = thresholds[0] + aware(0);
    for (int d = 0; d < 2; ++d)
        levels[d] = (active[d] && aggregate[d] == kGuided) || (d ? object_sentence : word_image);
    crosses = levels[0] || levels[1] || alignment;
    const auto usual = [this](int d) { return is_l2(norm[d]) && attend[d] == kSoft && relevance[d] == kCosine; };
    const bool guided = active[0] && active[1] && aggregate[0] == kGuided && aggregate[1] == kGuided;
    forms = (usual(0) ? kUsualWords : 0) | (usual(1) ? kUsualRegions : 0);
    forms |= guided && forms == (kUsualWords | kUsualRegions) ? kMeansBeside : 0;
}

constexpr double kLog2OfE = 1.4426950408889634073599246810019;

// An element (i, j) lies at i * row + j * column.
template <class S> struct Grid {
    S* data;
    int row, column;
    CMSEI_FORMULA S* at(int i, int j) const { return data + i * row + j * column; }
};

// Calls put(i, j, sum) for every element of x (rows, depth) · y (depth, columns). A lane takes tiles of 2 x 4 whose
// columns lie apart, so that neighbouring lanes read neighbours; which lane has an element depends on the sizes alone.
template <class S, class Team, class Put>
CMSEI_TEAM void contract(const Team& team, Grid<const S> x, Grid<const S> y, int rows, int columns, int depth,
                         const Put& put) {
    constexpr int kTall = 2, kWide = 4;
    const int down = (rows + kTall - 1) / kTall, across = (columns + kWide - 1) / kWide;
    CMSEI_EACH(tile, down * across) {
        const int i0 = tile / across, j0 = tile - i0 * across;
        const S *left[kTall], *right[kWide];
        S sum[kTall][kWide];
#pragma unroll
        for (int i = 0; i < kTall; ++i) left[i] = x.at(i0 + i * down < rows ? i0 + i * down : i0, 0);
#pragma unroll
        for (int j = 0; j < kWide; ++j) right[j] = y.at(0, j0 + j * across < columns ? j0 + j * across : j0);
#pragma unroll
        for (int i = 0; i < kTall; ++i)
#pragma unroll
            for (int j = 0; j < kWide; ++j) sum[i][j] = 0;
        for (int k = 0, a = 0, b = 0; k < depth; ++k, a += x.column, b += y.row) {
            S u[kTall], v[kWide];
#pragma unroll
            for (int i = 0; i < kTall; ++i) u[i] = left[i][a];
#pragma unroll
            for (int j = 0; j < kWide; ++j) v[j] = right[j][b];
#pragma unroll
            for (int i = 0; i < kTall; ++i)
#pragma unroll
                for (int j = 0; j < kWide; ++j) sum[i][j] += u[i] * v[j];
        }
#pragma unroll
        for (int i = 0; i < kTall; ++i)
#pragma unroll
            for (int j = 0; j < kWide; ++j) {
                const int row = i0 + i * down, column = j0 + j * across;
                if (row < rows && column < columns) put(row, column, sum[i][j]);
            }
    }
}

// out (rows, columns) = x (rows, depth) · y (depth, columns), or out += that product.
template <class S, class Team>
CMSEI_TEAM void multiply(const Team& team, Grid<const S> x, Grid<const S> y, Grid<S> out, int rows, int columns,
                         int depth, bool add) {
    contract<S>(team, x, y, rows, columns, depth, [&](int row, int column, S sum) {
        S* to = out.at(row, column);
        *to = add ? *to + sum : sum;
    });
}

}  // namespace cmsei
