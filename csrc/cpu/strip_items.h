// Items whose queries lie side by side in the lanes: which registers are whose, and sums over each item's queries.
// Included once per instruction set.
#pragma once

#include "pack.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct StripItems {
    using V = Simd<S>;
    using T = typename V::T;
    using Int = typename V::Int;
    using Mask = typename V::Mask;
    static constexpr int W = V::W;
    // The most queries that are worked on together: eight images of 36 regions at W = 16, whose numbers stay in the
    // caches.
    static constexpr long kColumns = 18 * W;

    // The queries of some items as registers, none of which holds queries of two items. A piece is one register or, in
    // an item of more than two, kLayers registers that are added up. That depends on the item alone, as every order of
    // sums must.
    static constexpr int kLayers = 3;
    struct Pieces {
        static long registers(long queries) { return (queries + W - 1) / W; }
        static long layers(long queries) { return registers(queries) < kLayers ? 1 : kLayers; }
        static long of(long queries) { return (registers(queries) + layers(queries) - 1) / layers(queries); }
        long at[kLayers][W] = {};
        Mask valid[kLayers][W] = {}; // lanes that are queries
        Mask further = {};           // in the lane of an item's first piece: how many more it has
        Mask first = {};             // lanes of first pieces
        long rounds = 0;             // the most of these
        long count = 0;              // if more than W, there is one item, and no piece is listed
        long most_layers = 1;
    };

    // Counts the items that are worked on together: as many as fit, and the first in any case.
    struct Room {
        long columns = 0, pieces = 0;
        bool takes(long queries) {
            const long more = Pieces::of(queries);
            if (pieces > 0 && (pieces + more > W || columns + queries > kColumns)) return false;
            columns += queries;
            pieces += more;
            return true;
        }
    };

    S* owner = nullptr; // (columns) the first piece of each query's item, as integers
    long n = 0;         // queries
    Pieces cut;

    // An item longer than kColumns is worked on alone.
    static long columns(long longest) { return round_up(longest > kColumns ? longest : kColumns, kNR<S>) + kNR<S>; }

    static CMSEI_INLINE void store_lanes(S* to, Mask x) { __builtin_memcpy(to, &x, sizeof x); }

    void take_items(const Gram<S>* items, long count) {
        n = 0;
        cut = Pieces();
        for (long j = 0; j < count; ++j) {
            n += items[j].m;
            cut.count += Pieces::of(items[j].m);
        }
    }
    // Sets `owner` and `cut`: which item each query belongs to.
    void find_owners(const Gram<S>* items, long count) {
        if (cut.count > W) {
            for (long v = 0; v <= n; v += W) store_lanes(owner + v, Mask{});
            cut.first = V::first(1);
            return;
        }
        long k = 0, at = 0;
        for (long j = 0; j < count; at += items[j++].m) {
            const long m = items[j].m, pieces = Pieces::of(m), layers = Pieces::layers(m);
            for (long v = 0, i = 0; v < m; v += W, ++i) {
                store_lanes(owner + at + v, Mask{} + static_cast<Int>(k));
                cut.at[i % layers][k + i / layers] = at + v;
                cut.valid[i % layers][k + i / layers] = V::first(m - v);
            }
            cut.further[k] = static_cast<Int>(pieces - 1);
            cut.first[k] = -1;
            cut.rounds = pieces - 1 > cut.rounds ? pieces - 1 : cut.rounds;
            cut.most_layers = layers > cut.most_layers ? layers : cut.most_layers;
            k += pieces;
        }
        store_lanes(owner + n, Mask{});
    }

    // Calls body(registers as a constant, first query) for each panel of queries.
    template <class Body> CMSEI_INLINE void each_panel(Body body) const {
        for (long at = 0; at < n; at += kNR<S>)
            if (n - at <= W)
                body(std::integral_constant<int, 1>(), at);
            else
                body(std::integral_constant<int, kNV>(), at);
    }

    // Calls put(i, sums) for each row i: in the lane of an item's first piece, `sums` has the sum of term(i, at, valid)
    // over the item's queries. A term is a register of row i from query `at` on, 0 in lanes that are not `valid`.
    template <class Term, class Put> CMSEI_INLINE void sum_items(long rows, Term term, Put put) const {
        if (cut.count > W)
            alone(rows, term, put);
        else if (cut.most_layers == 1)
            cut.count > W / 2 ? side_by_side<1, 1>(rows, term, put) : side_by_side<2, 1>(rows, term, put);
        else
            cut.count > W / 2 ? side_by_side<1, kLayers>(rows, term, put) : side_by_side<2, kLayers>(rows, term, put);
    }

private:
    // Sums the lanes of all pieces at once, of two rows (`together`) if there are at most half as many pieces as lanes.
    template <int together, int layers, class Term, class Put>
    CMSEI_INLINE void side_by_side(long rows, Term term, Put put) const {
        constexpr int each = W / together;
        Mask lane;
        for (int k = 0; k < W; ++k) lane[k] = k;
        for (long i = 0; i < rows; i += together) {
            const long next = i + 1 < rows ? i + 1 : i;
            T sums[W];
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) {
                const long row = k < each ? i : next;
#pragma GCC unroll 3
                for (int layer = 0; layer < layers; ++layer) {
                    const T x = term(row, cut.at[layer][k % each], cut.valid[layer][k % each]);
                    sums[k] = layer == 0 ? x : sums[k] + x;
                }
            }
            const T own = lane_sums<S>(sums);
            for (int m = 0; m < together && i + m < rows; ++m) {
                const T pieces = m == 0 ? own : V::template turned<W / 2>(own);
                T total = pieces;
                for (long k = 1; k <= cut.rounds; ++k)
                    total += V::select(cut.further >= static_cast<Int>(k),
                                       V::lookup(pieces, (lane + static_cast<Int>(k)) & (W - 1)), V::zero());
                put(i + m, total);
            }
        }
    }

    // For one item of more pieces than a register has lanes.
    template <class Term, class Put> CMSEI_INLINE void alone(long rows, Term term, Put put) const {
        for (long i = 0; i < rows; ++i) {
            T sum = V::zero();
            for (long v = 0; v < n; v += W) sum += V::select(V::first(n - v), term(i, v, ~Mask{}), V::zero());
            put(i, V::set(V::sum(sum)));
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
