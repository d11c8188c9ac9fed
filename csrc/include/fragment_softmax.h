// From the inner products in fragments to the attention: their normalisation over the queries, the softmax over the
// context, what a focal attention keeps of it, and the attention of a mean in a row beside the queries.
#pragma once

#include "fragment_loads.h"

namespace cmsei::fragments {

// memory[column] = make(join of x[] over all rows), for each column.
template <class F, class Join, class Make>
CMSEI_TEAM void by_column(const F& f, S (&x)[2 * F::kTiles], S* memory, const Join& join, const Make& make) {
    F::Columns::meet(f.of.team, f.lane, x, join);
    f.of.team.sync();
#pragma unroll
    for (int i = 0; i < F::Columns::kFinished; ++i)
        memory[F::kUsual && F::kWide ? f.of.team.known.places[i] : f.finished_column(i)] = make(x[i]);
    f.of.team.sync();
}
// Reads x[] of the lane's columns from memory[column].
template <class F> CMSEI_TEAM void recall(const F& f, S (&x)[2 * F::kTiles], const S* memory) {
#pragma unroll
    for (int j = 0; j < F::kTiles; ++j) {
        const Numbers<2> two = read<2>(memory + 8 * j + f.column);
        x[2 * j] = two.x[0];
        x[2 * j + 1] = two.x[1];
    }
}

// normalise() writes for each column the factor of its inner products in step k, for exp2; and, for the norm "softmax",
// the maximum over the queries, which is subtracted first. For a plain norm the factor is plain_scale() alone.
template <class F> CMSEI_TEAM S plain_scale(const F& f) { return f.of.temperature * static_cast<S>(kLog2OfE); }
template <class F> CMSEI_TEAM S* scales(const F& f) { return f.of.memory; }
template <class F> CMSEI_TEAM S* shifts(const F& f) { return f.of.memory + 8 * F::kTiles; }
template <class F> CMSEI_TEAM void normalise(F& f, int k) {
    if (f.plain()) return;
    if (F::kBeside && f.of.words && k == 0) {
        if (f.scaled) return;
        // The mean is not one of the queries: the norm leaves it out.
        if (f.has_mean()) {
#pragma unroll
            for (int j = 0; j < F::kTiles; ++j) f.p[F::kRows - 1][j][0] = f.p[F::kRows - 1][j][1] = 0;
        }
    }
    const S scale = plain_scale(f);
    const auto add = [](S x, S y) { return x + y; };
    S sum[2 * F::kTiles];
#pragma unroll
    for (int c = 0; c < 2 * F::kTiles; ++c) sum[c] = 0;
    if (f.exponential()) {
        S most[2 * F::kTiles];
#pragma unroll
        for (int c = 0; c < 2 * F::kTiles; ++c) most[c] = -static_cast<S>(INFINITY);
        over_rows(f, k, [&] {
            f.each([&](int row, int j, int i) {
                if (f.query(row) < f.n) most[2 * j + i] = Math::max(f.a[row][j][i], most[2 * j + i]);
            });
        });
        by_column(f, most, shifts(f), [](S x, S y) { return Math::max(x, y); }, [](S x) { return x; });
        recall(f, most, shifts(f));
        over_rows(f, k, [&] {
            f.each([&](int row, int j, int i) {
                if (f.query(row) < f.n) sum[2 * j + i] += Math::exp(f.a[row][j][i] - most[2 * j + i]);
            });
        });
        by_column(f, sum, scales(f), add, [&](S total) { return Math::divide(scale, total); });
        return;
    }
    over_rows(f, k, [&] {
        if (f.squares())
            f.each([&](int row, int j, int i) { sum[2 * j + i] += f.p[row][j][i] * f.p[row][j][i]; });
        else
            f.each([&](int row, int j, int i) { sum[2 * j + i] += Math::abs(f.p[row][j][i]); });
    });
    by_column(f, sum, scales(f), add, [&](S total) { return scale * M::size_scale(f.squares(), total); });
}

template <class F> CMSEI_TEAM void focus(F& f) {
    const bool prob = f.of.how == kFocalProb;
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        S weighted = 0, confident = 0;
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const S g = f.has(j, i) ? M::confidence(prob, f.p[row][j][i]) : S(0);
                weighted += f.p[row][j][i] * g;
                confident += g;
            }
        const S least = M::focal_least(F::Rows::sum(f.of.team, weighted), F::Rows::sum(f.of.team, confident));
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) f.p[row][j][i] = M::focal(f.p[row][j][i], least);
    }
}

// Sets the mean's row, the last one, in the first step: its attention, which lies by column where another direction has
// its guide, and its inner products behind that, unless load_words() has loaded them. A lane reads its two weights of a
// tile one by one: read together, they would have to be moved to the registers that the left operand needs.
template <class F> CMSEI_TEAM void let_mean_ask(F& f) {
    if (!f.has_mean()) return;
    const S* const attention = f.of.guide + f.column;
    const S* const apart = attention + f.of.team.opaque(1);
#pragma unroll
    for (int j = 0; j < F::kTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) f.p[F::kRows - 1][j][i] = (i ? apart : attention)[8 * j];
        if (f.of.words) continue;
        const Numbers<2> two = read<2>(f.mean_products() + f.column + 8 * j);
#pragma unroll
        for (int i = 0; i < 2; ++i) f.a[F::kRows - 1][j][i] = two.x[i];
    }
}

template <class F> CMSEI_TEAM S row_largest(const F& f, S x) {
    x = Math::max(f.of.team.exchanged(x, 1), x);
    return Math::max(f.of.team.exchanged(x, 2), x);
}
// Attention to the context and, for the rows that the lane finishes, Q·U; neither is divided by the sum of the weights
// yet.
template <class F> CMSEI_TEAM void soften(F& f, int k, S (&dot)[F::kSlots]) {
    S scale[2 * F::kTiles];
    if (f.plain()) {
#pragma unroll
        for (int c = 0; c < 2 * F::kTiles; ++c) scale[c] = plain_scale(f);
    } else {
        recall(f, scale, scales(f));
    }
    if (f.exponential()) {
        S shift[2 * F::kTiles];
        recall(f, shift, shifts(f));
        f.each([&](int row, int j, int i) { f.p[row][j][i] = Math::exp(f.a[row][j][i] - shift[2 * j + i]); });
    }
    // Past the last item inner products are finite: with -inf added they have weight 0.
    S outside[2 * F::kTiles];
#pragma unroll
    for (int c = 0; c < 2 * F::kTiles; ++c) outside[c] = f.has(c / 2, c % 2) ? S(0) : -static_cast<S>(INFINITY);
    f.each([&](int row, int j, int i) { f.p[row][j][i] = f.p[row][j][i] * scale[2 * j + i] + outside[2 * j + i]; });
    if (!f.bounded()) {
#pragma unroll
        for (int row = 0; row < F::kRows; ++row) {
            S largest = f.p[row][0][0];
#pragma unroll
            for (int j = 0; j < F::kTiles; ++j)
                largest = Math::max(Math::max(f.p[row][j][0], f.p[row][j][1]), largest);
            largest = row_largest(f, largest);
#pragma unroll
            for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) f.p[row][j][i] -= largest;
        }
    }
    f.each([&](int row, int j, int i) { f.p[row][j][i] = Math::exp2(f.p[row][j][i]); });
    if (f.focal()) focus(f);
    if (F::kBeside && k == 0) let_mean_ask(f);
    S product[F::kRows];
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        product[row] = 0;
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) product[row] += f.p[row][j][i] * f.a[row][j][i];
    }
    // Summed up before the products with the Gram matrix, during which registers are scarce.
    F::Rows::settle(f.of.team, f.lane, product, dot);
}

}  // namespace cmsei::fragments
