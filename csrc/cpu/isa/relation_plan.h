// What the heads of one image share: its labels laid out for the kernels, and its edges as lists.
#pragma once

#include "../relation_kernels.h"
#include "../simd.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

// Hands out scratch memory; over no memory at all it only adds up the sizes.
struct Arena {
    void* base;
    long used;

    template <class U> U* take(long count) {
        U* p = reinterpret_cast<U*>(reinterpret_cast<uintptr_t>(base) + used);
        used += round_up(count * static_cast<long>(sizeof(U)), 64);
        return p;
    }
};

CMSEI_INLINE long at_most(long a, long b) { return a < b ? a : b; }
CMSEI_INLINE float natural_log(float x) { return __builtin_logf(x); }
CMSEI_INLINE double natural_log(double x) { return __builtin_log(x); }

// Up to this many labels, not counting 0 (no edge), every query has bins for all of them, however few it uses.
constexpr long kFewLabels = 16;

// The matrices of an image are kept as blocks of query lanes: element (block, key, lane), query = block * lanes + lane.
// Lanes beyond the last query have no edge.
template <class S> struct Plan {
    long rows, labels;
    long lanes, blocks;

    bool sparse;  // few edges: the products with all keys would cost more than going through the list
    bool by_row;  // bins of a query's own labels, not of all labels
    int32_t* label;
    int32_t* bin;  // where the element is summed, relative to its block's bins; no edge: a bin nobody reads
    S* log_confidence;
    int32_t* row_slot;  // by_row: a query's slots are [row_slot[i], row_slot[i + 1])
    int32_t* slot_label;
    int32_t* pair_slot;
    int32_t* label_begin;  // by_row, of block b and label l at [b * (labels + 1) + l]: the slots of that label
    int32_t* label_slot;   // relative to the block's first
    int32_t* label_lane;   // the query

    bool listed;  // the lists below are filled
    int32_t* edge_begin;  // edges by query
    int32_t* edge_key;
    int32_t* edge_label;
    S* edge_log_confidence;
    int32_t* incoming_begin;  // the same edges by key
    int32_t* incoming;        // the edge
    int32_t* incoming_query;  // and where it comes from

    int32_t* seen;  // by label: the last query that has it (plus 1), and its slot there
    int32_t* seen_slot;

    long element(long query, long key) const {
        const long block = query / lanes;
        return (block * rows + key) * lanes + query - block * lanes;
    }
    long bins() const { return lanes * (at_most(2 * rows > kFewLabels ? 2 * rows : kFewLabels, labels - 1) + 1); }
    long slots_before(long block) const { return row_slot[block * lanes]; }
    long slots(long block) const { return row_slot[at_most(rows, (block + 1) * lanes)] - row_slot[block * lanes]; }
};

template <class S> Plan<S> place_plan(const RelationInputs<S>& in, Arena& arena) {
    constexpr long most = 64;
    Plan<S> p{};
    p.rows = in.rows;
    p.labels = in.labels;
    p.blocks = divide_up(in.rows, most);
    p.lanes = round_up(divide_up(in.rows, p.blocks), Simd<S>::W);
    p.blocks = divide_up(in.rows, p.lanes);
    const long elements = p.blocks * p.rows * p.lanes, pairs = p.rows * p.rows;
    const bool confidence = in.confidence != nullptr, tables = in.labels > 0;
    p.label = arena.take<int32_t>(elements);
    p.bin = arena.take<int32_t>(tables ? elements : 0);
    p.log_confidence = arena.take<S>(confidence ? elements : 0);
    p.row_slot = arena.take<int32_t>(p.rows + 1);
    p.slot_label = arena.take<int32_t>(tables ? pairs + 1 : 0);
    p.pair_slot = arena.take<int32_t>(tables ? pairs : 0);
    p.label_begin = arena.take<int32_t>(tables ? p.blocks * (p.labels + 1) : 0);
    p.label_slot = arena.take<int32_t>(tables ? pairs : 0);
    p.label_lane = arena.take<int32_t>(tables ? pairs : 0);
    p.edge_begin = arena.take<int32_t>(p.rows + 1);
    p.edge_key = arena.take<int32_t>(pairs);
    p.edge_label = arena.take<int32_t>(pairs);
    p.edge_log_confidence = arena.take<S>(confidence ? pairs : 0);
    p.incoming_begin = arena.take<int32_t>(p.rows + 1);
    p.incoming = arena.take<int32_t>(pairs);
    p.incoming_query = arena.take<int32_t>(pairs);
    p.seen = arena.take<int32_t>(in.labels);
    p.seen_slot = arena.take<int32_t>(in.labels);
    return p;
}

template <class S> void list_edges(Plan<S>& p, const RelationInputs<S>& in, long image) {
    if (p.listed) return;
    const long R = p.rows;
    const int32_t* label = in.label + image * R * R;
    const S* confidence = in.confidence ? in.confidence + image * R * R : nullptr;
    for (long j = 0; j <= R; ++j) p.incoming_begin[j] = 0;
    long edges = 0;
    for (long i = 0; i < R; ++i) {
        p.edge_begin[i] = static_cast<int32_t>(edges);
        for (long j = 0; j < R; ++j) {
            const int32_t l = label[i * R + j];
            if (l == 0) continue;
            p.edge_key[edges] = static_cast<int32_t>(j);
            p.edge_label[edges] = l;
            if (confidence) p.edge_log_confidence[edges] = natural_log(confidence[i * R + j]);
            ++p.incoming_begin[j];
            ++edges;
        }
    }
    p.edge_begin[R] = static_cast<int32_t>(edges);
    int32_t begin = 0;
    for (long j = 0; j <= R; ++j) {
        const int32_t count = p.incoming_begin[j];
        p.incoming_begin[j] = begin;
        begin += count;
    }
    // Filling moves every begin to its end, which is the next one's begin.
    for (long i = 0; i < R; ++i)
        for (int32_t e = p.edge_begin[i]; e < p.edge_begin[i + 1]; ++e) {
            const int32_t at = p.incoming_begin[p.edge_key[e]]++;
            p.incoming[at] = e;
            p.incoming_query[at] = static_cast<int32_t>(i);
        }
    for (long j = R; j > 0; --j) p.incoming_begin[j] = p.incoming_begin[j - 1];
    p.incoming_begin[0] = 0;
    p.listed = true;
}

// Gives every query a slot for each of its labels; bin: the slot of every pair, as (query, key).
template <class S> void find_slots(Plan<S>& p, const int32_t* label) {
    for (long l = 0; l < p.labels; ++l) p.seen[l] = 0;
    int32_t slot = 0;
    for (long i = 0; i < p.rows; ++i) {
        p.row_slot[i] = slot;
        const int32_t query = static_cast<int32_t>(i + 1);
        for (long j = 0; j < p.rows; ++j) {
            // Without branches: where a label comes first is random.
            const int32_t l = label[i * p.rows + j];
            const bool first = l != 0 && p.seen[l] != query;
            const int32_t s = first ? slot : p.seen_slot[l];
            p.seen[l] = query;
            p.seen_slot[l] = s;
            p.slot_label[slot] = l;
            p.pair_slot[i * p.rows + j] = s;
            slot += first;
        }
    }
    p.row_slot[p.rows] = slot;
}

// Sorts each block's slots by label.
template <class S> void list_labels(Plan<S>& p) {
    const long L = p.lanes;
    for (long b = 0; b < p.blocks; ++b) {
        int32_t* begin = p.label_begin + b * (p.labels + 1);
        const int32_t before = static_cast<int32_t>(p.slots_before(b));
        for (long l = 0; l <= p.labels; ++l) begin[l] = 0;
        for (long s = 0; s < p.slots(b); ++s) ++begin[p.slot_label[before + s]];
        int32_t at = before;
        for (long l = 0; l <= p.labels; ++l) {
            const int32_t count = begin[l];
            begin[l] = at;
            at += count;
        }
        for (long i = b * L; i < at_most(p.rows, (b + 1) * L); ++i)
            for (int32_t s = p.row_slot[i]; s < p.row_slot[i + 1]; ++s) {
                const int32_t to = begin[p.slot_label[s]]++;
                p.label_slot[to] = s - before;
                p.label_lane[to] = static_cast<int32_t>(i - b * L);
            }
        // Filling has moved every begin to its end, which is the next one's begin.
        for (long l = p.labels; l > 0; --l) begin[l] = begin[l - 1];
        begin[0] = before;
    }
}

// Labels (and log confidences) of all pairs in lanes; with `binned`, the bins.
template <class S> void lay_out(Plan<S>& p, const RelationInputs<S>& in, long image, bool binned) {
    const long R = p.rows, L = p.lanes;
    const int32_t* label = in.label + image * R * R;
    const S* confidence = in.confidence ? in.confidence + image * R * R : nullptr;
    const long labels = p.labels - 1;
    p.by_row = false;
    if (binned && (labels > kFewLabels || !in.value_finite)) {
        find_slots(p, label);
        // A slot costs about three times its share of a full product over all labels.
        p.by_row = labels > 2 * R || 3 * static_cast<long>(p.row_slot[R]) < labels * R || !in.value_finite;
    }
    for (long b = 0; b < p.blocks; ++b) {
        const long begin = b * R * L, first = b * L, count = at_most(L, R - first);
        const int32_t before = p.by_row ? static_cast<int32_t>(p.slots_before(b)) : 0;
        const int32_t unread = p.by_row ? static_cast<int32_t>(p.slots(b)) : 0;
        for (long j = 0; j < R; ++j)
            for (long n = 0; n < L; ++n) {
                const long e = begin + j * L + n, pair = (first + n) * R + j;
                const int32_t l = n < count ? label[pair] : 0;
                p.label[e] = l;
                if (!binned) continue;
                const int32_t lane = static_cast<int32_t>(n);
                if (p.by_row)
                    p.bin[e] = l ? p.pair_slot[pair] - before : unread + lane;
                else
                    p.bin[e] = l * static_cast<int32_t>(L) + lane;
            }
        for (long j = 0; confidence && j < R; ++j)
            for (long n = 0; n < L; ++n) {
                const long e = begin + j * L + n;
                const S c = p.label[e] ? confidence[(first + n) * R + j] : 1;
                p.log_confidence[e] = c == 1 ? 0 : natural_log(c);
            }
    }
}

template <class S> void make_plan(Plan<S>& p, const RelationInputs<S>& in, long image, bool binned, bool by_label) {
    const long pairs = p.rows * p.rows;
    const int32_t* label = in.label + image * pairs;
    long edges = 0;
    for (long e = 0; e < pairs; ++e) edges += label[e] != 0;
    p.sparse = edges * 3 < pairs;
    p.listed = false;
    if (p.sparse)
        list_edges(p, in, image);
    else
        lay_out(p, in, image, binned);
    if (by_label && !p.sparse && p.by_row) list_labels(p);
}

}  // namespace relation
}  // namespace CMSEI_ISA
}  // namespace cmsei
