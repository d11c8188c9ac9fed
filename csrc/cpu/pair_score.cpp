#include "pair_score.h"

#include <cstring>

#include "prepared.h"

namespace cmsei {

template <class S>
bool pair_score(const Items& images, const Items& captions, long depth, const Scorer& scorer, S* scores, long stride,
                const Run& run) {
    const auto& k = run.kernels->of<S>().pair;
    const PairSpec<S> spec = spec_of<S>(scorer);
    Prepared<S> x(k, spec, images, captions, depth, k.tile_regions, run.int8);
    if (!x.prepare(run)) return false;
    const bool strips = k.strip_suits(spec);
    const StripSize most = x.strip_size();
    std::vector<Buffer<S>> tiles(run.threads), scratch(run.threads);
    for (int t = 0; t < run.threads; ++t) {
        tiles[t].reset(x.tile_size());
        scratch[t].reset(strips ? k.strip_scratch(spec, most)
                                : k.pair_scratch(spec, most.most_regions, most.longest, false));
    }
    const long columns = static_cast<long>(x.words.size()), tasks = static_cast<long>(x.regions.size()) * columns;
    return parallel_for(tasks, run.threads, run.interrupted, [&](long task, int thread) {
        const Group &g = x.regions[task / columns], &h = x.words[task % columns];
        S* tile = tiles[thread].get();
        const long ld = x.product(g, h, tile);
        if (strips) {
            const StripSize size{g.last - g.first, h.last - h.first, g.rows, h.rows, most.most_regions, most.longest};
            const Strip<S> strip{tile, ld, &x.v[g.first], &x.w[h.first], size};
            k.strip_forward(spec, strip, scores + g.first * stride + h.first, stride, scratch[thread].get());
            return;
        }
        for (long i = g.first; i < g.last; ++i)
            for (long j = h.first; j < h.last; ++j)
                scores[i * stride + j] = k.pair_forward(spec, x.pair(g, h, i, j, tile, ld), scratch[thread].get());
    });
}

template <class S>
bool pair_score_listed(const Items& images, const Items& captions, long depth, const Scorer& scorer,
                       const int64_t* first, const int64_t* listed, S* scores, const Run& run) {
    const std::size_t element = storage_size(captions.rows.storage);
    const Run alone{run.kernels, 1, {}, run.int8};
    return parallel_for(images.count, run.threads, run.interrupted, [&](long i, int) {
        const long count = first[i + 1] - first[i];
        if (count == 0) return;
        std::vector<int64_t> offsets(count + 1, 0);
        for (long j = 0; j < count; ++j) offsets[j + 1] = offsets[j] + captions.size(listed[first[i] + j]);
        std::vector<char> rows(offsets[count] * depth * element);
        char* next = rows.data();
        for (long j = 0; j < count; ++j) {
            const long caption = listed[first[i] + j];
            for (long r = captions.offsets[caption]; r < captions.offsets[caption + 1]; ++r, next += depth * element)
                std::memcpy(next, at(captions.rows, r).data, depth * element);
        }
        const int64_t own[2] = {0, images.size(i)};
        pair_score<S>({at(images.rows, images.offsets[i]), own, 1},
                      {{rows.data(), captions.rows.storage, depth}, offsets.data(), count}, depth, scorer,
                      scores + first[i], count, alone);
    });
}

template bool pair_score_listed(const Items&, const Items&, long, const Scorer&, const int64_t*, const int64_t*, float*,
                                const Run&);
template bool pair_score_listed(const Items&, const Items&, long, const Scorer&, const int64_t*, const int64_t*,
                                double*, const Run&);
template bool pair_score(const Items&, const Items&, long, const Scorer&, float*, long, const Run&);
template bool pair_score(const Items&, const Items&, long, const Scorer&, double*, long, const Run&);

}  // namespace cmsei
