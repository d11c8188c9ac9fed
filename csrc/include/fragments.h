// What a lane has of a direction's queries and context where a warp that multiplies matrices has all of them in the
// registers of mma m16n8k8, and of which query and item it has what.
//
// Lane l has rows l / 4 and l / 4 + 8 of a block of sixteen queries and, in tile j of 8 items, two columns, 2 (l % 4)
// and the next: as the instruction has its sums and, in an order of the depth of our own, its left operand.
#pragma once

#include "known_gram.h"
#include "team_meetings.h"

namespace cmsei {

// A direction whose context has at least kLeast items and at most kTiles tiles, 8 kRows queries at a time: where there
// are more, inner products of a next step, lengths and relevances are in memory. Rows outside have inner products of 0,
// for the team's memory has zeros where they are read (tile_plan.h); items outside have a weight of 0.
//
// kUsual: compiled for the usual alone (see usual()), so that nothing else is asked for.
// kBeside: the last row, of no query, is the mean of the queries, whose attention in the first step is known
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
    // A wide context's Gram matrix is kept. A lane's two items of a tile are neighbours, else four apart: what lanes
    // read of eight queries that are neighbours then lies in different banks.
    static constexpr bool kWide = kRows < kNarrowRows;
    // The rests of its numbers are kept too, where there is room.
    static constexpr bool kParts = kUsual && kWide && kRows <= kWideRows;

    const Direction& of;
    int lane, n, m, column; // queries, context; column: the first of each tile
    int first;              // query of the rows at hand
    S a[kRows][kTiles][2];  // inner products; the rows are eight apart
    S p[kRows][kTiles][2];  // what is left of them where they are negative, then the attention
    S length[kSlots], r[kSlots]; // of the row that the lane finishes: |Q|, relevance
    bool scaled;            // of kBeside: the first step's scales are in the memory
    S least;                // |U|, of which then the direction suffices: see direction_suffices()
    S narrow[kTiles][kTiles][2]; // the Gram matrix, unless it is kept

    CMSEI_TEAM explicit Fragments(const Direction& direction)
        : of(direction), lane(of.team.lane()), n(of.team.opaque(of.n)), m(of.team.opaque(of.m)),
          column((lane & 3) * 2), first(0), scaled(false) {}

    // Nothing that follows from these is kept in registers from here on: places are computed where they are used.
    CMSEI_TEAM void renew() {
        lane = of.team.opaque(lane);
        column = of.team.opaque(column);
        n = of.team.opaque(n);
        m = of.team.opaque(m);
    }

    // What most scorers ask for, of pairs as most are.
    static CMSEI_TEAM bool usual(const Direction& d) {
        return (d.team.forms() & (d.words ? kUsualWords : kUsualRegions)) != 0 && d.n <= 8 * kRows;
    }
    // Whether there are more queries than are at hand.
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
    // Whether any of these eight queries is one.
    CMSEI_TEAM bool used(int row) const { return row == 0 || first + 8 * row < n; }
    // The item of the lane's number i, and of column c, of a tile of the matrices.
    CMSEI_TEAM int item(int j, int i) const { return 8 * j + (kWide ? column + i : (column >> 1) + 4 * i); }
    CMSEI_TEAM int item_of(int j, int c) const { return 8 * j + (kWide ? c : (c >> 1) + (c & 1) * 4); }
    CMSEI_TEAM bool has(int j, int i) const { return full(j) || item(j, i) < m; }
    CMSEI_TEAM int nearest(int j, int c) const { return full(j) || c < m ? c : m - 1; }

    // Of many queries, by query.
    CMSEI_TEAM S* relevances() const { return of.memory + 16 * kTiles; }
    CMSEI_TEAM S* lengths() const { return relevances() + n; }
    CMSEI_TEAM S* next() const { return lengths() + n; }

    // Which query the lane finishes.
    CMSEI_TEAM int finished(int slot) const { return query(Rows::finished(lane, slot)); }
    CMSEI_TEAM bool finishes(int slot) const {
        return finished(slot) < n && (lane & 3) < Rows::rows_of(slot);
    }

    // Where in a memory by column those are that the lane finishes, and of which item.
    CMSEI_TEAM int finished_column(int i) const {
        const int c = Columns::finished(lane, i);
        return 8 * (c >> 1) + column + (c & 1);
    }
    CMSEI_TEAM int finished_item(int i) const {
        const int c = Columns::finished(lane, i);
        return item(c >> 1, 0) + (kWide ? 1 : 4) * (c & 1);
    }
    // use(row, tile, number) of all inner products.
    template <class Use> CMSEI_TEAM void each(const Use& use) const {
#pragma unroll
        for (int row = 0; row < kRows; ++row)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) use(row, j, i);
    }

    // Of the last row.
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
