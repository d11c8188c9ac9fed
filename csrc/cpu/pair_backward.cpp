// The gradient of all pairs: inner products and attention again tile by tile, then two products back to the features.
#include "gradient_products.h"
#include "pair_score.h"
#include "prepared.h"

namespace cmsei {
namespace {

// Where each item's Gram gradient lies, in zeroed memory.
template <class S> std::vector<S*> gram_gradients(const std::vector<Gram<S>>& grams, Buffer<S>& memory) {
    long size = 0;
    for (const auto& g : grams) size += g.m * g.ld;
    S* next = memory.zeroed(size);
    std::vector<S*> out;
    for (const auto& g : grams) {
        out.push_back(next);
        next += g.m * g.ld;
    }
    return out;
}

// At most this many elements of dS, and of the groups' partial Gram gradients, exist at a time.
constexpr long kChunk = 8L << 20;

// A pair with a gradient, and where its dS (R, L), whose rows are whole registers, and its part of its caption's Gram
// gradient lie.
struct Entry {
    long image, caption, block, gram;
};

// The pairs with a gradient, by image, if they are few: the hardest-negative loss leaves at most three of a row. Empty
// if they are many, or none.
template <class S>
std::vector<Entry> few_entries(const Prepared<S>& x, const S* d_scores, long stride) {
    std::vector<Entry> entries;
    long block = 0, gram = 0;
    const long most = x.images.count * x.captions.count / 8;
    for (long i = 0; i < x.images.count; ++i)
        for (long j = 0; j < x.captions.count; ++j) {
            if (d_scores[i * stride + j] == 0) continue;
            entries.push_back({i, j, block, gram});
            block += x.images.size(i) * round_up(x.captions.size(j), x.k.lanes);
            gram += x.w[j].m * x.w[j].ld;
            if (static_cast<long>(entries.size()) > most || block > kChunk || gram > kChunk) return {};
        }
    return entries;
}

// Where the entries of each item begin, in a list sorted by item.
template <class Of> std::vector<long> starts(const std::vector<Entry>& entries, long items, Of item) {
    std::vector<long> first(items + 1, 0);
    for (const Entry& e : entries) ++first[item(e) + 1];
    for (long i = 0; i < items; ++i) first[i + 1] += first[i];
    return first;
}

// Which group each image or caption is in.
inline std::vector<long> group_of(const std::vector<Group>& groups, long items) {
    std::vector<long> of(items);
    for (std::size_t g = 0; g < groups.size(); ++g)
        for (long i = groups[g].first; i < groups[g].last; ++i) of[i] = static_cast<long>(g);
    return of;
}

// What few() and many() have in common.
template <class S> struct Backward {
    const PairKernels<S>& k;
    const PairSpec<S>& spec;
    const Prepared<S>& x;
    const GradientProducts<S> &to_regions, &to_words;
    const S* d_scores;
    long stride;
    const std::vector<S*>&d_v, &d_w;
    S *d_regions, *d_words;
    std::vector<double>& totals;
    const Run& run;

    std::vector<Buffer<S>> buffers(long size) const {
        std::vector<Buffer<S>> all(run.threads);
        for (auto& b : all) b.reset(size);
        return all;
    }
    std::vector<Buffer<S>> pair_scratch() const {
        return buffers(k.pair_scratch(spec, longest(x.images), longest(x.captions), true));
    }

    bool few(std::vector<Entry> entries) const;
    bool many() const;
    void of_tile(const Group& g, const Group& h, const StripGradient<S>& d, const StripSize& most, bool strips, S* tile,
                 S* scratch) const;
};

// Pair by pair: each image's gradient over its captions, then each caption's over its images, in order.
template <class S> bool Backward<S>::few(std::vector<Entry> entries) const {
    const Items &images = x.images, &captions = x.captions;
    const long n_scalars = static_cast<long>(totals.size());
    const Entry& last = entries.back();
    const auto row_of = [&](long j) { return round_up(captions.size(j), k.lanes); };
    Buffer<S> d_s(last.block + images.size(last.image) * row_of(last.caption)), d_gram;
    d_gram.zeroed(last.gram + x.w[last.caption].m * x.w[last.caption].ld);
    std::vector<double> scalars(images.count * n_scalars, 0.0);
    const auto group = group_of(x.regions, images.count), block = group_of(x.words, captions.count);
    const long most = std::max(longest(images), longest(captions));
    // A pair's rows and columns are cut out at the panels' edges.
    const long tile_size = (longest(images) + 2 * x.panel()) * round_up(longest(captions) + 2 * k.nr, k.nr) + k.nr;
    auto tiles = buffers(tile_size), scratch = pair_scratch();
    auto sums = buffers(most * to_regions.ld_depth), packed = buffers(longest(images) * longest(captions));

    const auto of_image = starts(entries, images.count, [](const Entry& e) { return e.image; });
    bool done = parallel_for(images.count, run.threads, run.interrupted, [&](long i, int thread) {
        S *sum = sums[thread].get(), *tile = tiles[thread].get();
        const long R = images.size(i);
        std::fill_n(sum, R * to_regions.ld_depth, S(0));
        for (long n = of_image[i]; n < of_image[i + 1]; ++n) {
            const Entry& e = entries[n];
            const long j = e.caption, L = captions.size(j), ld = row_of(j);
            const Corner corner = x.product_of(x.regions[group[i]], x.words[block[j]], i, j, tile);
            S* out = d_s.get() + e.block;
            const PairGradient<S> d{d_scores[i * stride + j], out, ld, d_v[i], d_gram.get() + e.gram,
                                    scalars.data() + i * n_scalars};
            k.pair_backward(spec, {tile + corner.offset, corner.ld, R, L, x.v[i], x.w[j]}, d, scratch[thread].get());
            to_regions.multiply(out, ld, false, R, captions.offsets[j], L, sum, packed[thread].get(), true,
                                to_regions.whole());
        }
        to_regions.add_rows(sum, R, d_regions + images.offsets[i] * x.depth, true, to_regions.whole());
    });
    for (long i = 0; done && i < images.count; ++i)
        for (long t = 0; t < n_scalars; ++t) totals[t] += scalars[i * n_scalars + t];

    std::stable_sort(entries.begin(), entries.end(),
                     [](const Entry& a, const Entry& b) { return a.caption < b.caption; });
    const auto of_caption = starts(entries, captions.count, [](const Entry& e) { return e.caption; });
    return done && parallel_for(captions.count, run.threads, run.interrupted, [&](long j, int thread) {
        S* sum = sums[thread].get();
        const long L = captions.size(j), size = x.w[j].m * x.w[j].ld;
        std::fill_n(sum, L * to_words.ld_depth, S(0));
        for (long n = of_caption[j]; n < of_caption[j + 1]; ++n) {
            const Entry& e = entries[n];
            to_words.multiply(d_s.get() + e.block, row_of(j), true, L, images.offsets[e.image], images.size(e.image),
                              sum, nullptr, true, to_words.whole());
            for (long i = 0; i < size; ++i) d_w[j][i] += d_gram.get()[e.gram + i];
        }
        to_words.add_rows(sum, L, d_words + captions.offsets[j] * x.depth, true, to_words.whole());
    });
}

// The gradients of the pairs of two groups, whose product goes to `tile`.
template <class S>
void Backward<S>::of_tile(const Group& g, const Group& h, const StripGradient<S>& d, const StripSize& most, bool strips,
                          S* tile, S* scratch) const {
    // The hardest-negative loss leaves most pairs, and most tiles, without a gradient.
    bool any = false;
    for (long i = g.first; i < g.last; ++i)
        for (long j = h.first; j < h.last; ++j) any |= d_scores[i * stride + j] != 0;
    const long ld = any ? x.product(g, h, tile) : 0;
    if (any && strips) {
        const StripSize size{g.last - g.first, h.last - h.first, g.rows, h.rows, most.most_regions, most.longest};
        return k.strip_backward(spec, {tile, ld, &x.v[g.first], &x.w[h.first], size}, d, scratch);
    }
    // An image's captions in order: a pair's last register reaches into the next one's columns.
    for (long i = g.first; i < g.last; ++i) {
        S* d_gram = d.d_w;
        for (long j = h.first; j < h.last; d_gram += x.w[j].m * x.w[j].ld, ++j) {
            const long rows = x.images.offsets[i] - g.row, columns = x.captions.offsets[j] - h.row;
            const PairGradient<S> own{d_scores[i * stride + j], d.d_block + rows * d.ld_block + columns,
                                      d.ld_block, d_v[i], d_gram, d.d_scalars};
            if (own.d_score != 0) {
                k.pair_backward(spec, x.pair(g, h, i, j, tile, ld), own, scratch);
                continue;
            }
            for (long r = 0; r < x.images.size(i); ++r)
                std::fill_n(own.d_block + r * d.ld_block, x.captions.size(j), S(0));
        }
    }
}

// Tile by tile, in chunks of dS.
template <class S> bool Backward<S>::many() const {
    const long n_scalars = static_cast<long>(totals.size());
    Buffer<S> d_s, partial;
    const bool strips = k.strip_gradient_suits(spec);
    const StripSize most = x.strip_size();
    auto tiles = buffers(x.tile_size());
    auto scratch = strips ? buffers(k.strip_gradient_scratch(spec, most)) : pair_scratch();

    const long n_groups = static_cast<long>(x.regions.size()), n_blocks = static_cast<long>(x.words.size());
    for (long b0 = 0; b0 < n_blocks;) {
        // Captions of this chunk: as many as keep 64 rows of dS in a quarter of it.
        long b1 = b0 + 1;
        const long column = x.words[b0].row;
        auto width = [&](long b) { return x.words[b - 1].row + x.words[b - 1].rows - column; };
        while (b1 < n_blocks && width(b1 + 1) <= kChunk / 256) ++b1;
        const long columns = width(b1), first_caption = x.words[b0].first, last_caption = x.words[b1 - 1].last;
        const long ld_s = columns + k.lanes;  // a pair writes whole registers
        long gram_size = 0;
        for (long j = first_caption; j < last_caption; ++j) gram_size += x.w[j].m * x.w[j].ld;
        for (long g0 = 0; g0 < n_groups;) {
            long g1 = g0 + 1;
            const long row = x.regions[g0].row;
            auto height = [&](long g) { return x.regions[g - 1].row + x.regions[g - 1].rows - row; };
            while (g1 < n_groups && height(g1 + 1) * ld_s <= kChunk && (g1 - g0 + 1) * gram_size <= kChunk) ++g1;
            const long rows = height(g1), groups = g1 - g0;
            d_s.reset(rows * ld_s);
            S* parts = partial.zeroed(groups * gram_size);
            std::vector<double> scalars(groups * n_scalars, 0.0);
            const bool done = parallel_for(groups, run.threads, run.interrupted, [&](long t, int thread) {
                const Group& g = x.regions[g0 + t];
                S* part = parts + t * gram_size;
                for (long b = b0; b < b1; ++b) {
                    const Group& h = x.words[b];
                    const StripGradient<S> d{d_scores + g.first * stride + h.first, stride,
                                             d_s.get() + (g.row - row) * ld_s + h.row - column, ld_s,
                                             &d_v[g.first], part, scalars.data() + t * n_scalars};
                    of_tile(g, h, d, most, strips, tiles[thread].get(), scratch[thread].get());
                    for (long j = h.first; j < h.last; ++j) part += x.w[j].m * x.w[j].ld;
                }
            });
            if (!done) return false;
            S* sum = d_w[first_caption];
            for (long t = 0; t < groups; ++t) {
                for (long i = 0; i < gram_size; ++i) sum[i] += parts[t * gram_size + i];
                for (long i = 0; i < n_scalars; ++i) totals[i] += scalars[t * n_scalars + i];
            }
            if (!to_regions.add(d_s.get(), ld_s, false, row, rows, column, columns, d_regions, b0 == 0, run) ||
                !to_words.add(d_s.get(), ld_s, true, column, columns, row, rows, d_words, g0 == 0, run))
                return false;
            g0 = g1;
        }
        b0 = b1;
    }
    return true;
}

}  // namespace

template <class S>
bool pair_score_backward(const Items& images, const Items& captions, long depth, const Scorer& scorer,
                         const S* d_scores, long stride, S* d_regions, S* d_words, double* d_scalars, const Run& run) {
    const auto& k = run.kernels->of<S>().pair;
    const PairSpec<S> spec = spec_of<S>(scorer);
    const long most_regions = std::min(k.tile_regions, std::max(1L, images.total() / 16));
    Prepared<S> x(k, spec, images, captions, depth, most_regions);
    GradientProducts<S> to_regions(k, images, captions, depth), to_words(k, captions, images, depth);
    if (!x.prepare(run) || !to_regions.pack(run) || !to_words.pack(run)) return false;
    Buffer<S> d_v_memory, d_w_memory;
    const auto d_v = gram_gradients(x.v, d_v_memory), d_w = gram_gradients(x.w, d_w_memory);
    std::vector<double> totals(spec.scalars(), 0.0);
    const Backward<S> backward{k,   spec, x,         to_regions, to_words, d_scores, stride,
                               d_v, d_w,  d_regions, d_words,    totals,   run};
    auto entries = few_entries(x, d_scores, stride);
    if (!(entries.empty() ? backward.many() : backward.few(std::move(entries)))) return false;
    std::copy(totals.begin(), totals.end(), d_scalars);
    return to_regions.add_grams(d_v, x.v, to_words.other_rows.get(), d_regions, run) &&
           to_words.add_grams(d_w, x.w, to_regions.other_rows.get(), d_words, run);
}

template bool pair_score_backward(const Items&, const Items&, long, const Scorer&, const float*, long, float*, float*,
                                  double*, const Run&);
template bool pair_score_backward(const Items&, const Items&, long, const Scorer&, const double*, long, double*,
                                  double*, double*, const Run&);

}  // namespace cmsei
