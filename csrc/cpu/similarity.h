// SGRAF's similarity of all images with all captions: tiles, threads and memory around the kernels.
#pragma once

#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace cmsei {

template <class S> struct SimilarityProblem {
    long images, regions, depth, width;
    const S* rows;         // (images, regions, depth)
    const S* words;        // (offsets[captions], depth)
    const int64_t* offsets; // (captions + 1)
    long captions;
    const S *image_vectors, *sentence_vectors; // (images, depth), (captions, depth)
    S temperature;
    bool rounded; // squared differences to bfloat16, of which the first two layers' weights are
    // (rows × depth, dense) and biases: similarity vectors of words and of sentences, then each step's layers before
    // and after its attention.
    std::vector<Layer<S>> layers;
    const S *gate, *evaluate; // (width); the gate is null with steps
    S gate_scale, gate_shift, evaluate_bias;
};

// scores[image * captions + caption]. False if interrupted. They do not depend on the number of threads.
template <class S>
bool similarity(const CpuKernels& kernels, const SimilarityProblem<S>& problem, S* scores, int threads,
                const Interrupted& interrupted);

}  // namespace cmsei
