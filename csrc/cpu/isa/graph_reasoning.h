// Graph reasoning over a pair's similarity vectors: in each step every node attends to all nodes of its pair. The nodes
// of many pairs lie side by side in the lanes, so that the layers are products of full width. Included once per
// instruction set.
#pragma once

#include "layer.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct GraphReasoning {
    using V = Simd<S>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const SimilarityModel<S>& model;
    long width, padded;  // the latter in whole registers
    long ld_whole;       // lead of a chunk's captions
    S *whole, *factor;   // (padded × ld_whole) unit vectors of a chunk's sentences; factors to unit length
    S *node, *other;     // (padded × lead of the nodes): the nodes; their queries, then what they attend to
    S *row;              // (nodes, padded) the nodes
    S *edge;             // of each pair, keys × queries
    S *first, *asking;   // (padded × lead of the captions): the first nodes; their queries
    S *answer;           // (captions, padded) what they attend to

    GraphReasoning(const SimilarityModel<S>& m, const SimilaritySizes& most, Space<S>& space)
        : model(m), width(m.width), padded(round_up(m.width, W)), ld_whole(lead<S>(most.captions)) {
        const long n = most.words + most.block_captions, captions = lead<S>(most.block_captions);
        whole = space.take(padded * ld_whole);
        factor = space.take(lead<S>(n > most.captions ? n : most.captions));
        node = space.take(padded * lead<S>(n));
        other = space.take(padded * lead<S>(n));
        row = space.take(round_up(n, W) * padded);
        edge = space.take(n * round_up(most.longest + 1, kNR<S>));
        first = space.take(padded * captions);
        asking = space.take(padded * captions);
        answer = space.take(round_up(most.block_captions, W) * padded);
    }

    // y: (width × ld) of a chunk's n sentences.
    void sentences(const S* y, long ld, long n) {
        unit_factors<S, false>(y, ld, width, n, factor, nullptr, nullptr);
        for (long o = 0; o < width; ++o)
            for (long v = 0; v < n; v += W)
                V::store(whole + o * ld_whole + v, V::load(y + o * ld + v) * V::load(factor + v));
    }

    // Scores of a block from y (width × ld) of its words.
    void scores(const SimilarityBlock<S>& block, const S* y, long ld_y, S* out) {
        const long n = block.total() + block.count, ld = lead<S>(n);
        place(block, y, ld_y, ld);
        for (long s = 0; s + 1 < model.steps; ++s) {
            const GraphStep<S>& step = model.step[s];
            apply_layer(step.ask, width, width, node, ld, other, ld, n);
            transpose(node, ld, width, n, row, padded);
            reason(block, ld);
            apply_layer(step.answer, width, width, other, ld, node, ld, n);
            for (long o = 0; o < width; ++o)
                for (long v = 0; v < n; v += W)
                    V::store(node + o * ld + v, V::max(V::zero(), V::load(node + o * ld + v)));
        }
        transpose(node, ld, width, n, row, padded);
        last(block, ld, out);
    }

private:
    // A pair's nodes: its whole vector, then one for each word.
    static long begin(const SimilarityBlock<S>& block, long j) { return block.offsets[j] - block.offsets[0] + j; }

    // Stores run over the end of a pair into the next one, which then stores over them.
    void place(const SimilarityBlock<S>& block, const S* y, long ld_y, long ld) {
        unit_factors<S, false>(y, ld_y, width, block.total(), factor, nullptr, nullptr);
        for (long o = 0; o < padded; ++o) {
            S* to = node + o * ld;
            if (o >= width) {
                for (long v = 0; v < block.total() + block.count; v += W) V::store(to + v, V::zero());
                continue;
            }
            for (long j = 0; j < block.count; ++j) {
                const long at = block.offsets[j] - block.offsets[0], n = block.size(j);
                S* own = to + at + j;
                *own++ = whole[o * ld_whole + block.first + j];
                for (long v = 0; v < n; v += W)
                    V::store(own + v, V::load(y + o * ld_y + at + v) * V::load(factor + at + v));
            }
        }
    }

    // Attention among each pair's nodes: `other` holds their queries, and afterwards the weighted sums of the nodes.
    void reason(const SimilarityBlock<S>& block, long ld) {
        S* e = edge;
        for (long j = 0; j < block.count; ++j) {
            const long at = begin(block, j), n = block.size(j) + 1, ld_edge = round_up(n, kNR<S>);
            gemm(Gemm<S>{node + at, kMR, ld, other + at, kNR<S>, ld, e, ld_edge, n, n, width});
            for (long v = 0; v < n; v += W) softmax_down(e + v, ld_edge, n);
            e += n * ld_edge;
        }
        e = edge;
        for (long j = 0; j < block.count; ++j) {
            const long at = begin(block, j), n = block.size(j) + 1, ld_edge = round_up(n, kNR<S>);
            gemm(Gemm<S>{row + at * padded, kMR, padded, e, kNR<S>, ld_edge, other + at, ld, width, n, n});
            e += n * ld_edge;
        }
    }

    static void softmax_down(S* x, long ld, long n) {
        T most = V::load(x), sum = V::zero();
        for (long i = 1; i < n; ++i) most = V::max(V::load(x + i * ld), most);
        for (long i = 0; i < n; ++i) {
            const T e = V::exp(V::load(x + i * ld) - most);
            V::store(x + i * ld, e);
            sum += e;
        }
        const T inverse = 1 / sum;
        for (long i = 0; i < n; ++i) V::store(x + i * ld, V::load(x + i * ld) * inverse);
    }

    // The last step, of which only each pair's first node is needed.
    void last(const SimilarityBlock<S>& block, long ld, S* out) {
        const GraphStep<S>& step = model.step[model.steps - 1];
        const long count = block.count, ld_first = lead<S>(count);
        for (long o = 0; o < width; ++o)
            for (long j = 0; j < count; ++j) first[o * ld_first + j] = node[o * ld + begin(block, j)];
        apply_layer(step.ask, width, width, first, ld_first, asking, ld_first, count);
        for (long j = 0; j < count; ++j) {
            const long at = begin(block, j), n = block.size(j) + 1;
            gemm(Gemm<S>{asking + j, kMR, ld_first, node + at, kNR<S>, ld, edge, round_up(n, kNR<S>), 1, n, width});
            softmax_along(edge, n);
            for (long o = 0; o < padded; o += W) {
                T sum = V::zero();
                for (long i = 0; i < n; ++i) sum += V::load(row + (at + i) * padded + o) * edge[i];
                V::store(answer + j * padded + o, sum);
            }
        }
        transpose(answer, padded, count, width, first, ld_first);
        apply_layer(step.answer, width, width, first, ld_first, asking, ld_first, count);
        for (long j = 0; j < count; j += W) {
            T sum = V::set(model.evaluate_bias);
            for (long o = 0; o < width; ++o)
                sum += V::max(V::zero(), V::load(asking + o * ld_first + j)) * model.evaluate[o];
            sum = V::sigmoid(sum);
            __builtin_memcpy(out + j, &sum, sizeof(S) * (count - j < W ? count - j : W));
        }
    }

    static void softmax_along(S* x, long n) {
        T most = V::set(x[0]), sum = V::zero();
        for (long v = 0; v < n; v += W) most = V::max(V::select(V::first(n - v), V::load(x + v), most), most);
        const S largest = V::largest(most);
        for (long v = 0; v < n; v += W) {
            const T e = V::select(V::first(n - v), V::exp(V::load(x + v) - largest), V::zero());
            V::store(x + v, e);
            sum += e;
        }
        const S inverse = 1 / V::sum(sum);
        for (long v = 0; v < n; v += W) V::store(x + v, V::load(x + v) * inverse);
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
