// A problem made ready for tiles: the scorer's numbers, both sides packed, the Gram matrices.
#pragma once

#include <stdexcept>

#include "buffer.h"
#include "plan.h"

namespace cmsei {

template <class S> PairSpec<S> spec_of(const Scorer& scorer) {
    const auto& c = scorer.config;
    if (c.size() != 15) throw std::invalid_argument("config: expected 15 integers");
    PairSpec<S> spec{};
    for (int d = 0; d < 2; ++d) {
        spec.active[d] = c[4 * d] != 0;
        spec.norm[d] = static_cast<int>(c[4 * d + 1]);
        spec.aggregate[d] = static_cast<int>(c[4 * d + 2]);
        spec.steps[d] = static_cast<int>(c[4 * d + 3]);
        spec.attend[d] = static_cast<int>(c[11 + 2 * d]);
        spec.relevance[d] = static_cast<int>(c[12 + 2 * d]);
        const auto outside = [](int x, int least, int most) { return x < least || x > most; };
        if (outside(spec.norm[d], kSoftmax, kNone) || outside(spec.aggregate[d], kMean, kGuided) ||
            outside(spec.steps[d], 1, kMaxSteps) || outside(spec.attend[d], kSoft, kNegativeAware) ||
            outside(spec.relevance[d], kCosine, kDot) ||
            (spec.aware(d) && (!spec.active[d] || spec.steps[d] != 1 || spec.relevance[d] != kCosine)))
            throw std::invalid_argument("config: expected that of a PairScorer");
    }
    spec.object_sentence = c[8] != 0;
    spec.word_image = c[9] != 0;
    spec.alignment = c[10] != 0;
    const auto& x = scorer.scalars;
    if (static_cast<long>(x.size()) != spec.scalars()) throw std::invalid_argument("scalars: wrong number for config");
    for (int i = 0; i < 5; ++i) spec.weight[i] = static_cast<S>(x[i]);
    const bool on[5] = {spec.active[0], spec.active[1], spec.object_sentence, spec.word_image, spec.alignment};
    for (int i = 0; i < 5; ++i)
        if (!on[i]) spec.weight[i] = 0;
    spec.mu = static_cast<S>(x[5]);
    for (int d = 0; d < 2; ++d) {
        spec.temperature[d] = static_cast<S>(x[6 + 2 * d]);
        spec.lse[d] = static_cast<S>(x[7 + 2 * d]);
        for (int k = 0; spec.active[d] && k + 1 < spec.steps[d]; ++k)
            for (int i = 0; i < 2; ++i) spec.gate[d][k][i] = static_cast<S>(x[spec.first_gate(d) + 2 * k + i]);
        if (spec.aware(d)) spec.threshold[d] = static_cast<S>(x[spec.threshold_at(d)]);
    }
    return spec;
}

inline std::size_t storage_size(Storage s) { return s == Storage::kFloat64 ? 8 : s == Storage::kFloat32 ? 4 : 2; }

inline Rows at(const Rows& rows, long i) {
    return {static_cast<const char*>(rows.data) + i * rows.stride * static_cast<long>(storage_size(rows.storage)),
            rows.storage, rows.stride, rows.scales ? rows.scales + i : nullptr};
}

// Where a pair's inner products begin in a tile, and the tile's row stride.
struct Corner {
    long offset, ld;
};

// Both sides packed for the product, and the Gram matrices of every image and caption.
template <class S> struct Prepared {
    const PairKernels<S>& k;
    const Items &images, &captions;
    long depth;
    GramForms forms[2]; // of the regions' Gram matrices, of the words'
    const NarrowKernels* narrow; // the product's, if they are not k
    std::vector<Group> regions, words;
    Buffer<S> a, b, gram_memory;
    Buffer<uint32_t> narrow_a, narrow_b;
    std::vector<Gram<S>> v, w;

    Prepared(const PairKernels<S>& kernels, const PairSpec<S>& spec, const Items& i, const Items& c, long d,
             long most_regions, bool int8 = false)
        : k(kernels), images(i), captions(c), depth(d), forms{spec.gram_forms(0), spec.gram_forms(1)},
          narrow(narrow_of(int8)),
          regions(cut(i, most_regions, narrow ? narrow->rows : 1)),
          words(cut(c, kTileWords, kernels.nr, kernels.lanes)) {}

    const NarrowKernels* narrow_of(bool int8) const {
        if (int8 && !k.int8) throw std::invalid_argument("int8: these kernels have no such product");
        const bool bf16 = images.rows.storage == Storage::kBFloat16 && captions.rows.storage == Storage::kBFloat16;
        return int8 ? k.int8 : bf16 ? k.bf16 : nullptr;
    }
    long elements() const { return narrow->elements(depth); }

    long gram_size(const Items& items, long i) const {
        return round_up(k.gram_size(items.size(i), forms[&items == &captions]), 16);
    }

    long gram_scratch(long m) const { return narrow ? narrow->gram_scratch(m, depth) : k.gram_scratch(m, depth); }
    void gram(Rows rows, const Gram<S>& out, S* own) const {
        if constexpr (sizeof(S) == 4) {
            if (narrow) return narrow->gram(rows, depth, out, own);
        }
        k.gram(rows, depth, out, own);
    }

    bool prepare(const Run& run) {
        const long columns = padded_rows(words, k.nr);
        if (narrow) {
            narrow_a.reset(padded_rows(regions, narrow->rows) * elements());
            narrow_b.reset(columns * elements());
        } else {
            a.reset(images.total() * depth);
            b.reset(columns * depth);
        }
        long size = 0, most = std::max(longest(images), longest(captions));
        for (const Items* items : {&images, &captions})
            for (long i = 0; i < items->count; ++i) size += gram_size(*items, i);
        gram_memory.reset(size);
        S* next = gram_memory.get();
        for (const Items* items : {&images, &captions})
            for (long i = 0; i < items->count; ++i) {
                (items == &images ? v : w).push_back(k.gram_view(next, items->size(i), forms[items == &captions]));
                next += gram_size(*items, i);
            }
        const bool rounds = narrow && narrow->round;
        std::vector<Buffer<S>> scratch(run.threads);
        std::vector<Buffer<float>> rounded(run.threads);
        for (auto& s : scratch) s.reset(gram_scratch(most));
        for (auto& r : rounded) r.reset(rounds ? most_rows() * narrow->rounded_size(depth) : 0);
        const long groups = static_cast<long>(regions.size()), tasks = groups + static_cast<long>(words.size());
        return parallel_for(tasks, run.threads, run.interrupted, [&](long task, int thread) {
            const bool left = task < groups;
            const Items& items = left ? images : captions;
            const Group& g = left ? regions[task] : words[task - groups];
            Rows rows = at(items.rows, g.row);
            if (rounds) rows = narrow->round(rows, g.rows, depth, rounded[thread].get());
            if (narrow) {
                if (left)
                    narrow->pack_a(rows, g.rows, depth, narrow_a.get() + g.padded * elements());
                else
                    narrow->pack_b(rows, g.rows, depth, narrow_b.get() + g.padded * elements());
            } else if (left) {
                k.pack_a(rows, g.rows, depth, a.get() + g.row * depth);
            } else {
                k.pack_b(rows, g.rows, depth, b.get() + g.padded * depth);
            }
            for (long i = g.first; i < g.last; ++i)
                gram(at(rows, items.offsets[i] - g.row), left ? v[i] : w[i], scratch[thread].get());
        });
    }

    // Rows of the largest group of either side.
    long most_rows() const {
        long most = 0;
        for (const auto* groups : {&regions, &words})
            for (const Group& g : *groups) most = std::max(most, g.rows);
        return most;
    }

    // The size of a tile, with as many rows more as a register has lanes.
    long tile_size() const {
        long rows = 0, cols = 0;
        for (const Group& g : regions) rows = std::max(rows, narrow ? round_up(g.rows, narrow->rows) : g.rows);
        for (const Group& g : words) cols = std::max(cols, round_up(g.rows, k.nr));
        return (rows + k.lanes) * cols + k.nr;
    }

    // The sizes of the largest strip.
    StripSize strip_size() const {
        StripSize most{0, 0, 0, 0, longest(images), longest(captions)};
        for (const Group& g : regions) {
            most.images = std::max(most.images, g.last - g.first);
            most.regions = std::max(most.regions, g.rows);
        }
        for (const Group& g : words) {
            most.captions = std::max(most.captions, g.last - g.first);
            most.words = std::max(most.words, g.rows);
        }
        return most;
    }

    // Rows of a panel of A.
    long panel() const { return narrow ? narrow->mr : k.mr; }

    // Inner products of rows and columns of two groups, from the beginnings of panels; row stride returned.
    long product(const Group& g, long row, long rows, const Group& h, long column, long columns, S* tile) const {
        const long ld = round_up(columns, k.nr);
        if constexpr (sizeof(S) == 4) {
            if (narrow) {
                narrow->gemm(narrow_a.get() + (g.padded + row) * elements(),
                             narrow_b.get() + (h.padded + column) * elements(), tile, ld, rows, columns, depth);
                return ld;
            }
        }
        k.gemm({a.get() + (g.row + row) * depth, k.mr * depth, 0, b.get() + (h.padded + column) * depth, k.nr * depth,
                k.nr, tile, ld, rows, columns, depth});
        return ld;
    }
    long product(const Group& g, const Group& h, S* tile) const { return product(g, 0, g.rows, h, 0, h.rows, tile); }

    // The product of one image and one caption of these groups, with the panels' other rows and columns around it.
    Corner product_of(const Group& g, const Group& h, long i, long j, S* tile) const {
        const long row = images.offsets[i] - g.row, column = captions.offsets[j] - h.row;
        const long r0 = row / panel() * panel(), c0 = column / k.nr * k.nr;
        const long r1 = std::min(g.rows, round_up(row + images.size(i), panel())), c1 = column + captions.size(j);
        const long ld = product(g, r0, r1 - r0, h, c0, c1 - c0, tile);
        return {(row - r0) * ld + column - c0, ld};
    }

    Pair<S> pair(const Group& g, const Group& h, long i, long j, const S* tile, long ld) const {
        return {tile + (images.offsets[i] - g.row) * ld + captions.offsets[j] - h.row, ld, images.size(i),
                captions.size(j), v[i], w[j]};
    }
};

}  // namespace cmsei
