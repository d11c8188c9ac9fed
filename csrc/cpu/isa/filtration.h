// Attention filtration: a sum of a pair's similarity vectors, weighted by gates. Included once per instruction set.
#pragma once

#include "layer.h"

namespace cmsei {
namespace CMSEI_ISA {

template <class S> struct Filtration {
    using V = Simd<S>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const SimilarityModel<S>& model;
    long padded;                              // the width, up to whole registers
    S *gate, *weight;                         // (lead) of a block's words: the gate, and over the vector's length
    S *whole_gate, *whole_weight, *whole_row; // the same of a chunk's sentences; their vectors (captions, padded)
    S *row;                                   // (words, padded)
    S *sum, *logit;                           // (padded), (lead of a block's captions)

    Filtration(const SimilarityModel<S>& m, const SimilaritySizes& most, Space<S>& space)
        : model(m), padded(round_up(m.width, W)) {
        gate = space.take(lead<S>(most.words));
        weight = space.take(lead<S>(most.words));
        whole_gate = space.take(lead<S>(most.captions));
        whole_weight = space.take(lead<S>(most.captions));
        whole_row = space.take(round_up(most.captions, W) * padded);
        row = space.take(round_up(most.words, W) * padded);
        sum = space.take(padded);
        logit = space.take(lead<S>(most.block_captions));
    }

    // y: (width × ld) of a chunk's n sentences.
    void sentences(const S* y, long ld, long n) { ready(y, ld, n, whole_gate, whole_weight, whole_row); }

    // Scores of a block from y (width × ld) of its words.
    void scores(const SimilarityBlock<S>& block, const S* y, long ld, S* out) {
        ready(y, ld, block.total(), gate, weight, row);
        for (long j = 0; j < block.count; ++j) {
            const long at = block.offsets[j] - block.offsets[0], n = block.size(j), own = block.first + j;
            S total = whole_gate[own];
            for (long i = 0; i < n; ++i) total += gate[at + i];
            const S inverse = 1 / at_least_eps(total);
            T square = V::zero(), dot = V::zero();
            for (long o = 0; o < padded; o += W) {
                T x = V::load(whole_row + own * padded + o) * whole_weight[own];
                for (long i = 0; i < n; ++i) x += V::load(row + (at + i) * padded + o) * weight[at + i];
                x *= inverse;
                square += x * x;
                dot += x * V::load(model.evaluate + o);
            }
            const S length = static_cast<S>(__builtin_sqrt(V::sum(square)));
            logit[j] = V::sum(dot) / at_least_eps(length) + model.evaluate_bias;
        }
        for (long j = 0; j < block.count; j += W) {
            const T x = V::sigmoid(V::load(logit + j));
            __builtin_memcpy(out + j, &x, sizeof(S) * (block.count - j < W ? block.count - j : W));
        }
    }

private:
    // NaN stays NaN.
    static CMSEI_INLINE S at_least_eps(S x) { return x > (S)kEps || x != x ? x : (S)kEps; }

    void ready(const S* y, long ld, long n, S* g, S* w, S* rows) {
        unit_factors<S, true>(y, ld, model.width, n, w, model.gate, g);
        for (long v = 0; v < n; v += W) {
            const T factor = V::load(w + v);
            const T open = V::sigmoid(V::load(g + v) * factor * model.gate_scale + model.gate_shift);
            V::store(g + v, open);
            V::store(w + v, open * factor);
        }
        transpose(y, ld, model.width, n, rows, padded);
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
