#include "pair_score.h"

#include "prepared.h"

namespace cmsei {

template <class S>
bool pair_score(const Items& images, const Items& captions, long depth, const Scorer& scorer, S* scores, long stride,
                const Run& run) {
    const auto& k = kernels_of<S>(*run.kernels);
    const PairSpec<S> spec = spec_of<S>(scorer);
    Prepared<S> x(k, spec, images, captions, depth, k.tile_regions, true);
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

template bool pair_score(const Items&, const Items&, long, const Scorer&, float*, long, const Run&);
template bool pair_score(const Items&, const Items&, long, const Scorer&, double*, long, const Run&);

}  // namespace cmsei
