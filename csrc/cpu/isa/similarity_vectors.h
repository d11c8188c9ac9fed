// Similarity vectors W (u - q)² + b of an image with words, u the unit attended vector of each word q. Passes over the
// depth make the squared differences of a panel of words and multiply them while they are in the first cache; no vector
// as wide as a word's is ever kept. Included once per instruction set.
#pragma once

#include "../../include/pair_math.h"
#include "layer.h"

namespace cmsei {
namespace CMSEI_ISA {

// z (M × NV registers) = (Σ_k a[k * M + i] · p[k * kNR + lane] - q[i * kNR + lane])², in a form.
template <class S, Form form, int M, int NV>
CMSEI_INLINE void squared_difference(long k, const S* a, const S* p, const S* q, S* z) {
    using V = Simd<S>;
    typename V::T acc[M][NV];
    clear<S>(acc);
#pragma GCC unroll 4
    for (; k > 0; --k, a += M, p += kNR<S>) multiply_add<S>(a, p, acc);
    store_rows<S, form, M, NV>(z, [&](int i, int j) {
        const typename V::T apart = acc[i][j] - V::load(q + i * kNR<S> + j * V::W);
        return apart * apart;
    });
}

template <class S, Form form, int M>
__attribute__((noinline)) void squared_difference_rows(int nv, long k, const S* a, const S* p, const S* q, S* z) {
    if (nv == 1)
        squared_difference<S, form, M, 1>(k, a, p, q, z);
    else
        squared_difference<S, form, M, kNV>(k, a, p, q, z);
}

template <class S> struct SimilarityVectors {
    using V = Simd<S>;
    using M = PairMath<V>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const SimilarityModel<S>& model;
    const long R, D;
    S *rows, *columns; // the image's regions as panels of regions, as panels of the depth
    S* gram_space;
    S *inner, *logit; // (R, lead) of a block's words
    S* p;             // panels (R, kNR) of the attention
    S* square;        // a pass of squared differences of a panel

    SimilarityVectors(const SimilarityModel<S>& m, const SimilaritySizes& most, Space<S>& space)
        : model(m), R(most.regions), D(m.depth) {
        const long words = lead<S>(most.words);
        rows = space.take(R * D);
        columns = space.take(R * D);
        gram_space = space.take(gram_size<S>(R, GramForms::kContext));
        inner = space.take(R * words);
        logit = space.take(R * words);
        p = space.take(R * words);
        square = space.take(layer_step<S>(D) * kNR<S>);
    }

    void image(const S* regions, S* scratch) {
        pack_a_of(regions, D, R, D, rows);
        for (long d = 0; d < D; d += kMR) {
            const long m = D - d < kMR ? D - d : kMR;
            S* panel = columns + d * R;
            for (long r = 0; r < R; ++r)
                for (long i = 0; i < m; ++i) panel[r * m + i] = regions[r * D + d + i];
        }
        cmsei::CMSEI_ISA::gram<S>({regions, kStorage<S>, D}, D,
                                  gram_view<S>(gram_space, R, GramForms::kContext), scratch);
    }

    // y (width × ld lanes) of a block's words.
    void words(const SimilarityBlock<S>& block, S* y, long ld) {
        const long n = block.total(), ld_inner = lead<S>(n);
        gemm(Gemm<S>{rows, kMR * D, 0, block.words, kNR<S> * D, kNR<S>, inner, ld_inner, R, n, D});
        for (long i = 0; i < R; ++i) V::store(logit + i * ld_inner + n, V::zero());
        const S f = model.temperature * static_cast<S>(kLog2E);
        for (long j = 0; j < block.count; ++j) {
            const long at = block.offsets[j] - block.offsets[0];
            normalise(inner + at, ld_inner, block.size(j), f, logit + at);
        }
        for (long j = 0; j < n; j += kNR<S>) {
            if (registers<S>(n, j) == 1)
                attend<1>(logit + j, ld_inner, p + j * R);
            else
                attend<kNV>(logit + j, ld_inner, p + j * R);
        }
        fill_rows(y, ld, n, model.local.bias, model.width);
        model.rounded ? passes<rounded_form<S>()>(block.words, n, y, ld) : passes<Form::kExact>(block.words, n, y, ld);
    }

    // y (width × ld lanes) of an image's own vector with sentences' vectors.
    void whole(const S* image, const S* sentences, long n, S* y, long ld) {
        fill_rows(y, ld, n, model.whole.bias, model.width);
        if (model.rounded)
            whole_passes<rounded_form<S>()>(image, sentences, n, y, ld);
        else
            whole_passes<Form::kExact>(image, sentences, n, y, ld);
    }

private:
    // out = f · leaky a / its length over a caption's n words, for each region. Up to a register's lanes can be read
    // and written past the last.
    void normalise(const S* a, long ld, long n, S f, S* out) const {
        for (long i = 0; i < R; i += W, a += W * ld, out += W * ld) {
            const long some = R - i < W ? R - i : W;
            T squares[W];
            for (long k = 0; k < W; ++k) squares[k] = V::zero();
            for (long v = 0; v < n; v += W) {
                const auto valid = V::first(n - v);
                for (long k = 0; k < some; ++k) {
                    const T x = M::leaky(V::load(a + k * ld + v));
                    V::store(out + k * ld + v, x);
                    squares[k] += V::select(valid, x * x, V::zero());
                }
            }
            alignas(CMSEI_VECTOR_BYTES) S factor[W];
            V::store(factor, f * M::size_scale(true, lane_sums<S>(squares)));
            for (long v = 0; v < n; v += W)
                for (long k = 0; k < some; ++k) V::store(out + k * ld + v, V::load(out + k * ld + v) * factor[k]);
        }
    }

    // Attention of a panel of words, divided by the length of the attended vector. Bounded logits need no maximum.
    template <int NV> void attend(const S* x, long ld, S* out) {
        const S* half = gram_view<S>(gram_space, R, GramForms::kContext).half;
        T sum[NV] = {}, quad[kNV] = {};
        for (long i = 0; i < R; ++i)
#pragma GCC unroll 2
            for (int k = 0; k < NV; ++k) {
                const T weight = V::exp2(V::load(x + i * ld + k * W));
                V::store(out + i * kNR<S> + k * W, weight);
                sum[k] += weight;
            }
        quadratic_form(NV, R, half, out, kNR<S>, quad);
#pragma GCC unroll 2
        for (int k = 0; k < NV; ++k) {
            const T inverse = 1 / sum[k], factor = inverse * M::unit_factor(M::length(quad[k]) * inverse);
            for (long i = 0; i < R; ++i)
                V::store(out + i * kNR<S> + k * W, V::load(out + i * kNR<S> + k * W) * factor);
        }
    }

    template <Form form> void passes(const S* words, long n, S* y, long ld) {
        const long step = layer_step<S>(D);
        for (long k0 = 0; k0 < D; k0 += step) {
            const long k = D - k0 < step ? D - k0 : step;
            for (long j = 0; j < n; j += kNR<S>) {
                const int nv = registers<S>(n, j);
                differences<form>(nv, k0, k, p + j * R, words + j * D);
                add_panel<S, form>(model.local.weight, model.width, k0, k, square, kNR<S>, y + j, ld, nv);
            }
        }
    }

    template <Form form> void whole_passes(const S* image, const S* sentences, long n, S* y, long ld) {
        const long step = layer_step<S>(D);
        for (long k0 = 0; k0 < D; k0 += step) {
            const long k = D - k0 < step ? D - k0 : step;
            for (long j = 0; j < n; j += kNR<S>) {
                const S *own = image + k0, *q = sentences + j * D + k0 * kNR<S>;
                const auto apart = [&](int i, int v) {
                    const T x = V::set(own[i]) - V::load(q + i * kNR<S> + v * W);
                    return x * x;
                };
                long i = 0;
                for (; i + 2 <= k; i += 2, own += 2, q += 2 * kNR<S>)
                    store_rows<S, form, 2, kNV>(square + (form == Form::kPairs ? i / 2 : i) * kNR<S>, apart);
                if (i < k) store_rows<S, form, 1, kNV>(square + (form == Form::kPairs ? i / 2 : i) * kNR<S>, apart);
                add_panel<S, form>(model.whole.weight, model.width, k0, k, square, kNR<S>, y + j, ld,
                                   registers<S>(n, j));
            }
        }
    }

    template <Form form> void differences(int nv, long k0, long k, const S* panel, const S* words) {
        for (long i = 0; i < k; i += kMR) {
            const int m = k - i < kMR ? static_cast<int>(k - i) : kMR;
            const S *a = columns + (k0 + i) * R, *q = words + (k0 + i) * kNR<S>;
            S* z = square + (form == Form::kPairs ? i / 2 : i) * kNR<S>;
            with_rows(m, [&](auto rows) { squared_difference_rows<S, form, rows.value>(nv, R, a, panel, q, z); });
        }
    }
};

}  // namespace CMSEI_ISA
}  // namespace cmsei
