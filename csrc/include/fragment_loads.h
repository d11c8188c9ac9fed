// Loads inner products and lengths into fragments; stores those of a next step if there are more queries than fragments
// hold.
#pragma once

#include "fragments.h"

namespace cmsei::fragments {

// The stride between context items is 1 here: a lane's addresses differ by constants.
template <class F> CMSEI_TEAM void load_words(F& f, const S* from) {
#pragma unroll
    for (int row = 0; row < F::kRows; ++row) {
        const S* start = f.query(row) < f.n ? from + f.query(row) * f.of.query : f.of.team.zeros();
        if (F::kBeside && row == F::kRows - 1 && f.has_mean()) start = f.mean_products();
        const S* const place = start + f.item(0, 0);
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j) {
            f.a[row][j][0] = f.a[row][j][1] = 0;
            if (!f.begins(j)) continue;
            if (F::kWide) {
                const Numbers<2> two = read<2>(place + 8 * j);
                f.a[row][j][0] = two.x[0];
                f.a[row][j][1] = two.x[1];
            } else {
                f.a[row][j][0] = place[8 * j];
                f.a[row][j][1] = place[8 * j + 4];
            }
        }
    }
}
template <class F> CMSEI_TEAM void load_regions(F& f, const S* from) {
    const int row = f.first + (f.lane >> 2), none = f.of.team.zeros_behind(from) + (f.lane >> 2);
    int places[F::kTiles][2];
#pragma unroll
    for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int c = f.item(j, i);
            places[j][i] = c < f.m ? c * f.of.context + row : none;
        }
    // One test, of the last row, for all of them. With kBeside there are more than 32 regions, so that it has queries.
    if (F::kBeside || f.used(F::kRows - 1))
        f.each([&](int row, int j, int i) { f.a[row][j][i] = from[places[j][i] + 8 * row]; });
    else
        f.each([&](int row, int j, int i) { f.a[row][j][i] = f.used(row) ? from[places[j][i] + 8 * row] : S(0); });
}
// Loads the inner products of step k.
template <class F> CMSEI_TEAM void load(F& f, int k) {
    const S* const from = k == 0 ? f.of.first : f.next();
    if (f.of.words)
        load_words(f, from);
    else
        load_regions(f, from);
}
// Stores the inner products of the next step for load(), with the numbers past the last item or query that it reads
// too.
template <class F> CMSEI_TEAM void store(const F& f) {
    const bool words = f.of.words;
#pragma unroll
    for (int row = 0; row < F::kRows; ++row)
#pragma unroll
        for (int j = 0; j < F::kTiles; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (words ? f.query(row) < f.n && f.begins(j) : f.used(row) && f.has(j, i))
                    f.next()[f.query(row) * f.of.query + f.item(j, i) * f.of.context] = f.a[row][j][i];
}
template <class F> CMSEI_TEAM void load_lengths(F& f, int k) {
    const S* const from = k == 0 ? f.of.length : f.lengths();
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot)
        f.length[slot] = from[f.finished(slot) < f.n ? f.finished(slot) : f.n - 1];
}

// p = the inner products at hand as the norm takes them: leaky if it is clipped, else unchanged.
template <class F> CMSEI_TEAM void leak(F& f) {
    const S share = is_clipped(f.of.norm) ? static_cast<S>(kLeak) : S(1);
    f.each([&](int row, int j, int i) { f.p[row][j][i] = M::leaky(f.a[row][j][i], share); });
}

// Calls visit() for all queries, 8 kRows at a time, with their inner products of step k at hand.
template <class F, class Visit> CMSEI_TEAM void over_rows(F& f, int k, const Visit& visit) {
#pragma unroll 1
    for (f.first = 0;; f.first += 8 * F::kRows) {
        f.renew();
        if (f.many()) {
            load(f, k);
            leak(f);
        }
        visit();
        if (!f.many() || f.first + 8 * F::kRows >= f.n) return;
    }
}

}  // namespace cmsei::fragments
