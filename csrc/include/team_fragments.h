// A direction's attention, forward, by a warp that multiplies matrices: all queries and their whole context lie in the
// registers of mma m16n8k8 from the inner products to the score, so that neither the attention, nor its product with the
// Gram matrix, nor the inner products of a next step are ever in memory. The team has, for that, multiply, exchanged,
// taken, all, any and opaque: MatrixTeam of csrc/cuda/tile_pairs.cuh.
//
// Lane l has rows l / 4 and l / 4 + 8 of a block of sixteen queries and, in tile j of 8 items, two columns, 2 (l % 4) and
// the next: as the instruction has its sums and, in an order of the depth of our own, its left operand.
//
// Precision: x = cut(x) + rest in tf32, to 2^-20 of x at most, and P G = cut(P) cut(G) + cut(P) rest(G) + rest(P) cut(G),
// to 2^-19 of P |G| at most and 2^-22 in the mean. Where |U|² = P G Pᵀ is c times less than Σ P P |G|, its relative error
// is c times more, as in float32. One product of tf32 would be wrong by 2^-11, and three of bfloat16 (to 2^-16, in two
// thirds of the time on the tensor cores) are too coarse for vectors of mixed signs, whose sum is short: scores of width
// 1 were wrong by 1e-4. The last step wants |U|² alone, for which half of the symmetric G is enough.
//
// A pair of 12 words and 36 regions, with all that its score asks for: instructions of a warp as nvcc 13 makes them for
// sm_90a, counted by walking them. A multiprocessor issues 4 a cycle; the pair's inner products, 12 x 36 x 1,024 at 2,048
// a cycle, are 216 cycles.
//                                              words ask once  regions ask once  both twice and across the levels
//   attention and inner products in memory     1,710           2,260             9,470
//   here, the only pair of a tile              970             870               2,720
//   each further caption of the same image     650             650               2,350
//   of them products of the tensor cores       45              24                176
// The same of 20 words; in the last line without a form of their own for 17 to 24:
//   the only pair of a tile                    1,130           1,060             3,500
//   each further caption of the same image     800             840               3,130
//   of them products of the tensor cores       75              48                320
//   each further caption, two eights at a time 1,680           2,280             9,150
// Registers: what is written in one branch and read in another one is written in both. The compiler would else keep it
// from pair to pair.
#pragma once

#include <string.h>

#include "known_gram.h"
#include "team_meetings.h"

namespace cmsei {

// What tf32 has of a number: the tensor cores do not see the other 13 bits.
CMSEI_FORMULA float cut(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A direction whose context has at least kLeast items and at most kTiles tiles, 8 kRows queries at a time: where there
// are more, inner products of a next step, lengths and relevances are in memory. Rows outside have inner products of 0,
// for the team's memory has zeros where they are read (tile_plan.h); items outside have a weight of 0.
//
// kUsual: compiled for the usual alone (see usual()), so that nothing else is asked for.
// kBeside: the last row, of no query, is the mean of the queries, whose attention in the first step is known (team_beside.h).
template <class Direction, int kRows, int kTiles, int kLeast, bool kUsual, bool kBeside = false> struct TeamFragments {
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    static constexpr int kBlocks = (kRows + 1) / 2; // of the left operand; the last one may be half of one
    using Columns = MeetingColumns<2 * kTiles>;
    using Rows = MeetingRows<kRows>;
    static constexpr int kSlots = Rows::kSlots;
    // A wide context's Gram matrix is kept. A lane's two items of a tile are neighbours, else four apart: what lanes read
    // of eight queries that are neighbours then lies in different banks.
    static constexpr bool kWide = kRows < kNarrowRows;

    const Direction& of;
    int lane, n, m, column; // queries, context; column: the first of each tile
    int first;              // query of the rows at hand
    S a[kRows][kTiles][2];  // inner products; the rows are eight apart
    S p[kRows][kTiles][2];  // what is left of them where they are negative, then the attention
    S length[kSlots], r[kSlots]; // of the row that the lane finishes: |Q|, relevance
    S least;                // |U|, of which then the direction suffices: see direction_suffices()
    S narrow[kTiles][kTiles][2]; // the Gram matrix, unless it is kept

    CMSEI_TEAM explicit TeamFragments(const Direction& direction)
        : of(direction), lane(of.team.lane()), n(of.team.opaque(of.n)), m(of.team.opaque(of.m)),
          column((lane & 3) * 2), first(0) {}

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
    CMSEI_TEAM int item(int j, int i) const { return 8 * j + (kWide ? column + i : column / 2 + 4 * i); }
    CMSEI_TEAM int item_of(int j, int c) const { return 8 * j + (kWide ? c : c / 2 + c % 2 * 4); }
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

    // Of the two strides one is 1: places are then apart by constants.
    CMSEI_TEAM void load_words(const S* from) {
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            const S* const place = (query(row) < n ? from + query(row) * of.query : of.team.zeros()) + item(0, 0);
#pragma unroll
            for (int j = 0; j < kTiles; ++j) {
                a[row][j][0] = a[row][j][1] = 0;
                if (!begins(j)) continue;
                if (kWide) {
                    const Numbers<2> two = read<2>(place + 8 * j);
                    a[row][j][0] = two.x[0];
                    a[row][j][1] = two.x[1];
                } else {
                    a[row][j][0] = place[8 * j];
                    a[row][j][1] = place[8 * j + 4];
                }
            }
        }
    }
    CMSEI_TEAM void load_regions(const S* from) {
        const int none = of.team.zeros_behind(from);
        int places[kTiles][2];
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int c = item(j, i);
                places[j][i] = (c < m ? c * of.context + first : none) + (lane >> 2);
            }
        // One question for all of them.
        if (used(kRows - 1))
            each([&](int row, int j, int i) { a[row][j][i] = from[places[j][i] + 8 * row]; });
        else
            each([&](int row, int j, int i) { a[row][j][i] = used(row) ? from[places[j][i] + 8 * row] : S(0); });
    }
    // The inner products of step k.
    CMSEI_TEAM void load(int k) {
        const S* const from = k == 0 ? of.first : next();
        if (of.words)
            load_words(from);
        else
            load_regions(from);
    }
    // Those of the next step, where a lane reads them, and what lies beside them that it reads too.
    CMSEI_TEAM void store() const {
        const bool words = of.words;
#pragma unroll
        for (int row = 0; row < kRows; ++row)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (words ? query(row) < n && begins(j) : used(row) && has(j, i))
                        next()[query(row) * of.query + item(j, i) * of.context] = a[row][j][i];
    }
    CMSEI_TEAM void load_lengths(int k) {
        const S* const from = k == 0 ? of.length : lengths();
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) length[slot] = from[finished(slot) < n ? finished(slot) : n - 1];
    }

    // visit() of all rows, kRows eights at a time, with the inner products of step k.
    template <class Visit> CMSEI_TEAM void over_rows(int k, const Visit& visit) {
#pragma unroll 1
        for (first = 0;; first += 8 * kRows) {
            renew();
            if (many()) {
                load(k);
                leak();
            }
            visit();
            if (!many() || first + 8 * kRows >= n) return;
        }
    }

    // Where in a memory by column those are that the lane finishes, and of which item.
    CMSEI_TEAM int finished_column(int i) const {
        const int c = Columns::finished(lane, i);
        return 8 * (c / 2) + column + c % 2;
    }
    CMSEI_TEAM int finished_item(int i) const {
        const int c = Columns::finished(lane, i);
        return item(c / 2, 0) + (kWide ? 1 : 4) * (c % 2);
    }
    // memory[] by column = what is made of join of x[] over all rows.
    template <class Join, class Make>
    CMSEI_TEAM void by_column(S (&x)[2 * kTiles], S* memory, const Join& join, const Make& make) const {
        Columns::meet(of.team, lane, x, join);
        of.team.sync();
#pragma unroll
        for (int i = 0; i < Columns::kFinished; ++i)
            memory[kUsual && kWide ? of.team.known.places[i] : finished_column(i)] = make(x[i]);
        of.team.sync();
    }
    // x[] of the lane's columns from memory[] by column.
    CMSEI_TEAM void recall(S (&x)[2 * kTiles], const S* memory) const {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const Numbers<2> two = read<2>(memory + 8 * j + column);
            x[2 * j] = two.x[0];
            x[2 * j + 1] = two.x[1];
        }
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

    // The inner products at hand as most norms take them.
    CMSEI_TEAM void leak() {
        const S share = is_clipped(of.norm) ? static_cast<S>(kLeak) : S(1);
        each([&](int row, int j, int i) { p[row][j][i] = M::leaky(a[row][j][i], share); });
    }

    // Into the memory, by column, what the inner products of step k are scaled by, for a softmax in units of log 2;
    // before that, for a softmax over the queries, the largest. Plain ones are all scaled alike.
    CMSEI_TEAM S plain_scale() const { return of.temperature * static_cast<S>(kLog2OfE); }
    CMSEI_TEAM S* scales() const { return of.memory; }
    CMSEI_TEAM S* shifts() const { return of.memory + 8 * kTiles; }
    CMSEI_TEAM void normalise(int k) {
        if (plain()) return;
        const S f = plain_scale();
        const auto add = [](S x, S y) { return x + y; };
        S sum[2 * kTiles];
#pragma unroll
        for (int c = 0; c < 2 * kTiles; ++c) sum[c] = 0;
        if (exponential()) {
            S most[2 * kTiles];
#pragma unroll
            for (int c = 0; c < 2 * kTiles; ++c) most[c] = -static_cast<S>(INFINITY);
            over_rows(k, [&] {
                each([&](int row, int j, int i) {
                    if (query(row) < n) most[2 * j + i] = Math::max(a[row][j][i], most[2 * j + i]);
                });
            });
            by_column(most, shifts(), [](S x, S y) { return Math::max(x, y); }, [](S x) { return x; });
            recall(most, shifts());
            over_rows(k, [&] {
                each([&](int row, int j, int i) {
                    if (query(row) < n) sum[2 * j + i] += Math::exp(a[row][j][i] - most[2 * j + i]);
                });
            });
            by_column(sum, scales(), add, [&](S total) { return Math::divide(f, total); });
            return;
        }
        over_rows(k, [&] {
            if (squares())
                each([&](int row, int j, int i) { sum[2 * j + i] += p[row][j][i] * p[row][j][i]; });
            else
                each([&](int row, int j, int i) { sum[2 * j + i] += Math::abs(p[row][j][i]); });
        });
        by_column(sum, scales(), add, [&](S total) { return f * M::size_scale(squares(), total); });
    }

    CMSEI_TEAM S row_largest(S x) const {
        x = Math::max(of.team.exchanged(x, 1), x);
        return Math::max(of.team.exchanged(x, 2), x);
    }
    // Attention to the context, not yet divided by its sum, and of the rows that the lane finishes Q·U, which it has not
    // divided either.
    CMSEI_TEAM void soften(int k, S (&dot)[kSlots]) {
        S scale[2 * kTiles];
        if (plain()) {
#pragma unroll
            for (int c = 0; c < 2 * kTiles; ++c) scale[c] = plain_scale();
        } else {
            recall(scale, scales());
        }
        if (exponential()) {
            S shift[2 * kTiles];
            recall(shift, shifts());
            each([&](int row, int j, int i) { p[row][j][i] = Math::exp(a[row][j][i] - shift[2 * j + i]); });
        }
        // Items outside have finite inner products.
        S outside[2 * kTiles];
#pragma unroll
        for (int c = 0; c < 2 * kTiles; ++c) outside[c] = has(c / 2, c % 2) ? S(0) : -static_cast<S>(INFINITY);
        each([&](int row, int j, int i) { p[row][j][i] = p[row][j][i] * scale[2 * j + i] + outside[2 * j + i]; });
        if (!bounded()) {
#pragma unroll
            for (int row = 0; row < kRows; ++row) {
                S largest = p[row][0][0];
#pragma unroll
                for (int j = 0; j < kTiles; ++j) largest = Math::max(Math::max(p[row][j][0], p[row][j][1]), largest);
                largest = row_largest(largest);
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 2; ++i) p[row][j][i] -= largest;
            }
        }
        each([&](int row, int j, int i) { p[row][j][i] = Math::exp2(p[row][j][i]); });
        if (focal()) focus();
        if (kBeside && k == 0) let_mean_ask();
        S product[kRows];
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            product[row] = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) product[row] += p[row][j][i] * a[row][j][i];
        }
        // Before the products with the Gram matrix, beside which registers are scarce.
        Rows::settle(of.team, lane, product, dot);
    }

    // The last row's attention and inner products in the place of the guide, the latter by column. A lane's two numbers of
    // a tile are apart in the former: read as one, they would be moved to where the left operand wants each.
    static CMSEI_TEAM int place_of_mean(int c) { return (c >> 1) + (c & 1) * (4 * kTiles); }
    CMSEI_TEAM bool has_mean() const { return lane >> 2 == 7; }
    CMSEI_TEAM void let_mean_ask() {
        if (!has_mean()) return;
        const S *const attention = of.guide + column / 2, *const products = of.guide + 8 * kTiles + column;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            const Numbers<2> two = read<2>(products + 8 * j);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                a[kRows - 1][j][i] = two.x[i];
                p[kRows - 1][j][i] = attention[4 * j + i * (4 * kTiles)];
            }
        }
    }
    // Whether the lane finishes the last row, and no other lane.
    CMSEI_TEAM bool finishes_mean() const { return has_mean() && (lane & 3) == Rows::rows_of(kSlots - 1) - 1; }

    CMSEI_TEAM void focus() {
        const bool prob = of.how == kFocalProb;
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            S weighted = 0, confident = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const S g = has(j, i) ? M::confidence(prob, p[row][j][i]) : S(0);
                    weighted += p[row][j][i] * g;
                    confident += g;
                }
            const S least = M::focal_least(Rows::sum(of.team, weighted), Rows::sum(of.team, confident));
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) p[row][j][i] = M::focal(p[row][j][i], least);
        }
    }

    // Of a wide context not the tiles below the diagonal.
    CMSEI_TEAM S& gram(int k, int j, int i) {
        if constexpr (kWide)
            return of.team.known.upper[k][j][i];
        else
            return narrow[k][j][i];
    }
    CMSEI_TEAM void load_gram() {
        const bool whole = of.steps > 1;
        if constexpr (kWide) {
            const int wanted = whole ? KnownGram::kWhole : KnownGram::kUpper;
            if (of.words && of.team.known.extent >= wanted) return;
            of.team.known.extent = of.words ? wanted : KnownGram::kNone;
#pragma unroll
            for (int i = 0; i < 2; ++i) of.team.known.places[i] = finished_column(i < Columns::kFinished ? i : 0);
        }
        // Which of a tile's items comes where in the depth is free: the lane's own come first and fifth. One base, so that
        // places are numbers of 32 bits.
        const S* const from = of.team.opaque(of.gram);
        int right[kTiles];
#pragma unroll
        for (int j = 0; j < kTiles; ++j) right[j] = nearest(j, item_of(j, lane >> 2));
#pragma unroll
        for (int k = 0; k < kTiles; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = nearest(k, item(k, i)) * m;
#pragma unroll
                for (int j = k; j < kTiles; ++j) gram(k, j, i) = from[row + right[j]];
            }
        if (!whole) return;
#pragma unroll
        for (int k = 1; k < kTiles; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = nearest(k, item(k, i)) * m;
#pragma unroll
                for (int j = 0; j < k; ++j) {
                    const S x = from[row + right[j]];
                    if constexpr (kWide)
                        of.team.known.below(k, j, lane)[i] = x;
                    else
                        narrow[k][j][i] = x;
                }
            }
    }
    // Nothing that follows from it is kept in registers either.
    CMSEI_TEAM void renew_gram() {
#pragma unroll
        for (int k = 0; k < kTiles; ++k)
#pragma unroll
            for (int j = kWide ? k : 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) gram(k, j, i) = of.team.opaque(gram(k, j, i));
    }

    CMSEI_TEAM S below(int k, int j, int i) const {
        const int half = KnownGram::number(k, j) % 2 * 2;
        return read<4>(of.team.known.below(k, j, lane) - half).x[half + i];
    }

    // h = attention · Gram and by row P · h or, where no step follows, half of it by the upper triangle of tiles of the
    // Gram matrix and half of those in between.
    template <bool kRefines> CMSEI_TEAM void multiply(S (&h)[kBlocks][kTiles][4], S (&quad)[kRows]) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) h[b][j][i] = 0;
        renew_gram();
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
            S right[kTiles][2], right_rest[kTiles][2];
#pragma unroll
            for (int j = kRefines ? 0 : k; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (kWide && j < k)
                        right[j][i] = below(k, j, i);
                    else
                        right[j][i] = gram(k, j, i) * (!kRefines && j == k ? S(0.5) : S(1));
                    right_rest[j][i] = right[j][i] - cut(right[j][i]);
                }
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
                // Of half a block the rests take the place of the other half, and their products too.
                const bool half = 2 * b + 1 == kRows;
                S left[4], left_rest[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const S x = p[half ? 2 * b : 2 * b + i % 2][k][i / 2];
                    left_rest[i] = x - cut(x);
                    left[i] = half && i % 2 ? left_rest[i] : x;
                }
#pragma unroll
                for (int j = kRefines ? 0 : k; j < kTiles; ++j) {
                    of.team.multiply(h[b][j], left, right[j]);
                    of.team.multiply(h[b][j], left, right_rest[j]);
                    if (!half) of.team.multiply(h[b][j], left_rest, right[j]);
                }
            }
        }
        if (kRows % 2 == 1) {
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) h[kBlocks - 1][j][i] += h[kBlocks - 1][j][i + 2];
        }
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            quad[row] = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) quad[row] += h[row / 2][j][row % 2 * 2 + i] * p[row][j][i];
        }
    }

    // Relevances of step k in the rows at hand and, where another step follows, its inner products and lengths.
    CMSEI_TEAM void attend(int k) {
        const bool more = k + 1 < of.steps, attended = multiplies(k);
        S dot[kSlots], squared[kSlots], u[kSlots], quad[kRows], h[kBlocks][kTiles][4];
        soften(k, dot);
        if (!more) {
#pragma unroll
            for (int row = 0; row < kRows; ++row) quad[row] = 0;
            if (attended) multiply<false>(h, quad);
            S share[kSlots];
            relate(k, quad, share, dot, squared, u);
            return;
        }
        multiply<true>(h, quad);
        S alpha[kSlots], beta[kSlots];
        relate(k, quad, beta, dot, squared, u);
        const int gate = of.gate + 2 * k;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const auto f = M::refine(of.scalars[gate], of.scalars[gate + 1], r[slot], length[slot], u[slot], squared[slot], dot[slot]);
            const bool inside = finished(slot) < n;
            length[slot] = f.length;
            alpha[slot] = inside ? f.alpha : S(0);
            beta[slot] = inside ? f.beta * beta[slot] : S(0);
        }
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            const int from = (lane & ~3) | (row & 3);
            const S x = of.team.taken(alpha[row / 4], from), y = of.team.taken(beta[row / 4], from);
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    a[row][j][i] = x * a[row][j][i] + y * h[row / 2][j][row % 2 * 2 + i];
        }
    }

    // Relevances, what the attention is yet to be multiplied by, and with that Q·U, which soften() has left without, |U|²
    // and |U|.
    CMSEI_TEAM void relate(int k, const S (&quad)[kRows], S (&share)[kSlots], S (&dot)[kSlots], S (&squared)[kSlots],
                           S (&u)[kSlots]) {
        const bool more = k + 1 < of.steps, attended = multiplies(k);
        Rows::settle(of.team, lane, quad, squared);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            if (!more) squared[slot] *= 2;
            u[slot] = M::length(squared[slot]);
            share[slot] = 1;
        }
        if (!kUsual || !direction_suffices(u)) divide(share, dot, squared, u);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot)
            r[slot] = attended ? M::relevance(relevance_kind(), dot[slot], length[slot], u[slot]) : dot[slot];
    }
    CMSEI_TEAM S least_length() const {
        constexpr S kMost = static_cast<S>(1.01 * kEps * 8 * kTiles);
        S scale = Math::abs(plain_scale());
        if (kBeside) scale = Math::max(Math::abs(of.scalars[kGuideTemperature] * static_cast<S>(kLog2OfE)), scale);
        return kMost * Math::exp2(scale);
    }
    // Whether U's size does not matter in any row: cosine and refinement take its direction alone unless ε keeps them
    // from dividing by less, which it does not where U, divided by the most that the weights' sum can be, is long enough.
    CMSEI_TEAM bool direction_suffices(const S (&u)[kSlots]) const {
        bool yes = true;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) yes = yes && u[slot] >= least && length[slot] * u[slot] >= least;
        return of.team.all(yes);
    }
    CMSEI_TEAM void divide(S (&share)[kSlots], S (&dot)[kSlots], S (&squared)[kSlots], S (&u)[kSlots]) const {
        S total[kRows];
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
            total[row] = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j) total[row] += p[row][j][0] + p[row][j][1];
        }
        Rows::settle(of.team, lane, total, share);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            share[slot] = Math::divide(1, share[slot]);
            dot[slot] *= share[slot];
            squared[slot] *= share[slot] * share[slot];
            u[slot] *= share[slot];
        }
    }

    // What is loaded before the first step.
    CMSEI_TEAM void begin() {
        if constexpr (!kWide) {
#pragma unroll
            for (int k = 0; k < kTiles; ++k)
#pragma unroll
                for (int j = 0; j < kTiles; ++j) narrow[k][j][0] = narrow[k][j][1] = 0;
        }
        if (multiplies(0)) load_gram();
        // Of many queries too, which are loaded again: what is not written here would be kept in registers over all pairs.
        load(0);
        load_lengths(0);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) r[slot] = 0;
        if (kUsual) least = least_length();
    }
    CMSEI_TEAM void step(int k) {
        renew();
        leak();
        normalise(k);
        over_rows(k, [&] {
            if (many()) load_lengths(k);
            attend(k);
            if (!many()) return;
            if (k + 1 < of.steps) store();
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot)
                if (finishes(slot)) {
                    relevances()[finished(slot)] = r[slot];
                    lengths()[finished(slot)] = length[slot];
                }
        });
        // Of many queries each lane reads those that it wrote.
        first = 0;
    }
    // Of the rows that the lane finishes the steps' relevances.
    CMSEI_TEAM void sum_steps(S (&sum)[kSlots]) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) sum[slot] = 0;
#pragma unroll 1
        for (int k = 0; k < of.steps; ++k) {
            step(k);
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) sum[slot] += r[slot];
        }
    }

    // The lanes' sum is that of the steps' scores.
    CMSEI_TEAM S forward() {
        // One aggregate of the steps' sum is the sum of theirs.
        const bool once = !many() && of.linear();
        S score = 0, sum[kSlots];
        begin();
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) sum[slot] = 0;
#pragma unroll 1
        for (int k = 0; k < of.steps; ++k) {
            step(k);
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) sum[slot] = once ? sum[slot] + r[slot] : r[slot];
            if (once && k + 1 < of.steps) continue;
            score += of.part_of([&](const auto& use) {
                if (!many()) {
#pragma unroll
                    for (int slot = 0; slot < kSlots; ++slot)
                        if (finishes(slot)) use(finished(slot), sum[slot]);
                    return;
                }
#pragma unroll 1
                for (first = 0; first < n; first += 8 * kRows)
#pragma unroll
                    for (int slot = 0; slot < kSlots; ++slot)
                        if (finishes(slot)) use(finished(slot), relevances()[finished(slot)]);
            });
        }
        return score;
    }
};

}  // namespace cmsei
