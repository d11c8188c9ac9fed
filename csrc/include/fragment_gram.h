// The context's Gram matrix as the right operand, and the attention's products with it.
//
// Precision: x = cut(x) + rest(x) in tf32, with an error of at most 2^-20 of x, and P G = cut(P) cut(G) + cut(P)
// rest(G) + rest(P) cut(G), with an error of at most 2^-19 of P |G|, 2^-22 in the mean. Where |U|² = P G Pᵀ is c times
// less than Σ P P |G|, its relative error is c times more, as in float32. One product of tf32 would be wrong by 2^-11.
// Three of bfloat16 (2^-16, in two thirds of the time on the tensor cores) are too coarse for vectors of mixed signs,
// whose sum is short: scores of width 1 were wrong by 1e-4. The last step needs only |U|², for which half of the
// symmetric G is enough.
#pragma once

#include <string.h>

#include "fragments.h"

namespace cmsei::fragments {

// The part of a number that tf32 keeps: the tensor cores do not see the other 13 bits.
CMSEI_FORMULA float cut(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

CMSEI_FORMULA float rest(float x) { return x - cut(x); }

// Number i of the lane in tile (k, j) of G. With a wide context only for k <= j: below() reads the other tiles.
template <class F> CMSEI_TEAM S& gram(F& f, int k, int j, int i) {
    if constexpr (F::kWide)
        return f.of.team.known.upper[k][j][i];
    else
        return f.narrow[k][j][i];
}
template <class F> CMSEI_TEAM void load_gram(F& f) {
    const bool whole = f.of.steps > 1;
    if constexpr (F::kWide) {
        const int wanted = whole ? KnownGram::kWhole : KnownGram::kUpper;
        if (f.of.words && (f.of.team.known.extent & ~KnownGram::kParted) >= wanted) return;
        f.of.team.known.extent = f.of.words ? wanted : KnownGram::kNone;
#pragma unroll
        for (int i = 0; i < 2; ++i) f.of.team.known.places[i] = f.finished_column(i < F::Columns::kFinished ? i : 0);
    }
    // A product may sum over a tile's items in any order: the lane's own two items stand where the instruction reads
    // its numbers, four apart. All addresses are offsets from one pointer, so that they take 32 bits.
    const S* const from = f.of.team.opaque(f.of.gram);
    int right[F::kTiles];
#pragma unroll
    for (int j = 0; j < F::kTiles; ++j) right[j] = f.nearest(j, f.item_of(j, f.lane >> 2));
#pragma unroll
    for (int k = 0; k < F::kTiles; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = f.nearest(k, f.item(k, i)) * f.m;
#pragma unroll
            for (int j = k; j < F::kTiles; ++j) gram(f, k, j, i) = from[row + right[j]];
        }
    if (!whole) return;
    S lower[F::kTiles * (F::kTiles - 1) / 2][2];
#pragma unroll
    for (int k = 1; k < F::kTiles; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = f.nearest(k, f.item(k, i)) * f.m;
#pragma unroll
            for (int j = 0; j < k; ++j) {
                const S x = from[row + right[j]];
                if constexpr (F::kWide)
                    lower[KnownGram::number(k, j)][i] = x;
                else
                    f.narrow[k][j][i] = x;
            }
        }
    if constexpr (F::kWide) {
#pragma unroll
        for (int n = 0; n < F::kTiles * (F::kTiles - 1) / 2; n += 2) {
            Numbers<4> two;
#pragma unroll
            for (int i = 0; i < 4; ++i) two.x[i] = lower[n + i / 2][i % 2];
            write(f.of.team.known.below(n, f.lane), two);
        }
    }
}
template <class F> CMSEI_TEAM S below(const F& f, int k, int j, int i) {
    const int number = KnownGram::number(k, j);
    return read<4>(f.of.team.known.below(number, f.lane)).x[number % 2 * 2 + i];
}
// Computes rest() of what load_gram() has loaded, for a form that keeps it (kParts).
template <class F> CMSEI_TEAM void part_gram(F& f) {
    KnownGram& known = f.of.team.known;
    if (known.extent & KnownGram::kParted) return;
    known.forget_rests();
    known.extent |= KnownGram::kParted;
#pragma unroll
    for (int k = 0; k < F::kTiles; ++k)
#pragma unroll
        for (int j = k; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) known.rests[k][j][i] = rest(known.upper[k][j][i]);
}
// Hides the Gram matrix from the compiler, which would otherwise keep numbers that follow from it in registers too.
// With kParts these are only the halves of the diagonal tiles in multiply().
template <class F> CMSEI_TEAM void renew_gram(F& f) {
#pragma unroll
    for (int k = 0; k < F::kTiles; ++k)
#pragma unroll
        for (int j = F::kWide ? k : 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if (F::kParts && j != k) continue;
                gram(f, k, j, i) = f.of.team.opaque(gram(f, k, j, i));
                if (F::kParts) f.of.team.known.rests[k][j][i] = f.of.team.opaque(f.of.team.known.rests[k][j][i]);
            }
}

// h = P G and, by row, quad = P · h. Without kRefines only half of that sum: from the tiles of G above the diagonal and
// half of those on it.
template <bool kRefines, class F>
CMSEI_TEAM void multiply(F& f, S (&h)[F::kBlocks][F::kTiles][4], S (&quad)[F::kRows]) {
#pragma unroll
    for (int b = 0; b < F::kBlocks; ++b)
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) h[b][j][i] = 0;
    renew_gram(f);
#pragma unroll
    for (int k = 0; k < F::kTiles; ++k) {
        S right[F::kTiles][2], right_rest[F::kTiles][2];
#pragma unroll
        for (int j = kRefines ? 0 : k; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const S part = !kRefines && j == k ? S(0.5) : S(1);
                if (F::kWide && j < k)
                    right[j][i] = below(f, k, j, i);
                else
                    right[j][i] = gram(f, k, j, i) * part;
                right_rest[j][i] =
                    F::kParts && j >= k ? f.of.team.known.rests[k][j][i] * part : rest(right[j][i]);
            }
#pragma unroll
        for (int b = 0; b < F::kBlocks; ++b) {
            // If the last block has only eight rows, the rests of P take the place of the other eight, which saves a
            // product.
            const bool half = 2 * b + 1 == F::kRows;
            S left[4], left_rest[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const S x = f.p[half ? 2 * b : 2 * b + i % 2][k][i / 2];
                left_rest[i] = rest(x);
                left[i] = half && i % 2 ? left_rest[i] : x;
            }
#pragma unroll
            for (int j = kRefines ? 0 : k; j < F::kTiles; ++j) {
                f.of.team.multiply(h[b][j], left, right[j]);
                f.of.team.multiply(h[b][j], left, right_rest[j]);
                if (!half) f.of.team.multiply(h[b][j], left_rest, right[j]);
            }
        }
    }
    if (F::kRows % 2 == 1) {
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) h[F::kBlocks - 1][j][i] += h[F::kBlocks - 1][j][i + 2];
    }
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        quad[row] = 0;
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) quad[row] += h[row / 2][j][row % 2 * 2 + i] * f.p[row][j][i];
    }
}

}  // namespace cmsei::fragments
