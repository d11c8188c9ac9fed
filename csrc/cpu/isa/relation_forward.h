// Relation-aware attention with labelled edges, forward: one image and a range of heads at a time.
#pragma once

#include "relation_head.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

template <class S> struct ForwardSpace {
    Plan<S> plan;
    S *query, *query_t, *key, *value, *score, *bins, *staged, *weight;
};

template <class S> ForwardSpace<S> place_forward(const RelationInputs<S>& in, Arena& arena) {
    ForwardSpace<S> s;
    s.plan = place_plan(in, arena);
    const long lanes = s.plan.lanes, padded = in.padded;
    s.query = arena.take<S>(lanes * padded);
    s.query_t = arena.take<S>(padded * lanes);
    s.key = arena.take<S>(in.rows * padded);
    s.value = arena.take<S>(in.rows * padded);
    s.score = arena.take<S>(in.rows * lanes);
    s.bins = arena.take<S>(in.value ? s.plan.bins() : 0);
    s.staged = arena.take<S>(lanes * padded);
    s.weight = arena.take<S>(in.rows + Simd<S>::W);
    return s;
}

template <class S>
void forward_edges(ForwardSpace<S>& space, const RelationInputs<S>& in, const RelationTensor<S>& out, long image,
                   long head, Ahead& ahead) {
    list_edges(space.plan, in, image);
    const Plan<S>& plan = space.plan;
    const Rows<const S> q = head_rows(in.q, image, head), k = head_rows(in.k, image, head),
                        v = head_rows(in.v, image, head);
    const Rows<S> o = head_rows(out, image, head);
    const S scale = logit_scale<S>(in.dim);
    const S* table = in.value + (in.value ? head * in.labels * in.padded : 0);
    for (long i = 0; i < in.rows; ++i) {
        const long first = plan.edge_begin[i], count = plan.edge_begin[i + 1] - first;
        ahead.step(4);
        softmax_edges(plan, in, head, i, scale, q.data + i * q.row, k, space.weight);
        const WeightedRows<S> terms[2] = {{v.data, v.row, plan.edge_key + first, space.weight, count},
                                          {table, in.padded, plan.edge_label + first, space.weight, count}};
        combine(terms, in.value ? 2 : 1, 0, in.dim, o.data + i * o.row, false);
    }
}

template <class S>
void forward_head(ForwardSpace<S>& space, const RelationInputs<S>& in, const RelationTensor<S>& out, long image,
                  long head, Ahead& ahead) {
    const Plan<S>& plan = space.plan;
    const long R = in.rows, L = plan.lanes, D = in.padded;
    bool finite = pack(head_rows(in.k, image, head), R, in.dim, R, D, space.key);
    finite = pack(head_rows(in.v, image, head), R, in.dim, R, D, space.value) && finite;
    const Rows<const S> q = head_rows(in.q, image, head);
    const Rows<S> o = head_rows(out, image, head);
    const S* table = in.value + (in.value ? head * in.labels * D : 0);
    for (long b = 0; b < plan.blocks; ++b) {
        const long first = b * L, count = at_most(L, R - first);
        finite = pack(Rows<const S>{q.data + first * q.row, q.row}, count, in.dim, L, D, space.query) && finite;
        // A product with zero weights would spread an infinity or NaN to queries that have no edge to it.
        if (!finite) return forward_edges(space, in, out, image, head, ahead);
        transpose(space.query, D, L, D, space.query_t, L);
        const Product<S> score{in.dim, space.key, D, 1, space.query_t, L};
        gemm<S, false>(&score, 1, R, L, space.score, L, false, ahead);
        softmax_block(plan, in, head, b, logit_scale<S>(in.dim), space.score);

        const bool direct = D == in.dim;
        const Rows<S> to = direct ? Rows<S>{o.data + first * o.row, o.row} : Rows<S>{space.staged, D};
        const Product<S> terms[2] = {{R, space.score, 1, L, space.value, D},
                                     {in.labels - 1, space.bins + L, 1, L, table + D, D}};
        if (in.value) fill_bins(plan, b, space.score, space.bins);
        gemm<S, true>(terms, in.value && !plan.by_row ? 2 : 1, count, D, to.data, to.row, false, ahead);
        for (long c = 0; in.value && plan.by_row && c < D; c += kColumns<S>)
            for (long i = 0; i < count; ++i) {
                const long slot = plan.row_slot[first + i];
                const WeightedRows<S> relations{table, D, plan.slot_label + slot,
                                                space.bins + slot - plan.slots_before(b),
                                                plan.row_slot[first + i + 1] - slot};
                combine(&relations, 1, c, at_most(D, c + kColumns<S>), to.data + i * to.row, true);
            }
        if (!direct) unpack(space.staged, D, count, in.dim, Rows<S>{o.data + first * o.row, o.row});
    }
}

template <class S>
void relation_forward(const RelationInputs<S>& in, const RelationTensor<S>& out, long image, long first, long last,
                      long next, void* scratch) {
    Arena arena{scratch, 0};
    ForwardSpace<S> space = place_forward(in, arena);
    make_plan(space.plan, in, image, in.value != nullptr, false);
    for (long head = first; head < last; ++head) {
        Ahead ahead{};
        add_ahead(ahead, in, out, image, head);
        const bool same = head + 1 < last;
        if (same || next >= 0) add_next(ahead, in, same ? image : next, same ? head + 1 : first);
        if (space.plan.sparse)
            forward_edges(space, in, out, image, head, ahead);
        else
            forward_head(space, in, out, image, head, ahead);
    }
}

template <class S> long forward_bytes(const RelationInputs<S>& in) {
    Arena arena{nullptr, 0};
    place_forward(in, arena);
    return arena.used;
}

}  // namespace relation
}  // namespace CMSEI_ISA
}  // namespace cmsei
