// SGRAF's similarity of one image with a chunk of captions. Included once per instruction set.
#pragma once

#include "../similarity_kernels.h"
#include "filtration.h"
#include "graph_reasoning.h"
#include "similarity_vectors.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace {

template <class S, class Head> struct Similarity {
    SimilarityVectors<S> vectors;
    S* y; // (width, in whole registers, × lead of a block's words or a chunk's captions)
    S* packing; // the head's memory, which is not in use while an image is made ready
    long shared;
    Head head;
    long used;

    Similarity(const SimilarityModel<S>& model, const SimilaritySizes& most, Space<S> space)
        : vectors(model, most, space),
          y(space.take(round_up(model.width, Simd<S>::W) *
                       lead<S>(most.words > most.captions ? most.words : most.captions))),
          packing(space.take(0)), shared(space.used), head(model, most, space), used(space.used) {}

    static long scratch(const SimilarityModel<S>& model, const SimilaritySizes& most) {
        const Similarity counted(model, most, Space<S>{nullptr});
        const long packed = counted.shared + gram_scratch<S>(most.regions, model.depth);
        return counted.used > packed ? counted.used : packed;
    }

    void chunk(const S* whole, const SimilarityChunk<S>& chunk, S* scores) {
        long ld = lead<S>(chunk.count);
        vectors.whole(whole, chunk.sentences, chunk.count, y, ld);
        head.sentences(y, ld, chunk.count);
        for (long b = 0; b < chunk.blocks; ++b) {
            const SimilarityBlock<S>& block = chunk.block[b];
            ld = lead<S>(block.total());
            vectors.words(block, y, ld);
            head.scores(block, y, ld, scores + block.first);
        }
    }
};

template <class S> long scratch(const SimilarityModel<S>& model, const SimilaritySizes& most) {
    return model.steps ? Similarity<S, GraphReasoning<S>>::scratch(model, most)
                       : Similarity<S, Filtration<S>>::scratch(model, most);
}

template <class S>
void image(const SimilarityModel<S>& model, const SimilaritySizes& most, const S* regions, S* memory) {
    Similarity<S, Filtration<S>> x(model, most, Space<S>{memory});
    x.vectors.image(regions, x.packing);
}

template <class S>
void chunk(const SimilarityModel<S>& model, const SimilaritySizes& most, const S* whole,
           const SimilarityChunk<S>& chunk, S* scores, S* memory) {
    if (model.steps)
        Similarity<S, GraphReasoning<S>>(model, most, Space<S>{memory}).chunk(whole, chunk, scores);
    else
        Similarity<S, Filtration<S>>(model, most, Space<S>{memory}).chunk(whole, chunk, scores);
}

template <class S> SimilarityKernels<S> similarity_table() {
    return {Simd<S>::W, static_cast<int>(kNR<S>), pack_layer<S>, pack_b<S>, scratch<S>, image<S>, chunk<S>};
}

}  // namespace
}  // namespace CMSEI_ISA
}  // namespace cmsei
