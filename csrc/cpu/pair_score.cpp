#include "pair_score.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "plan.h"

namespace cmsei {
namespace {

template <class S> const PairKernels<S>& kernels_of(const CpuKernels& k);
template <> const PairKernels<float>& kernels_of(const CpuKernels& k) { return k.pair_f32; }
template <> const PairKernels<double>& kernels_of(const CpuKernels& k) { return k.pair_f64; }

template <class S> PairSpec<S> spec_of(const Scorer& scorer) {
    const auto& c = scorer.config;
    if (c.size() != 11) throw std::invalid_argument("config: expected 11 integers");
    PairSpec<S> spec{};
    for (int d = 0; d < 2; ++d) {
        spec.active[d] = c[4 * d] != 0;
        spec.norm[d] = static_cast<int>(c[4 * d + 1]);
        spec.aggregate[d] = static_cast<int>(c[4 * d + 2]);
        spec.steps[d] = static_cast<int>(c[4 * d + 3]);
        if (spec.norm[d] < 0 || spec.norm[d] > 6 || spec.aggregate[d] < 0 || spec.aggregate[d] > 4 ||
            spec.steps[d] < 1 || spec.steps[d] > kMaxSteps)
            throw std::invalid_argument("config: a norm, an aggregate or a number of steps is out of range");
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
    }
    return spec;
}

// Uninitialised, 64-byte aligned memory: registers never straddle cache lines.
template <class T> class Buffer {
public:
    explicit Buffer(long n = 0) { reset(n); }
    void reset(long n) {
        memory_.reset(new char[static_cast<std::size_t>(n) * sizeof(T) + 64]);
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        data_ = reinterpret_cast<T*>((address + 63) / 64 * 64);
    }
    T* get() const { return data_; }
    T* zeroed(long n) {
        reset(n);
        std::memset(data_, 0, static_cast<std::size_t>(n) * sizeof(T));
        return data_;
    }

private:
    std::unique_ptr<char[]> memory_;
    T* data_ = nullptr;
};

std::size_t storage_size(Storage s) { return s == Storage::kFloat64 ? 8 : s == Storage::kFloat32 ? 4 : 2; }

Rows at(const Rows& rows, long i) {
    return {static_cast<const char*>(rows.data) + i * rows.stride * static_cast<long>(storage_size(rows.storage)),
            rows.storage, rows.stride};
}

long round_up(long x, long to) { return (x + to - 1) / to * to; }

// Both sides packed for the product, and the Gram matrices of every image and caption.
template <class S> struct Prepared {
    const PairKernels<S>& k;
    const Items &images, &captions;
    long depth;
    std::vector<Group> regions, words;
    bool pairs_bf16;
    Buffer<S> a, b, gram_memory;
    Buffer<uint32_t> a_bf16, b_bf16;
    std::vector<Gram<S>> v, w;

    Prepared(const PairKernels<S>& kernels, const Items& i, const Items& c, long d, long most_regions, bool low)
        : k(kernels), images(i), captions(c), depth(d), regions(cut(i, most_regions, 1)),
          words(cut(c, kTileWords, kernels.nr)),
          pairs_bf16(low && kernels.gemm_bf16 && i.rows.storage == Storage::kBFloat16 &&
                     c.rows.storage == Storage::kBFloat16) {}

    long pairs() const { return (depth + 1) / 2; }

    bool prepare(const Run& run) {
        const long columns = padded_rows(words, k.nr);
        if (pairs_bf16) {
            a_bf16.reset(images.total() * pairs());
            b_bf16.reset(columns * pairs());
        } else {
            a.reset(images.total() * depth);
            b.reset(columns * depth);
        }
        long size = 0, most = std::max(longest(images), longest(captions));
        for (const Items* items : {&images, &captions})
            for (long i = 0; i < items->count; ++i) size += round_up(k.gram_size(items->size(i)), 16);
        gram_memory.reset(size);
        S* next = gram_memory.get();
        for (const Items* items : {&images, &captions})
            for (long i = 0; i < items->count; ++i) {
                (items == &images ? v : w).push_back(k.gram_view(next, items->size(i)));
                next += round_up(k.gram_size(items->size(i)), 16);
            }
        std::vector<Buffer<S>> scratch(run.threads);
        for (auto& s : scratch) s.reset(k.gram_scratch(most, depth));
        const long groups = static_cast<long>(regions.size()), tasks = groups + static_cast<long>(words.size());
        return parallel_for(tasks, run.threads, run.interrupted, [&](long task, int thread) {
            const bool left = task < groups;
            const Items& items = left ? images : captions;
            const Group& g = left ? regions[task] : words[task - groups];
            const Rows rows = at(items.rows, g.row);
            if (pairs_bf16) {
                if (left)
                    k.pack_a_bf16(rows, g.rows, depth, a_bf16.get() + g.row * pairs());
                else
                    k.pack_b_bf16(rows, g.rows, depth, b_bf16.get() + g.padded * pairs());
            } else if (left) {
                k.pack_a(rows, g.rows, depth, a.get() + g.row * depth);
            } else {
                k.pack_b(rows, g.rows, depth, b.get() + g.padded * depth);
            }
            for (long i = g.first; i < g.last; ++i)
                k.gram(at(items.rows, items.offsets[i]), depth, left ? v[i] : w[i], scratch[thread].get());
        });
    }

    long tile_size() const {
        long rows = 0, cols = 0;
        for (const Group& g : regions) rows = std::max(rows, g.rows);
        for (const Group& g : words) cols = std::max(cols, round_up(g.rows, k.nr));
        return rows * cols;
    }

    // Inner products of a group of images with a group of captions, row stride returned.
    long product(const Group& g, const Group& h, S* tile) const {
        const long ld = round_up(h.rows, k.nr);
        if constexpr (sizeof(S) == 4) {
            if (pairs_bf16) {
                k.gemm_bf16(a_bf16.get() + g.row * pairs(), k.mr * pairs(), b_bf16.get() + h.padded * pairs(),
                            k.nr * pairs(), tile, ld, g.rows, h.rows, pairs());
                return ld;
            }
        }
        k.gemm({a.get() + g.row * depth, k.mr * depth, 0, b.get() + h.padded * depth, k.nr * depth, k.nr, tile, ld,
                g.rows, h.rows, depth});
        return ld;
    }

    Pair<S> pair(const Group& g, const Group& h, long i, long j, const S* tile, long ld) const {
        return {tile + (images.offsets[i] - g.row) * ld + captions.offsets[j] - h.row, ld, images.size(i),
                captions.size(j), v[i], w[j]};
    }
};

// The gradients' half of the work: dV = dS W and dW = dSᵀ V over one chunk of pairs, plus the Gram terms at the end.
template <class S> struct Accumulator {
    const PairKernels<S>& k;
    const Items& items;      // whose gradient
    const Items& others;
    long depth, ld_depth;
    Buffer<S> other_rows;    // the other side as rows of B

    Accumulator(const PairKernels<S>& kernels, const Items& i, const Items& o, long d)
        : k(kernels), items(i), others(o), depth(d), ld_depth(round_up(d, kernels.nr)) {}

    static constexpr long kRows = 96, kBlock = 2048;

    bool pack(const Run& run) {
        other_rows.reset(others.total() * ld_depth);
        const long panel = others.total() * k.nr;
        return parallel_for((others.total() + kBlock - 1) / kBlock, run.threads, run.interrupted, [&](long t, int) {
            const long first = t * kBlock, n = std::min(kBlock, others.total() - first);
            k.pack_b_rows(at(others.rows, first), n, depth, other_rows.get() + first * k.nr, panel);
        });
    }

    // out[row + i] += Σ_j d(i, j) other[column + j]; d is (rows, columns), or its transpose with row stride ld.
    bool add(const S* d, long ld, bool transposed, long row, long rows, long column, long columns, S* out, bool first,
             const Run& run) const {
        std::vector<Buffer<S>> scratch(run.threads);
        for (auto& s : scratch) s.reset(kRows * (columns + ld_depth));
        const long panel = others.total() * k.nr;
        return parallel_for((rows + kRows - 1) / kRows, run.threads, run.interrupted, [&](long task, int thread) {
            const long r0 = task * kRows, n = std::min(kRows, rows - r0);
            S *a = scratch[thread].get(), *c = a + kRows * columns;
            Gemm<S> g{a, k.mr * columns, 0, other_rows.get() + column * k.nr, panel, k.nr, c, ld_depth, n, depth, columns};
            if (transposed) {
                g.a = d + r0;
                g.a_panel = k.mr;
                g.lda = ld;
            } else {
                k.pack_a({d + r0 * ld, sizeof(S) == 4 ? Storage::kFloat32 : Storage::kFloat64, ld}, n, columns, a);
            }
            k.gemm(g);
            add_rows(c, n, out + (row + r0) * depth, first);
        });
    }

    // out_i += (G + Gᵀ) x_i with the gradient G (m, ld) of each item's Gram matrix; own: the items as rows of B.
    bool add_grams(const std::vector<S*>& d_gram, const std::vector<Gram<S>>& grams, const S* own, S* out,
                   const Run& run) const {
        const long most = longest(items), panel = items.total() * k.nr;
        std::vector<Buffer<S>> scratch(run.threads);
        for (auto& s : scratch) s.reset(most * (2 * most + ld_depth));
        return parallel_for(items.count, run.threads, run.interrupted, [&](long i, int thread) {
            const long m = items.size(i), ld = grams[i].ld;
            S *sum = scratch[thread].get(), *a = sum + m * m, *c = a + m * m;
            for (long r = 0; r < m; ++r)
                for (long j = 0; j < m; ++j) sum[r * m + j] = d_gram[i][r * ld + j] + d_gram[i][j * ld + r];
            k.pack_a({sum, sizeof(S) == 4 ? Storage::kFloat32 : Storage::kFloat64, m}, m, m, a);
            k.gemm({a, k.mr * m, 0, own + items.offsets[i] * k.nr, panel, k.nr, c, ld_depth, m, depth, m});
            add_rows(c, m, out + items.offsets[i] * depth, false);
        });
    }

private:
    void add_rows(const S* c, long rows, S* out, bool first) const {
        for (long i = 0; i < rows; ++i)
            for (long x = 0; x < depth; ++x) {
                S& y = out[i * depth + x];
                y = first ? c[i * ld_depth + x] : y + c[i * ld_depth + x];
            }
    }
};

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

}  // namespace

template <class S>
bool pair_score(const Items& images, const Items& captions, long depth, const Scorer& scorer, S* scores, long stride,
                const Run& run) {
    const auto& k = kernels_of<S>(*run.kernels);
    const PairSpec<S> spec = spec_of<S>(scorer);
    Prepared<S> x(k, images, captions, depth, kTileRegions, true);
    if (!x.prepare(run)) return false;
    std::vector<Buffer<S>> tiles(run.threads), scratch(run.threads);
    for (int t = 0; t < run.threads; ++t) {
        tiles[t].reset(x.tile_size());
        scratch[t].reset(k.pair_scratch(spec, longest(images), longest(captions), false));
    }
    const long columns = static_cast<long>(x.words.size()), tasks = static_cast<long>(x.regions.size()) * columns;
    return parallel_for(tasks, run.threads, run.interrupted, [&](long task, int thread) {
        const Group &g = x.regions[task / columns], &h = x.words[task % columns];
        S* tile = tiles[thread].get();
        const long ld = x.product(g, h, tile);
        for (long i = g.first; i < g.last; ++i)
            for (long j = h.first; j < h.last; ++j)
                scores[i * stride + j] = k.pair_forward(spec, x.pair(g, h, i, j, tile, ld), scratch[thread].get());
    });
}

template <class S>
bool pair_score_backward(const Items& images, const Items& captions, long depth, const Scorer& scorer,
                         const S* d_scores, long stride, S* d_regions, S* d_words, double* d_scalars, const Run& run) {
    const auto& k = kernels_of<S>(*run.kernels);
    const PairSpec<S> spec = spec_of<S>(scorer);
    const long most_regions = std::min(kTileRegions, std::max(1L, images.total() / 16));
    Prepared<S> x(k, images, captions, depth, most_regions, false);
    Accumulator<S> to_regions(k, images, captions, depth), to_words(k, captions, images, depth);
    if (!x.prepare(run) || !to_regions.pack(run) || !to_words.pack(run)) return false;

    Buffer<S> d_v_memory, d_w_memory, d_s, partial;
    const auto d_v = gram_gradients(x.v, d_v_memory), d_w = gram_gradients(x.w, d_w_memory);
    const long n_scalars = spec.scalars();
    std::vector<double> totals(n_scalars, 0.0);
    std::vector<Buffer<S>> tiles(run.threads), scratch(run.threads);
    for (int t = 0; t < run.threads; ++t) {
        tiles[t].reset(x.tile_size());
        scratch[t].reset(k.pair_scratch(spec, longest(images), longest(captions), true));
    }

    const long n_groups = static_cast<long>(x.regions.size()), n_blocks = static_cast<long>(x.words.size());
    for (long b0 = 0; b0 < n_blocks;) {
        // Captions of this chunk: as many as keep 64 rows of dS in a quarter of it.
        long b1 = b0 + 1;
        const long column = x.words[b0].row;
        auto width = [&](long b) { return x.words[b - 1].row + x.words[b - 1].rows - column; };
        while (b1 < n_blocks && width(b1 + 1) <= kChunk / 256) ++b1;
        const long columns = width(b1), first_caption = x.words[b0].first, last_caption = x.words[b1 - 1].last;
        long gram_size = 0;
        for (long j = first_caption; j < last_caption; ++j) gram_size += x.w[j].m * x.w[j].ld;
        for (long g0 = 0; g0 < n_groups;) {
            long g1 = g0 + 1;
            const long row = x.regions[g0].row;
            auto height = [&](long g) { return x.regions[g - 1].row + x.regions[g - 1].rows - row; };
            while (g1 < n_groups && height(g1 + 1) * columns <= kChunk && (g1 - g0 + 1) * gram_size <= kChunk) ++g1;
            const long rows = height(g1), groups = g1 - g0;
            d_s.reset(rows * columns);
            S* parts = partial.zeroed(groups * gram_size);
            std::vector<double> scalars(groups * n_scalars, 0.0);
            const bool done = parallel_for(groups, run.threads, run.interrupted, [&](long t, int thread) {
                const Group& g = x.regions[g0 + t];
                S* tile = tiles[thread].get();
                S* part = parts + t * gram_size;
                for (long b = b0; b < b1; ++b) {
                    const Group& h = x.words[b];
                    // The hardest-negative loss leaves most pairs, and most tiles, without a gradient.
                    bool any = false;
                    for (long i = g.first; i < g.last; ++i)
                        for (long j = h.first; j < h.last; ++j) any |= d_scores[i * stride + j] != 0;
                    const long ld = any ? x.product(g, h, tile) : 0;
                    for (long j = h.first; j < h.last; ++j) {
                        for (long i = g.first; i < g.last; ++i) {
                            const PairGradient<S> d{
                                d_scores[i * stride + j],
                                d_s.get() + (images.offsets[i] - row) * columns + captions.offsets[j] - column,
                                columns, d_v[i], part, scalars.data() + t * n_scalars};
                            if (d.d_score != 0) {
                                k.pair_backward(spec, x.pair(g, h, i, j, tile, ld), d, scratch[thread].get());
                                continue;
                            }
                            for (long r = 0; r < images.size(i); ++r)
                                std::fill_n(d.d_block + r * columns, captions.size(j), S(0));
                        }
                        part += x.w[j].m * x.w[j].ld;
                    }
                }
            });
            if (!done) return false;
            S* sum = d_w[first_caption];
            for (long t = 0; t < groups; ++t) {
                for (long i = 0; i < gram_size; ++i) sum[i] += parts[t * gram_size + i];
                for (long i = 0; i < n_scalars; ++i) totals[i] += scalars[t * n_scalars + i];
            }
            if (!to_regions.add(d_s.get(), columns, false, row, rows, column, columns, d_regions, b0 == 0, run) ||
                !to_words.add(d_s.get(), columns, true, column, columns, row, rows, d_words, g0 == 0, run))
                return false;
            g0 = g1;
        }
        b0 = b1;
    }
    std::copy(totals.begin(), totals.end(), d_scalars);
    return to_regions.add_grams(d_v, x.v, to_words.other_rows.get(), d_regions, run) &&
           to_words.add_grams(d_w, x.w, to_regions.other_rows.get(), d_words, run);
}

template bool pair_score(const Items&, const Items&, long, const Scorer&, float*, long, const Run&);
template bool pair_score(const Items&, const Items&, long, const Scorer&, double*, long, const Run&);
template bool pair_score_backward(const Items&, const Items&, long, const Scorer&, const float*, long, float*, float*,
                                  double*, const Run&);
template bool pair_score_backward(const Items&, const Items&, long, const Scorer&, const double*, long, double*,
                                  double*, double*, const Run&);

}  // namespace cmsei
