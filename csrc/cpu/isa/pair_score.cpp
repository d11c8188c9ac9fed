// The score of one pair from its inner products, and its gradient, from the terms of the other headers.
#include "../cross_level.h"
#include "../direction_vjp.h"
#include "../nonzero.h"
#include "../strip.h"
#include "../strip_gradient.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace {

template <class S> struct PairTerms {
    using V = Simd<S>;
    using One = PairMath<Plain<S>>;
    using T = typename V::T;
    static constexpr int W = V::W;

    const PairSpec<S>& spec;
    const Pair<S>& pair;
    long R, L, ld_w, ld_v; // lanes of words and of regions, which are also the padded rows
    bool cross, transposed;
    S *by_region, *by_word; // (ld_v, ld_w) the block and (ld_w, ld_v) its transpose, padding zero
    DirectionVjp<S> direction[2];
    CrossLevel<S> objects, words;
    S total, term[5];

    PairTerms(const PairSpec<S>& s, const Pair<S>& p)
        : spec(s), pair(p), R(p.regions), L(p.words), ld_w(round_up(L, W)), ld_v(round_up(R, W)),
          cross(s.cross_level()), transposed(s.active[1] || cross) {}

    static long scratch(const PairSpec<S>& spec, long R, long L, bool backward) {
        const long r = round_up(R, W), l = round_up(L, W);
        long size = 2 * r * l + CrossLevel<S>::size(r) + CrossLevel<S>::size(l) + 4 * (r + l), most = 0;
        for (int d = 0; d < 2; ++d) {
            if (!spec.active[d]) continue;
            const long rows = d ? l : r, lanes = d ? r : l;
            long own = (backward ? spec.steps[d] : 1) * DirectionVjp<S>::step_size(rows, lanes, spec.aware(d));
            if (backward) own += DirectionVjp<S>::gradients_size(rows, lanes);
            if (backward) size += r * l;
            most = own > most ? own : most;
        }
        return size + most;
    }

    void load_block(Arena<S>& arena) {
        by_region = arena.take(ld_v * ld_w);
        for (long r = 0; r < R; ++r)
            for (long v = 0; v < ld_w; v += W)
                V::store(by_region + r * ld_w + v,
                         V::select(V::first(L - v), V::load(pair.block + r * pair.ld_block + v), V::zero()));
        if (transposed) {
            for (long v = R * ld_w; v < ld_v * ld_w; v += W) V::store(by_region + v, V::zero());
            by_word = arena.take(ld_w * ld_v);
            transpose(by_region, ld_w, R, L, by_word, ld_v);
        }
    }
    // The inner products and the terms that no direction has.
    void begin(Arena<S>& arena) {
        load_block(arena);
        for (S& t : term) t = 0;
        if (cross) {
            objects.gram = &pair.v;
            words.gram = &pair.w;
            objects.mu = words.mu = spec.mu;
            objects.lay_out(arena);
            words.lay_out(arena);
            column_means(by_word, L, ld_v, ld_v, objects.other);
            column_means(by_region, R, ld_w, ld_w, words.other);
            objects.other_length = *pair.w.mean;
            words.other_length = *pair.v.mean;
            if (spec.object_sentence || (spec.active[1] && spec.aggregate[1] == kGuided)) objects.forward();
            if (spec.word_image || (spec.active[0] && spec.aggregate[0] == kGuided)) words.forward();
            if (spec.object_sentence) term[kWeightObjectSentence] = objects.score;
            if (spec.word_image) term[kWeightWordImage] = words.score;
            if (spec.alignment) {
                T sum = V::zero();
                for (long v = 0; v < ld_w; v += W) sum += V::load(words.other + v);
                total = V::sum(sum) / L;
                term[kWeightAlignment] = One::alignment(total, objects.other_length, words.other_length);
            }
        }
    }

    // Direction d's score.
    void attend(int d, Arena<S>& arena, bool keep) {
        Direction<S>& x = direction[d];
        x.n = d ? R : L;
        x.m = d ? L : R;
        x.ld = d ? ld_v : ld_w;
        x.m_padded = d ? ld_w : ld_v;
        x.norm = spec.norm[d];
        x.aggregate = spec.aggregate[d];
        x.steps = spec.steps[d];
        x.how = spec.attend[d];
        x.relevance_kind = spec.relevance[d];
        x.temperature = spec.temperature[d];
        x.lse = spec.lse[d];
        x.threshold = spec.threshold[d];
        x.gates = spec.gate[d];
        x.context = d ? &pair.w : &pair.v;
        x.queries = d ? &pair.v : &pair.w;
        x.guide = d ? objects.p : words.p;
        x.lay_out(arena, keep);
        // The first step only reads them.
        x.step[0].a = d ? by_word : by_region;
        x.step[0].q = (d ? pair.v : pair.w).length;
        term[d] = x.forward(keep);
    }

    S forward(Arena<S>& arena) {
        begin(arena);
        for (int d = 0; d < 2; ++d) {
            Arena<S> own = arena;
            if (spec.active[d]) attend(d, own, false);
        }
        S score = 0;
        for (int t = 0; t < 5; ++t) score += spec.weight[t] * term[t];
        return score;
    }

    void backward(Arena<S>& arena, const PairGradient<S>& g) {
        begin(arena);
        S* const zeroed[] = {arena.take(ld_v), arena.take(ld_w), arena.take(ld_v), arena.take(ld_w)};
        S *d_p = zeroed[0], *d_omega = zeroed[1], *d_length_v = zeroed[2], *d_length_w = zeroed[3];
        S *d_other_v = arena.take(ld_v), *d_other_w = arena.take(ld_w);
        for (int i = 0; i < 4; ++i)
            for (long v = 0; v < (i % 2 ? ld_w : ld_v); v += W) V::store(zeroed[i] + v, V::zero());

        typename DirectionVjp<S>::Gradients b[2];
        for (int d = 0; d < 2; ++d) {
            if (!spec.active[d]) continue;
            b[d].d_a = arena.take(ld_v * ld_w);
            // One direction after the other in the same memory, which is twice as large as the first cache for both.
            Arena<S> own = arena;
            attend(d, own, true);
            direction[d].lay_out_gradients(b[d], own);
            b[d].d_guide = d ? d_p : d_omega;
            b[d].d_context = d ? g.d_w : g.d_v;
            direction[d].backward(g.d_score * spec.weight[d], b[d]);
            S* lengths = d ? d_length_v : d_length_w;
            for (long v = 0; v < direction[d].ld; v += W)
                V::store(lengths + v, V::load(lengths + v) + V::load(b[d].d_q + v));
            g.d_scalars[d ? kI2TTemperature : kT2ITemperature] += b[d].d_temperature;
            g.d_scalars[d ? kI2TLse : kT2ILse] += b[d].d_lse;
            if (spec.aware(d)) g.d_scalars[spec.threshold_at(d)] += b[d].d_threshold;
            for (int k = 0; k + 1 < spec.steps[d]; ++k)
                for (int i = 0; i < 2; ++i) g.d_scalars[spec.first_gate(d) + 2 * k + i] += b[d].d_gate[k][i];
        }

        for (int t = 0; t < 5; ++t) g.d_scalars[t] += static_cast<double>(g.d_score) * term[t];
        for (long v = 0; v < ld_v; v += W) V::store(d_other_v + v, V::zero());
        for (long v = 0; v < ld_w; v += W) V::store(d_other_w + v, V::zero());
        if (cross) {
            S d_sentence = 0, d_image = 0; // of the lengths of the mean word and the mean region
            double& d_mu = g.d_scalars[kGuideTemperature];
            if (spec.object_sentence || (spec.active[1] && spec.aggregate[1] == kGuided))
                objects.backward(spec.object_sentence ? g.d_score * spec.weight[kWeightObjectSentence] : 0, d_p,
                                 d_other_v, d_length_v, g.d_v, d_sentence, d_mu);
            if (spec.word_image || (spec.active[0] && spec.aggregate[0] == kGuided))
                words.backward(spec.word_image ? g.d_score * spec.weight[kWeightWordImage] : 0, d_omega, d_other_w,
                               d_length_w, g.d_w, d_image, d_mu);
            if (spec.alignment) {
                const S d = g.d_score * spec.weight[kWeightAlignment];
                S d_total = 0;
                One::alignment_vjp(total, objects.other_length, words.other_length, d, d_total, d_sentence, d_image);
                for (long j = 0; j < L; ++j) d_other_w[j] += d_total / L;
            }
            mean_length_vjp(pair.w, objects.other_length, d_sentence, g.d_w);
            mean_length_vjp(pair.v, words.other_length, d_image, g.d_v);
        }
        length_vjp(pair.v, d_length_v, g.d_v);
        length_vjp(pair.w, d_length_w, g.d_w);

        // d_block = t2i + i2tᵀ + what the means spread over their rows and columns.
        if (spec.active[1]) transpose(b[1].d_a, ld_v, L, R, by_region, ld_w);
        for (long r = 0; r < R; ++r)
            for (long v = 0; v < L; v += W) {
                T d = d_other_v[r] / L + V::load(d_other_w + v) / static_cast<S>(R);
                if (spec.active[0]) d += V::load(b[0].d_a + r * ld_w + v);
                if (spec.active[1]) d += V::load(by_region + r * ld_w + v);
                V::store(g.d_block + r * g.ld_block + v, d);
            }
    }
};

template <class S> long pair_scratch(const PairSpec<S>& spec, long regions, long words, bool backward) {
    return PairTerms<S>::scratch(spec, regions, words, backward);
}
template <class S> S pair_forward(const PairSpec<S>& spec, const Pair<S>& pair, S* scratch) {
    Arena<S> arena{scratch};
    return PairTerms<S>(spec, pair).forward(arena);
}
template <class S>
void pair_backward(const PairSpec<S>& spec, const Pair<S>& pair, const PairGradient<S>& gradient, S* scratch) {
    Arena<S> arena{scratch};
    PairTerms<S>(spec, pair).backward(arena, gradient);
}

template <class S>
void strip_forward(const PairSpec<S>& spec, const Strip<S>& strip, S* scores, long stride, S* scratch) {
    Arena<S> arena{scratch};
    StripScores<S>(spec, strip, arena).forward(scores, stride);
}

template <class S>
void strip_backward(const PairSpec<S>& spec, const Strip<S>& strip, const StripGradient<S>& gradient, S* scratch) {
    Arena<S> arena{scratch};
    StripGradients<S>(spec, strip, gradient, arena).backward();
}

template <class S> PairKernels<S> table() {
    PairKernels<S> t{};
    t.mr = kMR;
    t.nr = kNR<S>;
    t.lanes = Simd<S>::W;
    // Processors with 512-bit registers have at least 1 MiB of it, others 512 KiB. Eight or four images of 36 regions.
    t.tile_regions = CMSEI_VECTOR_BYTES == 64 ? 288 : 144;
    t.pack_a = pack_a<S>;
    t.pack_b = pack_b<S>;
    t.pack_b_rows = pack_b_rows<S>;
    t.gemm = gemm<S>;
    t.nonzeros = nonzeros<S>;
    t.nonzero_gemm = nonzero_gemm<S>;
    t.gram_size = gram_size<S>;
    t.gram_view = gram_view<S>;
    t.gram = gram<S>;
    t.gram_scratch = gram_scratch<S>;
    t.pair_scratch = pair_scratch<S>;
    t.pair_forward = pair_forward<S>;
    t.strip_suits = StripScores<S>::suits;
    t.strip_scratch = StripScores<S>::scratch;
    t.strip_forward = strip_forward<S>;
    t.pair_backward = pair_backward<S>;
    t.strip_gradient_suits = StripGradients<S>::suits;
    t.strip_gradient_scratch = StripGradients<S>::scratch;
    t.strip_backward = strip_backward<S>;
    return t;
}

}  // namespace

PairKernels<float> pair_kernels_f32() { return table<float>(); }
PairKernels<double> pair_kernels_f64() { return table<double>(); }

}  // namespace CMSEI_ISA
}  // namespace cmsei
