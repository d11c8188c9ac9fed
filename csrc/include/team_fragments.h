// A direction's attention, forward, by a warp that multiplies matrices: all queries and their whole context lie in the
// registers of mma m16n8k8 from the inner products to the score, so that neither the attention, nor its product with the
// Gram matrix, nor the inner products of a next step are ever in memory. The team has, for that, multiply, exchanged,
// taken and opaque: MatrixTeam of csrc/cuda/tile_pairs.cuh.
//
// Lane l has rows l / 4 and l / 4 + 8 of a block of sixteen queries and, in tile j of 8 items, items 8 j + 2 (l % 4) and
// the next: as the instruction has its sums and, in an order of the depth of our own, its left operand.
//
// Precision: x = cut(x) + rest in tf32, to 2^-20 of x at most, and P G = cut(P) cut(G) + cut(P) rest(G) + rest(P) cut(G),
// to 2^-19 of P |G| at most and 2^-22 in the mean. Where |U|² = P G Pᵀ is c times less than Σ P P |G|, its relative error
// is c times more, as in float32. One product of tf32 would be wrong by 2^-11, and three of bfloat16 (to 2^-16, in two
// thirds of the time on the tensor cores) are too coarse for vectors of mixed signs, whose sum is short: scores of width
// 1 were wrong by 1e-4. The last step wants |U|² alone, for which half of the symmetric G is enough.
//
// The only pair of a tile, 12 words and 36 regions, with all that its score asks for: instructions of a warp as nvcc 13
// makes them for sm_90a, counted by walking them. A multiprocessor issues 4 a cycle; the pair's inner products, 12 x 36 x
// 1,024 at 2,048 a cycle, are 216 cycles.
//                                              words ask once  regions ask once  both twice and across the levels
//   attention and inner products in memory     1,710           2,260             9,470
//   here                                       1,190           1,360             4,700
//   of them for the tile                       130             130               130
//   of them products of the tensor cores       45              27                183
// Registers: what is written in one branch and read in another one is written in both. The compiler would else keep it
// from pair to pair.
#pragma once

#include <string.h>

#include "team.h"

namespace cmsei {

// Items of the context that fit the registers, and blocks of sixteen queries that then do.
constexpr int kMostInFragments = 40;
constexpr int kNarrowContext = 16, kNarrowBlocks = 3, kWideBlocks = 1;

CMSEI_FORMULA constexpr bool in_fragments(int attend, int64_t context) {
    return (attend == kSoft || is_focal(attend)) && context <= kMostInFragments;
}
CMSEI_FORMULA constexpr int64_t queries_in_fragments(int64_t context) {
    return 16 * (context <= kNarrowContext ? kNarrowBlocks : kWideBlocks);
}

// What tf32 has of a number: the tensor cores do not see the other 13 bits.
CMSEI_FORMULA float cut(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

struct alignas(8) TwoNumbers {
    float x[2];
};

// A direction whose context has at least kLeast items and at most kTiles tiles, kBlocks blocks of queries at a time:
// where there are more, inner products of a next step, lengths and relevances are in memory. Queries outside have inner
// products of 0; items outside are read where the last one is, so that no load needs a condition, and their weight is 0.
template <class Direction, int kBlocks, int kTiles, int kLeast> struct TeamFragments {
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    // Of the four lanes that have a row each finishes another one: two halves of a block, of two blocks.
    static constexpr int kSlots = (kBlocks + 1) / 2;

    const Direction& of;
    int lane, n, m, column; // queries, context; column: the first of each tile
    int first;              // query of the blocks at hand
    bool many;              // whether there are more
    S a[kBlocks][kTiles][4]; // inner products; number i is of the lane's first row + i / 2 · 8, its column + i % 2
    S length[kSlots], r[kSlots]; // of the row that the lane finishes: |Q|, relevance

    CMSEI_TEAM explicit TeamFragments(const Direction& direction)
        : of(direction), lane(of.team.lane()), n(of.team.opaque(of.n)), m(of.team.opaque(of.m)),
          column(lane % 4 * 2), first(0), many(n > 16 * kBlocks) {}

    // Nothing that follows from these is kept in registers from here on: places are computed where they are used.
    CMSEI_TEAM void renew() {
        lane = of.team.opaque(lane);
        column = of.team.opaque(column);
        n = of.team.opaque(n);
        m = of.team.opaque(m);
    }

    static CMSEI_FORMULA constexpr bool full(int j) { return 8 * (j + 1) <= kLeast; }
    CMSEI_TEAM bool used(int block) const { return block == 0 || first + 16 * block < n; }
    CMSEI_TEAM int query(int block, int half) const { return first + lane / 4 + 16 * block + 8 * half; }
    CMSEI_TEAM int item(int j, int i) const { return 8 * j + column + (i & 1); }
    CMSEI_TEAM bool has(int j, int i) const { return full(j) || item(j, i) < m; }
    CMSEI_TEAM int nearest(int j, int c) const { return full(j) || c < m ? c : m - 1; }

    // Of many queries, by query.
    CMSEI_TEAM S* relevances() const { return of.memory + 16 * kTiles; }
    CMSEI_TEAM S* lengths() const { return relevances() + n; }
    CMSEI_TEAM S* next() const { return lengths() + n; }

    // The row that the lane finishes in a slot.
    static CMSEI_FORMULA constexpr bool paired(int slot) { return 2 * slot + 1 < kBlocks; }
    CMSEI_TEAM int finished(int slot) const {
        return query(2 * slot + (paired(slot) ? lane >> 1 & 1 : 0), lane & 1);
    }
    CMSEI_TEAM bool finishes(int slot) const { return finished(slot) < n && (paired(slot) || (lane & 2) == 0); }

    // Of the two strides one is 1: places are then apart by constants.
    template <bool kWords> CMSEI_TEAM void load_products(const S* from) {
        const int down = kWords ? of.query : 1, along = kWords ? 1 : of.context;
        const S* const corner = from + (query(0, 0) * down + column * along);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
            if (used(b)) {
                const bool inside[2] = {query(b, 0) < n, query(b, 1) < n};
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const S* const top = corner + (nearest(j, item(j, i)) - column) * along + 16 * b * down;
                        a[b][j][i] = inside[0] ? top[0] : S(0);
                        a[b][j][2 + i] = inside[1] ? top[8 * down] : S(0);
                    }
            } else {
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[b][j][i] = 0;
            }
        }
    }
    // The inner products of step k.
    CMSEI_TEAM void load(int k) {
        const S* const from = k == 0 ? of.first : next();
        if (of.context == 1)
            load_products<true>(from);
        else
            load_products<false>(from);
    }
    // Those of the next step, where a lane reads them.
    CMSEI_TEAM void store() const {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (query(b, i / 2) < n && has(j, i))
                        next()[query(b, i / 2) * of.query + item(j, i) * of.context] = a[b][j][i];
    }
    CMSEI_TEAM void load_lengths(int k) {
        const S* const from = k == 0 ? of.length : lengths();
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) length[slot] = from[finished(slot) < n ? finished(slot) : n - 1];
    }

    // visit() of all blocks, kBlocks at a time, with the inner products of step k.
    template <class Visit> CMSEI_TEAM void over_blocks(int k, const Visit& visit) {
#pragma unroll 1
        for (first = 0;; first += 16 * kBlocks) {
            renew();
            if (many) load(k);
            visit();
            if (first + 16 * kBlocks >= n) return;
        }
    }

    // join of x[] over the eight lanes that have a column, in a tree that halves what each has of the kCount columns.
    template <int kCount, int kMask, class Join> CMSEI_TEAM void meet(S* x, const Join& join) const {
        constexpr int kHalf = (kCount + 1) / 2;
        const bool high = (lane & kMask) != 0;
#pragma unroll
        for (int i = 0; i < kCount / 2; ++i) {
            const S given = high ? x[i] : x[i + kHalf], kept = high ? x[i + kHalf] : x[i];
            x[i] = join(kept, of.team.exchanged(given, kMask));
        }
        if (kCount % 2) x[kHalf - 1] = join(x[kHalf - 1], of.team.exchanged(x[kHalf - 1], kMask));
    }
    // Which column the lane then has in x[i].
    template <int kCount, int kMask> CMSEI_TEAM int met(int i) const {
        constexpr int kHalf = (kCount + 1) / 2;
        return (lane & kMask) != 0 && i < kCount / 2 ? i + kHalf : i;
    }
    // memory[] by item = what is made of join of x[] over all rows.
    template <class Join, class Make>
    CMSEI_TEAM void over_rows(S (&x)[2 * kTiles], S* memory, const Join& join, const Make& make) const {
        constexpr int kAll = 2 * kTiles, kMany = (kAll + 1) / 2, kSome = (kMany + 1) / 2;
        meet<kAll, 16>(x, join);
        meet<kMany, 8>(x, join);
        meet<kSome, 4>(x, join);
        of.team.sync();
#pragma unroll
        for (int i = 0; i < (kSome + 1) / 2; ++i) {
            const int c = met<kAll, 16>(met<kMany, 8>(met<kSome, 4>(i)));
            memory[8 * (c / 2) + column + c % 2] = make(x[i]);
        }
        of.team.sync();
    }
    // x[] of the lane's columns from memory[] by item.
    CMSEI_TEAM void recall(S (&x)[2 * kTiles], const S* memory) const {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
            TwoNumbers two;
            memcpy(&two, __builtin_assume_aligned(memory + 8 * j + column, 8), sizeof two);
            x[2 * j] = two.x[0];
            x[2 * j + 1] = two.x[1];
        }
    }

    // use(block, tile, number) of all inner products.
    template <class Use> CMSEI_TEAM void each(const Use& use) const {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
            if (!used(b)) continue;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) use(b, j, i);
        }
    }

    // What is left of a negative inner product.
    CMSEI_TEAM S leaked() const { return is_clipped(of.norm) ? static_cast<S>(kLeak) : S(1); }

    // Into the memory, by item, what the inner products of step k are scaled by, for a softmax in units of log 2; before
    // that, for a softmax over the queries, the largest. Plain ones are all scaled alike.
    CMSEI_TEAM S plain_scale() const { return of.temperature * static_cast<S>(kLog2OfE); }
    CMSEI_TEAM S* scales() const { return of.memory; }
    CMSEI_TEAM S* shifts() const { return of.memory + 8 * kTiles; }
    CMSEI_TEAM void normalise(int k) {
        if (is_plain(of.norm)) return;
        const S f = plain_scale();
        const auto add = [](S x, S y) { return x + y; };
        S sum[2 * kTiles];
#pragma unroll
        for (int c = 0; c < 2 * kTiles; ++c) sum[c] = 0;
        if (of.norm == kSoftmax) {
            S most[2 * kTiles];
#pragma unroll
            for (int c = 0; c < 2 * kTiles; ++c) most[c] = -static_cast<S>(INFINITY);
            over_blocks(k, [&] {
                each([&](int b, int j, int i) {
                    if (query(b, i / 2) < n) most[2 * j + i % 2] = Math::max(a[b][j][i], most[2 * j + i % 2]);
                });
            });
            over_rows(most, shifts(), [](S x, S y) { return Math::max(x, y); }, [](S x) { return x; });
            recall(most, shifts());
            over_blocks(k, [&] {
                each([&](int b, int j, int i) {
                    if (query(b, i / 2) < n) sum[2 * j + i % 2] += Math::exp(a[b][j][i] - most[2 * j + i % 2]);
                });
            });
            over_rows(sum, scales(), add, [&](S total) { return Math::divide(f, total); });
            return;
        }
        const bool squares = is_l2(of.norm);
        const S leak = leaked();
        over_blocks(k, [&] {
            if (squares)
                each([&](int b, int j, int i) {
                    const S x = M::leaky(a[b][j][i], leak);
                    sum[2 * j + i % 2] += x * x;
                });
            else
                each([&](int b, int j, int i) { sum[2 * j + i % 2] += Math::abs(M::leaky(a[b][j][i], leak)); });
        });
        over_rows(sum, scales(), add, [&](S total) { return f * M::size_scale(squares, total); });
    }

    CMSEI_TEAM S row_sum(S x) const {
        x += of.team.exchanged(x, 1);
        return x + of.team.exchanged(x, 2);
    }
    CMSEI_TEAM S row_largest(S x) const {
        x = Math::max(of.team.exchanged(x, 1), x);
        return Math::max(of.team.exchanged(x, 2), x);
    }
    // Of x by block and half the sums over the four lanes of each row, where the row is finished.
    CMSEI_TEAM void settle(const S (&x)[kBlocks][2], S (&out)[kSlots]) const {
        const bool own = (lane & 1) != 0, high = (lane & 2) != 0;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            S y[2];
#pragma unroll
            for (int e = 0; e < (paired(slot) ? 2 : 1); ++e) {
                const S* const two = x[2 * slot + e];
                y[e] = (own ? two[1] : two[0]) + of.team.exchanged(own ? two[0] : two[1], 1);
            }
            out[slot] = paired(slot) ? (high ? y[1] : y[0]) + of.team.exchanged(high ? y[0] : y[1], 2)
                                     : y[0] + of.team.exchanged(y[0], 2);
        }
    }

    // Attention to the context, not yet divided by its sum, that sum, and Q·U, which it has not divided either.
    CMSEI_TEAM void soften(const S (&a)[kTiles][4], S (&p)[kTiles][4], S (&total)[2], S (&product)[2]) const {
        const bool bounded = is_bounded(of.norm, of.temperature);
        S scale[2 * kTiles];
        if (is_plain(of.norm)) {
#pragma unroll
            for (int c = 0; c < 2 * kTiles; ++c) scale[c] = plain_scale();
        } else {
            recall(scale, scales());
        }
        const auto scaled = [&](const auto& shape) {
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    p[j][i] = has(j, i) ? shape(j, i) * scale[2 * j + i % 2] : -static_cast<S>(INFINITY);
        };
        if (of.norm == kSoftmax) {
            scaled([&](int j, int i) { return Math::exp(a[j][i] - shifts()[item(j, i)]); });
        } else {
            const S leak = leaked();
            scaled([&](int j, int i) { return M::leaky(a[j][i], leak); });
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (!bounded) {
                S largest = p[0][2 * half];
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
                    largest = Math::max(Math::max(p[j][2 * half], p[j][2 * half + 1]), largest);
                largest = row_largest(largest);
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] -= largest;
            }
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] = Math::exp2(p[j][i]);
            if (is_focal(of.how)) focus(p, half);
            total[half] = product[half] = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    total[half] += p[j][i];
                    product[half] += p[j][i] * a[j][i];
                }
        }
    }

    CMSEI_TEAM void focus(S (&p)[kTiles][4], int half) const {
        const bool prob = of.how == kFocalProb;
        S weighted = 0, confident = 0;
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) {
                const S g = has(j, i) ? M::confidence(prob, p[j][i]) : S(0);
                weighted += p[j][i] * g;
                confident += g;
            }
        const S least = M::focal_least(row_sum(weighted), row_sum(confident));
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] = M::focal(p[j][i], least);
    }

    // What a triangle with half of its diagonal has of a symmetric matrix.
    static CMSEI_TEAM S above(int down, int across) { return down < across ? S(1) : down == across ? S(0.5) : S(0); }

    // h = attention · Gram and by row P · h or, where no step follows, half of it by the Gram matrix's triangle.
    template <bool kRefines>
    CMSEI_TEAM void multiply(const S (&p)[kBlocks][kTiles][4], S (&h)[kBlocks][kTiles][4], S (&quad)[kBlocks][2]) const {
        const int own = lane / 4;  // of the columns of the Gram matrix
        const S share[2] = {above(column, own), above(column + 1, own)};
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) h[b][j][i] = 0;
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
            // Which of a tile's items comes where in the depth is free: the lane's own come first and fifth.
            const S* const rows[2] = {of.gram + (nearest(k, item(k, 0)) * m + own),
                                      of.gram + (nearest(k, item(k, 1)) * m + own)};
            S gram[kTiles][2], gram_rest[kTiles][2];
#pragma unroll
            for (int j = kRefines ? 0 : k; j < kTiles; ++j) {
                const int c = full(j) ? 8 * j : nearest(j, 8 * j + own) - own;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    gram[j][i] = rows[i][c] * (!kRefines && j == k ? share[i] : S(1));
                    gram_rest[j][i] = gram[j][i] - cut(gram[j][i]);
                }
            }
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
                if (!used(b)) continue;
                const S(&x)[4] = p[b][k];
                const S whole[4] = {x[0], x[2], x[1], x[3]};
                const S rest[4] = {x[0] - cut(x[0]), x[2] - cut(x[2]), x[1] - cut(x[1]), x[3] - cut(x[3])};
#pragma unroll
                for (int j = kRefines ? 0 : k; j < kTiles; ++j) {
                    of.team.multiply(h[b][j], whole, gram[j]);
                    of.team.multiply(h[b][j], whole, gram_rest[j]);
                    of.team.multiply(h[b][j], rest, gram[j]);
                }
            }
        }
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                quad[b][half] = 0;
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) quad[b][half] += h[b][j][i] * p[b][j][i];
            }
    }

    // Relevances of step k in the blocks at hand and, where another step follows, its inner products and lengths.
    CMSEI_TEAM void attend(int k) {
        const bool more = k + 1 < of.steps, attended = of.multiplies(k);
        S total[kBlocks][2], product[kBlocks][2], quad[kBlocks][2], p[kBlocks][kTiles][4], h[kBlocks][kTiles][4];
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
            quad[b][0] = quad[b][1] = total[b][0] = total[b][1] = product[b][0] = product[b][1] = 0;
            if (used(b)) {
                soften(a[b], p[b], total[b], product[b]);
            } else {
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) p[b][j][i] = 0;
            }
        }
        if (!more) {
            if (attended) multiply<false>(p, h, quad);
            S inverse[kSlots], dot[kSlots], squared[kSlots];
            relate(k, total, product, quad, inverse, dot, squared);
            return;
        }
        multiply<true>(p, h, quad);
        S alpha[kSlots], beta[kSlots], dot[kSlots], squared[kSlots];
        relate(k, total, product, quad, beta, dot, squared);
        const S* const gate = of.scalars + of.gate + 2 * k;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const S q = length[slot], u = M::length(squared[slot]);
            const auto f = M::refine(gate[0], gate[1], r[slot], q, u, squared[slot], dot[slot]);
            const bool inside = finished(slot) < n;
            length[slot] = f.length;
            alpha[slot] = inside ? f.alpha : S(0);
            beta[slot] = inside ? f.beta * beta[slot] : S(0);
        }
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
            if (!used(b)) continue;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int from = (lane & ~3) | half | (b & 1) << 1;
                const S x = of.team.taken(alpha[b / 2], from), y = of.team.taken(beta[b / 2], from);
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) a[b][j][i] = x * a[b][j][i] + y * h[b][j][i];
            }
        }
    }

    // Relevances, what the attention is yet to be multiplied by, Q·U and |U|².
    CMSEI_TEAM void relate(int k, const S (&total)[kBlocks][2], const S (&product)[kBlocks][2],
                           const S (&quad)[kBlocks][2], S (&inverse)[kSlots], S (&dot)[kSlots], S (&squared)[kSlots]) {
        const bool more = k + 1 < of.steps, attended = of.multiplies(k);
        settle(total, inverse);
        settle(product, dot);
        settle(quad, squared);
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            inverse[slot] = Math::divide(1, inverse[slot]);
            dot[slot] *= inverse[slot];
            squared[slot] *= (more ? inverse[slot] : 2 * inverse[slot]) * inverse[slot];
            const S u = M::length(squared[slot]);
            r[slot] = attended ? M::relevance(of.relevance_kind, dot[slot], length[slot], u) : dot[slot];
        }
    }

    // Every lane gets the sum of the steps' scores.
    CMSEI_TEAM S forward() {
        S score = 0;
        // All is written here where it is not loaded: the compiler would else keep registers for it over all pairs.
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) length[slot] = r[slot] = 0;
        if (many) {
#pragma unroll
            for (int b = 0; b < kBlocks; ++b)
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[b][j][i] = 0;
        } else {
            load(0);
            load_lengths(0);
        }
#pragma unroll 1
        for (int k = 0; k < of.steps; ++k) {
            renew();
            normalise(k);
            over_blocks(k, [&] {
                if (many) load_lengths(k);
                attend(k);
                if (!many) return;
                if (k + 1 < of.steps) store();
#pragma unroll
                for (int slot = 0; slot < kSlots; ++slot)
                    if (finishes(slot)) {
                        relevances()[finished(slot)] = r[slot];
                        lengths()[finished(slot)] = length[slot];
                    }
            });
            // Of many queries each lane reads those that it wrote.
            score += of.aggregate_of([&](const auto& use) {
#pragma unroll 1
                for (first = 0; first < n; first += 16 * kBlocks)
#pragma unroll
                    for (int slot = 0; slot < kSlots; ++slot)
                        if (finishes(slot)) use(finished(slot), many ? relevances()[finished(slot)] : r[slot]);
            });
        }
        return score;
    }
};

}  // namespace cmsei
