// A lane's part of one direction if a warp keeps all its queries and the whole context in registers, in the layout of
// mma m16n8k8; and which query and which item each of its numbers belongs to.
//
// Lane l has rows l / 4 and l / 4 + 8 of a block of sixteen queries and, in tile j of 8 items, two columns, 2 (l % 4)
// and the next. That is the layout of the instruction's sums and, since the order of the items along the depth is free,
// of its left operand.
#pragma once

#include "known_gram.h"
#include "team_meetings.h"

namespace cmsei {

// A direction whose context has at least kLeast items and at most kTiles tiles of 8. It takes 8 kRows queries at a
// time; if there are more, the inner products of a next step, lengths and relevances are in memory. Rows past the last
// query have inner products of 0, which the team's memory holds where they are read (tile_plan.h); items past the last
// have weight 0.
//
// kUsual: compiled for usual directions alone (see usual()), without the tests for other options.
// kBeside: the last row, which no query takes, has the mean of the queries, whose attention in the first step is known
// (team_beside.h).
template <class Direction, int rows, int tiles, int fewest, bool usual_alone, bool beside = false> struct Fragments {
    static constexpr int kRows = rows, kTiles = tiles, kLeast = fewest;
    static constexpr bool kUsual = usual_alone, kBeside = beside;
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    static constexpr int kBlocks = (kRows + 1) / 2; // of the left operand; the last one may be half of one
    using Columns = MeetingColumns<2 * kTiles>;
    using Rows = MeetingRows<kRows>;
    static constexpr int kSlots = Rows::kSlots;
    // The Gram matrix of a wide context lies in KnownGram, and a lane's two items of a tile are neighbours. Otherwise
    // they are four apart, so that what the lanes read for eight neighbouring queries lies in different banks.
    static constexpr bool kWide = kRows < kNarrowRows;
    // The rests of its numbers (fragment_gram.h) lie there too, if the registers suffice.
    static constexpr bool kParts = kUsual && kWide && kRows <= kWideRows;

    const Direction& of;
    int lane, n, m, column; // n queries, m context items; column: the lane's first of each tile
    int first;              // query of the rows at hand
    S a[kRows][kTiles][2];  // inner products; the rows are eight apart
    S p[kRows][kTiles][2];  // leaky inner products (leak()), then the attention
    S length[kSlots], r[kSlots]; // of the rows that the lane finishes: |Q|, relevance
    bool scaled;            // with kBeside: the first step's scales are in memory already
    S least;                // the |U| from which on U's direction suffices: direction_suffices()
    S narrow[kTiles][kTiles][2]; // the Gram matrix, unless it is kept

    CMSEI_TEAM explicit Fragments(const Direction& direction)
        : of(direction), lane(of.team.lane()), n(of.team.opaque(of.n)), m(of.team.opaque(of.m)),
          column((lane & 3) * 2), first(0), scaled(false) {}

    // Hides these numbers from the compiler, which would otherwise keep what follows from them in registers: addresses
    // are computed where they are used.
    CMSEI_TEAM void renew() {
        lane = of.team.opaque(lane);
        column = of.team.opaque(column);
        n = of.team.opaque(n);
        m = of.team.opaque(m);
    }

    // Whether the direction is a usual one (PairConfig::derive(): cosine, softmax, a norm by squares), of a small
    // temperature, with no more queries than the rows hold.
    static CMSEI_TEAM bool usual(const Direction& d) {
        return (d.team.forms() & (d.words ? kUsualWords : kUsualRegions)) != 0 && d.n <= 8 * kRows;
    }
    // Whether there are more queries than the rows hold.
    CMSEI_TEAM bool many() const { return !kUsual && n > 8 * kRows; }
    CMSEI_TEAM bool plain() const { return !kUsual && is_plain(of.norm); }
    CMSEI_TEAM bool exponential() const { return !kUsual && of.norm == kSoftmax; }
    CMSEI_TEAM bool squares() const { return kUsual || is_l2(of.norm); }
    CMSEI_TEAM bool bounded() const { return kUsual || is_bounded(of.norm, of.temperature); }
    CMSEI_TEAM bool focal() const { return !kUsual && is_focal(of.how); }
    CMSEI_TEAM int relevance_kind() const { return kUsual ? kCosine : of.relevance_kind; }
    CMSEI_TEAM bool multiplies(int k) const { return kUsual || of.multiplies(k); }

    static CMSEI_FORMULA constexpr bool full(int j) { return 8 * (j + 1) <= kLeast; }
    CMSEI_TEAM bool begins(int j) const { return 8 * j < kLeast || 8 * j < m; }
    CMSEI_TEAM int query(int row) const { return first + (lane >> 2) + 8 * row; }
    // Whether any of these eight rows has a query.
    CMSEI_TEAM bool used(int row) const { return row == 0 || first + 8 * row < n; }
    // The item of the lane's number i, and of column c, in tile j of the matrices.
    CMSEI_TEAM int item(int j, int i) const { return 8 * j + (kWide ? column + i : (column >> 1) + 4 * i); }
    CMSEI_TEAM int item_of(int j, int c) const { return 8 * j + (kWide ? c : (c >> 1) + (c & 1) * 4); }
    CMSEI_TEAM bool has(int j, int i) const { return full(j) || item(j, i) < m; }
    CMSEI_TEAM int nearest(int j, int c) const { return full(j) || c < m ? c : m - 1; }

    // Memory for many() queries, by query; next(): the inner products of the next step.
    CMSEI_TEAM S* relevances() const { return of.memory + 16 * kTiles; }
    CMSEI_TEAM S* lengths() const { return relevances() + n; }
    CMSEI_TEAM S* next() const { return lengths() + n; }

    // The query whose sums the lane ends up with in this slot (MeetingRows).
    CMSEI_TEAM int finished(int slot) const { return query(Rows::finished(lane, slot)); }
    CMSEI_TEAM bool finishes(int slot) const {
        return finished(slot) < n && (lane & 3) < Rows::rows_of(slot);
    }

    // The column whose sum the lane ends up with as its number i (MeetingColumns), as a place in memory; and its item.
    CMSEI_TEAM int finished_column(int i) const {
        const int c = Columns::finished(lane, i);
        return 8 * (c >> 1) + column + (c & 1);
    }
    CMSEI_TEAM int finished_item(int i) const {
        const int c = Columns::finished(lane, i);
        return item(c >> 1, 0) + (kWide ? 1 : 4) * (c & 1);
    }
    // Calls use(row, tile, number) for each of the lane's inner products.
    template <class Use> CMSEI_TEAM void each(const Use& use) const {
#pragma unroll
        for (int row = 0; row < kRows; ++row)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) use(row, j, i);
    }

    // Whether the lane has numbers of the mean's row, the last one.
    CMSEI_TEAM bool has_mean() const { return lane >> 2 == 7; }
    CMSEI_TEAM const S* mean_products() const { return of.guide + 8 * kTiles; }
    // Whether the lane finishes the mean's row, and no other lane.
    CMSEI_TEAM bool finishes_mean() const { return has_mean() && (lane & 3) == Rows::rows_of(kSlots - 1) - 1; }
};

namespace fragments {

using S = float;
using Math = Plain<S>;
using M = PairMath<Math>;

}  // namespace fragments
}  // namespace cmsei
