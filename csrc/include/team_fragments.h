// A direction's attention, forward, by a warp that multiplies matrices: sixteen queries and their whole context lie in
// the registers of mma m16n8k8 from the inner products to the relevance, so that neither the attention nor its product
// with the Gram matrix is ever in memory. The team has, for that, multiply, row_sum, row_largest, neighbour and opaque:
// MatrixTeam of csrc/cuda/tile_pairs.cuh.
//
// Lane l has rows l / 4 and l / 4 + 8 of a block of queries and, in tile j of 8 items, items 8 j + 2 (l % 4) and the
// next: as the instruction has its sums and, in an order of the depth of our own, its left operand.
//
// Precision: x = rounded(x) + rest in tf32, to 2^-22 of x, and P G = rounded(P) rounded(G) + rounded(P) rest(G) +
// rest(P) rounded(G), to 2^-20 of P |G|. Where |U|² = P G Pᵀ is c times less than Σ P P |G|, its relative error is c
// times more, as in float32. One product of tf32 would be wrong by 2^-11, and three of bfloat16 (to 2^-16, in two thirds
// of the time on the tensor cores) are too coarse for vectors of mixed signs, whose sum is short: scores of width 1 were
// wrong by 1e-4. The last step wants |U|² alone, for which half of the symmetric G is enough.
//
// One step of a pair, 12 words asking 36 regions: instructions of a warp as nvcc 13 makes them for sm_90a. A
// multiprocessor issues 4 a cycle; its inner products, 12 x 36 x 1,024 at 2,048 a cycle, are 216 cycles.
//                                  a lane a query, contract() of team.h      here
//   P G                            15,552 multiply-adds of float32           45 mma of 16 x 8 x 8, 75 if a step follows
//   on the tensor cores            -                                         45 cycles at 1,024 a cycle, or 75
//   instructions                   P G 2,000, attention 1,280, |U|² 190      P G and |U|² 360, the rest 520
//   cycles to issue them           870                                       220
//   loads, a cycle each or more    P G 432, attention 180, |U|² 72           attention 30, P G 30
//   of them from the Gram matrix   288 x 128 bytes                           30 x 128 bytes
//   in memory beside the products  3 x 12 x 37 numbers                       none, or 12 x 37 where steps follow
#pragma once

#include <string.h>

#include "team.h"

namespace cmsei {

// Items of the context that fit the registers.
constexpr int kMostInFragments = 40;

CMSEI_FORMULA constexpr bool in_fragments(int attend, int64_t context) {
    return (attend == kSoft || is_focal(attend)) && context <= kMostInFragments;
}

// The nearest number that tf32 has. That of not a number may be 0: what is left then is not a number.
CMSEI_FORMULA float rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    bits = (bits + 0x1000u) & 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Queries [first, first + 16) of a direction whose context has at least kLeast items and at most kTiles tiles. What is
// outside is read where the last query and item are, so that no load needs a condition; such an item's weight is 0.
template <class Direction, int kTiles, int kLeast> struct TeamFragments {
    using S = float;
    using Math = Plain<S>;
    using M = PairMath<Math>;
    using Step = typename Direction::Step;

    const Direction& of;
    int lane, m, row, column; // m: of the context; row: its first; column: its first in each tile
    S p[kTiles][4];           // attention; number i is of row + i / 2 · 8, column + i % 2
    S h[kTiles][4];           // the inner products, then attention · Gram

    CMSEI_TEAM TeamFragments(const Direction& direction, int first)
        : of(direction), lane(of.team.opaque(of.team.lane())), m(of.team.opaque(of.m)), row(first + lane / 4),
          column(lane % 4 * 2) {}

    static CMSEI_FORMULA constexpr bool full(int j) { return 8 * (j + 1) <= kLeast; }
    CMSEI_TEAM int query(int half) const { return row + half * 8; }
    CMSEI_TEAM int item(int j, int i) const { return 8 * j + column + (i & 1); }
    CMSEI_TEAM bool has(int j, int i) const { return full(j) || item(j, i) < m; }
    CMSEI_TEAM int nearest(int j, int c) const { return full(j) || c < m ? c : m - 1; }

    // Inner products, and the logits of the softmax in units of log 2.
    template <bool kExp> CMSEI_TEAM void load(const Step& s) {
        const S f = of.temperature * static_cast<S>(kLog2OfE);
        const S* line[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) line[half] = s.a + (query(half) < of.n ? query(half) : of.n - 1) * of.query;
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int c = nearest(j, item(j, i));
                const S shift = kExp ? s.shift[c] : S(0), scale = f * s.scale[c];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const S x = line[half][c * of.context];
                    const S logit = (kExp ? of.shaped(x, shift) : of.clipped(x)) * scale;
                    h[j][2 * half + i] = x;
                    p[j][2 * half + i] = has(j, i) ? logit : -static_cast<S>(INFINITY);
                }
            }
    }

    // The softmax over the context, or what a focal attention keeps of it, and Q·U.
    CMSEI_TEAM void soften(const Step& s, S (&dot)[2]) {
        if (of.norm == kSoftmax)
            load<true>(s);
        else
            load<false>(s);
        const bool bounded = is_bounded(of.norm, of.temperature);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            S largest = 0, total = 0, product = 0;
            if (!bounded) {
                largest = p[0][2 * half];
#pragma unroll
                for (int j = 0; j < kTiles; ++j)
                    largest = Math::max(largest, Math::max(p[j][2 * half], p[j][2 * half + 1]));
                largest = of.team.row_largest(largest);
            }
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] = Math::exp2(p[j][i] - largest);
            if (is_focal(of.how)) focus(half);
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    total += p[j][i];
                    product += p[j][i] * h[j][i];
                }
            const S inverse = 1 / of.team.row_sum(total);
            dot[half] = of.team.row_sum(product) * inverse;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] *= inverse;
        }
    }

    CMSEI_TEAM void focus(int half) {
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
        const S least = M::focal_least(of.team.row_sum(weighted), of.team.row_sum(confident));
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; ++i) p[j][i] = M::focal(p[j][i], least);
    }

    // What a triangle with half of its diagonal has of a symmetric matrix.
    static CMSEI_TEAM S above(int down, int across) { return down < across ? S(1) : down == across ? S(0.5) : S(0); }

    // By row |U|². Where a step follows, h = attention · Gram; else the Gram matrix's triangle, of which |U|² has twice.
    template <bool kRefines> CMSEI_TEAM void multiply(S (&quad)[2]) {
        const int own = lane / 4;  // of the columns of the Gram matrix
        const S share[2] = {above(column, own), above(column + 1, own)};
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) h[j][i] = 0;
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
            // Which of a tile's items comes where in the depth is free: the lane's own come first and fifth.
            const S whole[4] = {rounded(p[k][0]), rounded(p[k][2]), rounded(p[k][1]), rounded(p[k][3])};
            const S left[4] = {p[k][0] - whole[0], p[k][2] - whole[1], p[k][1] - whole[2], p[k][3] - whole[3]};
            const S* const first = of.gram + (nearest(k, item(k, 0)) * m + own);
            const S* const second = of.gram + (nearest(k, item(k, 1)) * m + own);
#pragma unroll
            for (int j = kRefines ? 0 : k; j < kTiles; ++j) {
                const int c = full(j) ? 8 * j : nearest(j, 8 * j + own) - own;
                const bool diagonal = !kRefines && j == k;
                const S x = diagonal ? share[0] * first[c] : first[c], y = diagonal ? share[1] * second[c] : second[c];
                const S gram[2] = {rounded(x), rounded(y)};
                const S gram_left[2] = {x - gram[0], y - gram[1]};
                of.team.multiply(h[j], whole, gram);
                of.team.multiply(h[j], whole, gram_left);
                of.team.multiply(h[j], left, gram);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            S sum = 0;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) sum += h[j][i] * p[j][i];
            quad[half] = (kRefines ? 1 : 2) * of.team.row_sum(sum);
        }
    }

    // Relevances of step k and, where another follows, its inner products and lengths.
    CMSEI_TEAM void attend(const Step& s, int k) {
        const bool more = k + 1 < of.steps, attended = of.multiplies(k);
        S dot[2], quad[2] = {0, 0};
        soften(s, dot);
        if (more)
            multiply<true>(quad);
        else if (attended)
            multiply<false>(quad);
        // Of the four lanes that have two rows, two compute for each.
        const int own = lane & 1, q = query(own) < of.n ? query(own) : of.n - 1;
        const bool writes = query(own) < of.n && lane % 4 < 2;
        const S product = own ? dot[1] : dot[0], squared = own ? quad[1] : quad[0];
        const S length = s.q[q], u = M::length(squared);
        const S r = attended ? M::relevance(of.relevance_kind, product, length, u) : product;
        if (writes) s.r[q] = r;
        if (!more) return;
        const S* const gate = of.scalars + of.gate + 2 * k;
        const auto f = M::refine(gate[0], gate[1], r, length, u, squared, product);
        if (writes) s.next_q[q] = f.length;
        const S alpha = of.team.neighbour(f.alpha), beta = of.team.neighbour(f.beta);
        const int down = of.team.opaque(of.query), along = of.team.opaque(of.context);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (query(half) >= of.n) continue;
            const S a = half == own ? f.alpha : alpha, b = half == own ? f.beta : beta;
            const S* const before = s.a + query(half) * down;
            S* const next = s.next_a + query(half) * down;
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (!has(j, i)) continue;
                    const int c = item(j, i) * along;
                    next[c] = a * before[c] + b * h[j][2 * half + i];
                }
        }
    }
};

// Step k of all queries. A lane reads of the step's inner products, and writes of the next one's, the same places.
template <int kTiles, int kLeast, class Direction>
CMSEI_TEAM void attend_in_fragments(const Direction& of, const typename Direction::Step& s, int k) {
#pragma unroll 1
    for (int first = 0; first < of.n; first += 16) TeamFragments<Direction, kTiles, kLeast>(of, first).attend(s, k);
}

}  // namespace cmsei
