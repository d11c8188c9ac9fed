// The gradients of relation-aware attention: one image and a range of heads at a time.
#pragma once

#include "relation_head.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

template <class S> struct BackwardSpace {
    Plan<S> plan;
    S *query, *query_t, *grad, *grad_t, *key, *value;
    S *weight, *dweight;        // (keys × lanes) of a block: the attention and its gradient
    S *bins, *dbins, *related;  // by bin: sums of both; g · value[label]
    S* sorted;                  // the bins by label
    S *dquery, *dkey, *dvalue;  // staged where rows are not whole registers
    S *edge_weight, *edge_dlogit, *picked_weight, *picked_dlogit;
    S* dconfidence;  // as the plan's matrices
};

template <class S> BackwardSpace<S> place_backward(const RelationInputs<S>& in, Arena& arena) {
    BackwardSpace<S> s;
    s.plan = place_plan(in, arena);
    const long lanes = s.plan.lanes, R = in.rows, D = in.padded, W = Simd<S>::W;
    s.query = arena.take<S>(lanes * D);
    s.query_t = arena.take<S>(D * lanes);
    s.grad = arena.take<S>(lanes * D);
    s.grad_t = arena.take<S>(D * lanes);
    s.key = arena.take<S>(R * D);
    s.value = arena.take<S>(R * D);
    s.weight = arena.take<S>(R * lanes);
    s.dweight = arena.take<S>(R * lanes);
    const long bins = in.labels ? s.plan.bins() : 0;
    s.bins = arena.take<S>(bins);
    s.dbins = arena.take<S>(bins);
    s.related = arena.take<S>(bins);
    s.sorted = arena.take<S>(bins);
    const bool staged = D != in.dim;
    s.dquery = arena.take<S>(staged ? lanes * D : 0);
    s.dkey = arena.take<S>(staged ? R * D : 0);
    s.dvalue = arena.take<S>(staged ? R * D : 0);
    s.edge_weight = arena.take<S>(R * R + W);
    s.edge_dlogit = arena.take<S>(R * R + W);
    s.picked_weight = arena.take<S>(R);
    s.picked_dlogit = arena.take<S>(R);
    s.dconfidence = arena.take<S>(in.confidence ? s.plan.blocks * R * lanes : 0);
    return s;
}

template <class S>
void backward_edges(BackwardSpace<S>& space, const RelationInputs<S>& in, const RelationGradients<S>& gradients,
                    const RelationSums<S>& sums, long image, long head, Ahead& ahead) {
    list_edges(space.plan, in, image);
    const Plan<S>& plan = space.plan;
    const Rows<const S> q = head_rows(in.q, image, head), k = head_rows(in.k, image, head),
                        v = head_rows(in.v, image, head), g = head_rows(gradients.out, image, head);
    const Rows<S> dq = head_rows(gradients.q, image, head), dk = head_rows(gradients.k, image, head),
                  dv = head_rows(gradients.v, image, head);
    const S scale = logit_scale<S>(in.dim);
    const long D = in.padded;
    const S* table = in.value + (in.value ? head * in.labels * D : 0);
    for (long i = 0; i < in.rows; ++i) {
        const long first = plan.edge_begin[i], count = plan.edge_begin[i + 1] - first;
        const S* gi = g.data + i * g.row;
        ahead.step(7);
        S* weight = space.edge_weight + first;
        S* dlogit = space.edge_dlogit + first;
        softmax_edges(plan, in, head, i, scale, q.data + i * q.row, k, weight);
        S mean = 0;
        for (long e = 0; e < count; ++e) {
            const S* vj = v.data + plan.edge_key[first + e] * v.row;
            dlogit[e] = in.value ? dot<S, true>(gi, vj, table + plan.edge_label[first + e] * D, in.dim)
                                 : dot<S, false>(gi, vj, nullptr, in.dim);
            mean += weight[e] * dlogit[e];
        }
        for (long e = 0; e < count; ++e) {
            const S d = weight[e] * (dlogit[e] - mean);
            const int32_t label = plan.edge_label[first + e];
            if (sums.bias) sums.bias[head * in.labels + label] += d;
            if (sums.confidence) space.dconfidence[plan.element(i, plan.edge_key[first + e])] += d;
            dlogit[e] = d * scale;
        }
        const WeightedRows<S> keys{k.data, k.row, plan.edge_key + first, dlogit, count};
        combine(&keys, 1, 0, in.dim, dq.data + i * dq.row, false);
        if (sums.value) {
            for (long c = 0; c < in.dim; ++c) space.grad[c] = gi[c];
            for (long c = in.dim; c < D; ++c) space.grad[c] = 0;
            scatter_rows(space.grad, D, plan.edge_label + first, weight, count, sums.value + head * in.labels * D, D);
        }
    }
    for (long j = 0; j < in.rows; ++j) {
        const long first = plan.incoming_begin[j], count = plan.incoming_begin[j + 1] - first;
        for (long e = 0; e < count; ++e) {
            space.picked_weight[e] = space.edge_weight[plan.incoming[first + e]];
            space.picked_dlogit[e] = space.edge_dlogit[plan.incoming[first + e]];
        }
        const WeightedRows<S> queries{q.data, q.row, plan.incoming_query + first, space.picked_dlogit, count};
        const WeightedRows<S> grads{g.data, g.row, plan.incoming_query + first, space.picked_weight, count};
        combine(&queries, 1, 0, in.dim, dk.data + j * dk.row, false);
        combine(&grads, 1, 0, in.dim, dv.data + j * dv.row, false);
    }
}

// related (by bin) = g · value[label].
template <class S>
void relate(BackwardSpace<S>& space, const RelationInputs<S>& in, long block, const S* table, Ahead& ahead) {
    const Plan<S>& plan = space.plan;
    const long L = plan.lanes, D = in.padded;
    if (!plan.by_row) {
        const Product<S> product{in.dim, table + D, D, 1, space.grad_t, L};
        for (long n = 0; n < L; ++n) space.related[n] = 0;
        gemm<S, false>(&product, 1, in.labels - 1, L, space.related + L, L, false, ahead);
        return;
    }
    const long first = block * L, before = plan.slots_before(block);
    for (long i = first; i < at_most(plan.rows, first + L); ++i)
        dot_rows(space.grad + (i - first) * D, D, plan.slot_label + plan.row_slot[i],
                 plan.row_slot[i + 1] - plan.row_slot[i], table, D, space.related + plan.row_slot[i] - before);
    for (long n = 0; n < L; ++n) space.related[plan.slots(block) + n] = 0;
}

// dweight: from the gradient of the weights to that of the logits.
template <class S, bool Related> void softmax_backward(BackwardSpace<S>& space, long block) {
    using V = Simd<S>;
    using T = typename V::T;
    const Plan<S>& plan = space.plan;
    const long R = plan.rows, L = plan.lanes;
    for (long n = 0; n < L; n += V::W) {
        const int32_t* label = plan.label + block * R * L + n;
        const int32_t* bin = plan.bin + block * R * L + n;
        const S* p = space.weight + n;
        S* d = space.dweight + n;
        T mean = V::zero();
        for (long j = 0; j < R; ++j) {
            T x = V::load(d + j * L);
            if (Related) {
                x += gather(space.related, bin + j * L);
                V::store(d + j * L, x);
            }
            mean += V::select(edge_mask<S>(label + j * L), V::load(p + j * L) * x, V::zero());
        }
        for (long j = 0; j < R; ++j) {
            const T dlogit = V::load(p + j * L) * (V::load(d + j * L) - mean);
            V::store(d + j * L, V::select(edge_mask<S>(label + j * L), dlogit, V::zero()));
        }
    }
}

template <class S>
void backward_tables(BackwardSpace<S>& space, const RelationInputs<S>& in, const RelationSums<S>& sums, long block,
                     long head, Ahead& ahead) {
    const Plan<S>& plan = space.plan;
    const long R = plan.rows, L = plan.lanes, D = in.padded;
    if (sums.value) {
        S* table = sums.value + head * in.labels * D;
        fill_bins(plan, block, space.weight, space.bins);
        if (plan.by_row) {
            const int32_t* begin = plan.label_begin + block * (plan.labels + 1);
            const long before = plan.slots_before(block);
            for (long s = 0; s < plan.slots(block); ++s) space.sorted[s] = space.bins[plan.label_slot[before + s]];
            for (long l = 1; l < plan.labels; ++l) {
                if (begin[l] == begin[l + 1]) continue;
                const WeightedRows<S> grads{space.grad, D, plan.label_lane + begin[l],
                                            space.sorted + begin[l] - before, begin[l + 1] - begin[l]};
                combine(&grads, 1, 0, D, table + l * D, true);
            }
        } else {
            const Product<S> product{at_most(L, R - block * L), space.bins + L, L, 1, space.grad, D};
            gemm<S, false>(&product, 1, in.labels - 1, D, table + D, D, true, ahead);
        }
    }
    if (!sums.bias) return;
    S* bias = sums.bias + head * in.labels;
    fill_bins(plan, block, space.dweight, space.dbins);
    if (plan.by_row) {
        const long before = plan.slots_before(block);
        for (long s = 0; s < plan.slots(block); ++s) bias[plan.slot_label[before + s]] += space.dbins[s];
    } else {
        for (long l = 1; l < in.labels; ++l) {
            typename Simd<S>::T sum = Simd<S>::zero();
            for (long n = 0; n < L; n += Simd<S>::W) sum += Simd<S>::load(space.dbins + l * L + n);
            bias[l] += Simd<S>::sum(sum);
        }
    }
}

template <class S>
void backward_head(BackwardSpace<S>& space, const RelationInputs<S>& in, const RelationGradients<S>& gradients,
                   const RelationSums<S>& sums, long image, long head, Ahead& ahead) {
    const Plan<S>& plan = space.plan;
    const long R = in.rows, L = plan.lanes, D = in.padded, dim = in.dim;
    const Rows<const S> q = head_rows(in.q, image, head), g = head_rows(gradients.out, image, head);
    // Decided before anything is summed: see forward_head.
    bool finite = pack(q, R, dim, 0, D, space.key) && pack(g, R, dim, 0, D, space.key);
    finite = finite && pack(head_rows(in.k, image, head), R, dim, R, D, space.key);
    finite = finite && pack(head_rows(in.v, image, head), R, dim, R, D, space.value);
    if (!finite) return backward_edges(space, in, gradients, sums, image, head, ahead);

    const S scale = logit_scale<S>(dim);
    const S* table = in.value + (in.value ? head * in.labels * D : 0);
    const bool direct = D == dim;
    const Rows<S> out_q = head_rows(gradients.q, image, head), out_k = head_rows(gradients.k, image, head),
                  out_v = head_rows(gradients.v, image, head);
    const Rows<S> dk = direct ? out_k : Rows<S>{space.dkey, D}, dv = direct ? out_v : Rows<S>{space.dvalue, D};
    for (long b = 0; b < plan.blocks; ++b) {
        const long first = b * L, count = at_most(L, R - first);
        const Rows<S> rows_q{out_q.data + first * out_q.row, out_q.row};
        const Rows<S> dq = direct ? rows_q : Rows<S>{space.dquery, D};
        pack(Rows<const S>{q.data + first * q.row, q.row}, count, dim, L, D, space.query);
        pack(Rows<const S>{g.data + first * g.row, g.row}, count, dim, L, D, space.grad);
        transpose(space.query, D, L, D, space.query_t, L);
        transpose(space.grad, D, L, D, space.grad_t, L);

        const Product<S> score{dim, space.key, D, 1, space.query_t, L};
        gemm<S, false>(&score, 1, R, L, space.weight, L, false, ahead);
        softmax_block(plan, in, head, b, scale, space.weight);
        const Product<S> dweight{dim, space.value, D, 1, space.grad_t, L};
        gemm<S, false>(&dweight, 1, R, L, space.dweight, L, false, ahead);
        if (in.value) {
            relate(space, in, b, table, ahead);
            softmax_backward<S, true>(space, b);
        } else {
            softmax_backward<S, false>(space, b);
        }
        backward_tables(space, in, sums, b, head, ahead);
        for (long e = 0; sums.confidence && e < R * L; ++e) space.dconfidence[b * R * L + e] += space.dweight[e];
        for (long e = 0; e < R * L; ++e) space.dweight[e] *= scale;

        const Product<S> to_q{R, space.dweight, 1, L, space.key, D}, to_k{count, space.dweight, L, 1, space.query, D},
            to_v{count, space.weight, L, 1, space.grad, D};
        gemm<S, true>(&to_q, 1, count, D, dq.data, dq.row, false, ahead);
        gemm<S, false>(&to_k, 1, R, D, dk.data, dk.row, b > 0, ahead);
        gemm<S, false>(&to_v, 1, R, D, dv.data, dv.row, b > 0, ahead);
        if (!direct) unpack(space.dquery, D, count, dim, rows_q);
    }
    if (direct) return;
    unpack(space.dkey, D, R, dim, out_k);
    unpack(space.dvalue, D, R, dim, out_v);
}

template <class S>
void relation_backward(const RelationInputs<S>& in, const RelationGradients<S>& gradients, const RelationSums<S>& sums,
                       long image, long first, long last, long next, void* scratch) {
    Arena arena{scratch, 0};
    BackwardSpace<S> space = place_backward(in, arena);
    Plan<S>& plan = space.plan;
    const long R = in.rows;
    make_plan(plan, in, image, in.labels > 0, in.value != nullptr);
    for (long e = 0; sums.confidence && e < plan.blocks * R * plan.lanes; ++e) space.dconfidence[e] = 0;
    for (long head = first; head < last; ++head) {
        Ahead ahead{};
        add_ahead(ahead, in, gradients.q, image, head);
        add_ahead(ahead, in, gradients.k, image, head);
        add_ahead(ahead, in, gradients.v, image, head);
        const bool same = head + 1 < last;
        if (same || next >= 0) {
            add_next(ahead, in, same ? image : next, same ? head + 1 : first);
            add_ahead(ahead, in, gradients.out, same ? image : next, same ? head + 1 : first);
        }
        if (plan.sparse)
            backward_edges(space, in, gradients, sums, image, head, ahead);
        else
            backward_head(space, in, gradients, sums, image, head, ahead);
    }
    if (!sums.confidence) return;
    const int32_t* label = in.label + image * R * R;
    const S* confidence = in.confidence + image * R * R;
    for (long i = 0; i < R; ++i)
        for (long j = 0; j < R; ++j)
            sums.confidence[i * R + j] =
                label[i * R + j] ? space.dconfidence[plan.element(i, j)] / confidence[i * R + j] : 0;
}

template <class S> long backward_bytes(const RelationInputs<S>& in) {
    Arena arena{nullptr, 0};
    place_backward(in, arena);
    return arena.used;
}

}  // namespace relation
}  // namespace CMSEI_ISA
}  // namespace cmsei
