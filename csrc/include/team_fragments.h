// A direction's attention, forward, by a warp that multiplies matrices: all queries and their whole context lie in the
// registers of mma m16n8k8 from the inner products to the score, so that neither the attention, nor its product with
// the Gram matrix, nor the inner products of a next step are ever in memory. For that the team has multiply, exchanged,
// taken, all and opaque: MatrixTeam of csrc/cuda/tile_pairs.cuh.
//
// A warp's instructions for a pair of 12 words and 36 regions, with all that its score needs, as nvcc 13 makes them for
// sm_90a, counted by walking them. A multiprocessor issues 4 a cycle; the pair's inner products, 12 x 36 x 1,024 at
// 2,048 a cycle, are 216 cycles.
//                                              t2i, one step  i2t, one step  both, two steps each, and across levels
//   the only pair of a tile                    970            890            2,610
//   each further caption of the same image     610            680            2,210
//   of these, products of the tensor cores     45             24             176
//   a further caption without fragments        4,140          2,750          15,570
// The same with 20 words; the last line is without the forms for 17 to 24 words:
//   the only pair of a tile                    1,150          1,070          3,470
//   each further caption of the same image     840            860            3,130
//   of these, products of the tensor cores     75             48             320
//   each further caption, two eights at a time 1,700          2,240          8,790
// Where the 2,210 go: 100 to the loop over the pairs and to reading what a pair is; 440 to the regions' inner products,
// the words' Gram matrix and the means' attention; 470 and 300 to the regions' two steps; 130 to the beginning of the
// words' direction; 450 and 320 to its two steps.
// Registers: what is written in one branch and read in another is written in both. Otherwise the compiler would keep it
// from pair to pair.
#pragma once

#include "fragment_gram.h"
#include "fragment_softmax.h"

namespace cmsei::fragments {

template <class F> CMSEI_TEAM S least_length(const F& f) {
    constexpr S kMost = static_cast<S>(1.01 * kEps * 8 * F::kTiles);
    const auto size = [](S x) { return Math::max(-x, x); };
    S scale = size(plain_scale(f));
    if (F::kBeside) scale = Math::max(size(f.of.scalars[kGuideTemperature] * static_cast<S>(kLog2OfE)), scale);
    return kMost * Math::exp2(scale);
}
// Whether the size of U matters in no row. Cosine and refinement take its direction alone, unless they divide by ε
// instead of a smaller length: that is impossible where U, divided by the largest sum that the weights can have, is
// long enough (least_length()).
template <class F> CMSEI_TEAM bool direction_suffices(const F& f, const S (&u)[F::kSlots]) {
    bool yes = true;
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot)
        yes = yes && u[slot] >= f.least && f.length[slot] * u[slot] >= f.least;
    return f.of.team.all(yes);
}
template <class F>
CMSEI_TEAM void divide(const F& f, S (&share)[F::kSlots], S (&dot)[F::kSlots], S (&squared)[F::kSlots],
                       S (&u)[F::kSlots]) {
    S total[F::kRows];
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        total[row] = 0;
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j) total[row] += f.p[row][j][0] + f.p[row][j][1];
    }
    F::Rows::settle(f.of.team, f.lane, total, share);
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) {
        share[slot] = Math::divide(1, share[slot]);
        dot[slot] *= share[slot];
        squared[slot] *= share[slot] * share[slot];
        u[slot] *= share[slot];
    }
}

// Relevances, and `share`, the factor that the attention still lacks: 1 / the sum of its weights, or 1 if U's direction
// suffices. Q·U as soften() has left it, |U|² and |U| are multiplied by it accordingly.
template <class F>
CMSEI_TEAM void relate(F& f, int k, const S (&quad)[F::kRows], S (&share)[F::kSlots], S (&dot)[F::kSlots],
                       S (&squared)[F::kSlots], S (&u)[F::kSlots]) {
    const bool more = k + 1 < f.of.steps, attended = f.multiplies(k);
    F::Rows::settle(f.of.team, f.lane, quad, squared);
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) {
        if (!more) squared[slot] *= 2;
        u[slot] = M::length(squared[slot]);
        share[slot] = 1;
    }
    if (!F::kUsual || !direction_suffices(f, u)) divide(f, share, dot, squared, u);
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) {
        const S held = within<Math>(dot[slot], f.length[slot] * u[slot]);
        const S r = M::relevance(f.relevance_kind(), k == 0, dot[slot], held, f.length[slot], u[slot]);
        f.r[slot] = attended ? r : dot[slot];
        dot[slot] = held;
    }
}

// Relevances of step k for the rows at hand and, if another step follows, its inner products and lengths.
template <class F> CMSEI_TEAM void attend(F& f, int k) {
    const bool more = k + 1 < f.of.steps, attended = f.multiplies(k);
    S dot[F::kSlots], squared[F::kSlots], u[F::kSlots], quad[F::kRows], h[F::kBlocks][F::kTiles][4];
    soften(f, k, dot);
    if (!more) {
#pragma unroll
        for (int row = 0; row < F::kRows; ++row) quad[row] = 0;
        if (attended) multiply<false>(f, h, quad);
        S share[F::kSlots];
        relate(f, k, quad, share, dot, squared, u);
        return;
    }
    multiply<true>(f, h, quad);
    S alpha[F::kSlots], beta[F::kSlots];
    relate(f, k, quad, beta, dot, squared, u);
    const int gate = f.of.gate + 2 * k;
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) {
        const auto next = M::refine(f.of.scalars[gate], f.of.scalars[gate + 1], f.r[slot], f.length[slot], u[slot],
                                    dot[slot]);
        const bool inside = f.finished(slot) < f.n;
        f.length[slot] = next.length;
        alpha[slot] = inside ? next.alpha : S(0);
        beta[slot] = inside ? next.beta * beta[slot] : S(0);
    }
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        const int slot = row / 4, from = (f.lane & ~3) | (row & 3);
        // A slot's only row is finished by all four lanes.
        const bool own = F::Rows::rows_of(slot) == 1;
        const S x = own ? alpha[slot] : f.of.team.taken(alpha[slot], from);
        const S y = own ? beta[slot] : f.of.team.taken(beta[slot], from);
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                f.a[row][j][i] = x * f.a[row][j][i] + y * h[row / 2][j][row % 2 * 2 + i];
    }
    if (!f.many()) leak(f);
}

// What is loaded before the first step.
template <class F> CMSEI_TEAM void begin(F& f) {
    if constexpr (!F::kWide) {
#pragma unroll
        for (int k = 0; k < F::kTiles; ++k)
#pragma unroll
            for (int j = 0; j < F::kTiles; ++j) f.narrow[k][j][0] = f.narrow[k][j][1] = 0;
    }
    if (f.multiplies(0)) {
        load_gram(f);
        if constexpr (F::kParts) part_gram(f);
    }
    // For many queries too, though they are loaded again: registers that are not written here would be kept over all
    // pairs.
    load(f, 0);
    leak(f);
    load_lengths(f, 0);
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) f.r[slot] = 0;
    if (F::kUsual) f.least = least_length(f);
}
template <class F> CMSEI_TEAM void step(F& f, int k) {
    f.renew();
    normalise(f, k);
    over_rows(f, k, [&] {
        if (f.many()) load_lengths(f, k);
        attend(f, k);
        if (!f.many()) return;
        if (k + 1 < f.of.steps) store(f);
#pragma unroll
        for (int slot = 0; slot < F::kSlots; ++slot)
            if (f.finishes(slot)) {
                f.relevances()[f.finished(slot)] = f.r[slot];
                f.lengths()[f.finished(slot)] = f.length[slot];
            }
    });
    // With many queries, each lane reads only those relevances and lengths that it wrote.
    f.first = 0;
}
// Runs all steps and sums up their relevances for the rows that the lane finishes.
template <class F> CMSEI_TEAM void sum_steps(F& f, S (&sum)[F::kSlots]) {
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) sum[slot] = 0;
#pragma unroll 1
    for (int k = 0; k < f.of.steps; ++k) {
        step(f, k);
#pragma unroll
        for (int slot = 0; slot < F::kSlots; ++slot) sum[slot] += f.r[slot];
    }
}

// The lane's part of the sum of the steps' scores.
template <class F> CMSEI_TEAM S forward(F& f) {
    // The sum of the steps' linear aggregates is the aggregate of their sum: one reduction is enough.
    const bool once = !f.many() && f.of.linear();
    S score = 0, sum[F::kSlots];
    begin(f);
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) sum[slot] = 0;
#pragma unroll 1
    for (int k = 0; k < f.of.steps; ++k) {
        step(f, k);
#pragma unroll
        for (int slot = 0; slot < F::kSlots; ++slot) sum[slot] = once ? sum[slot] + f.r[slot] : f.r[slot];
        if (once && k + 1 < f.of.steps) continue;
        score += f.of.part_of([&](const auto& use) {
            if (!f.many()) {
#pragma unroll
                for (int slot = 0; slot < F::kSlots; ++slot)
                    if (f.finishes(slot)) use(f.finished(slot), sum[slot]);
                return;
            }
#pragma unroll 1
            for (f.first = 0; f.first < f.n; f.first += 8 * F::kRows)
#pragma unroll
                for (int slot = 0; slot < F::kSlots; ++slot)
                    if (f.finishes(slot)) use(f.finished(slot), f.relevances()[f.finished(slot)]);
        });
    }
    return score;
}

}  // namespace cmsei::fragments
