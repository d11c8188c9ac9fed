// All pairs of a set of images and a set of captions: tiles, threads and memory around the kernels.
#pragma once

#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace cmsei {

// Packed rows of all images or all captions; offsets has count + 1 entries.
struct Items {
    Rows rows;
    const int64_t* offsets;
    long count;
    long total() const { return offsets[count]; }
    long size(long i) const { return offsets[i + 1] - offsets[i]; }
};

struct Scorer {
    std::vector<int64_t> config;  // as PairScorer.config()
    std::vector<double> scalars;  // as PairScorer.scalars()
};

struct Run {
    const CpuKernels* kernels;
    int threads;
    Interrupted interrupted;
    bool int8 = false;  // whether the features are rounded to whole numbers of 8 bits times a power of two of their row
};

// scores[i * stride + j]. False if interrupted.
template <class S>
bool pair_score(const Items& images, const Items& captions, long depth, const Scorer& scorer, S* scores, long stride,
                const Run& run);

// Some pairs: image i with the captions listed[first[i]] .. listed[first[i + 1] - 1]; scores in the list's order, each
// the same bits as in the whole. False if interrupted.
template <class S>
bool pair_score_listed(const Items& images, const Items& captions, long depth, const Scorer& scorer,
                       const int64_t* first, const int64_t* listed, S* scores, const Run& run);

// d_scores (images, captions) with row stride; d_regions, d_words (rows, depth) dense, d_scalars: all written.
template <class S>
bool pair_score_backward(const Items& images, const Items& captions, long depth, const Scorer& scorer,
                         const S* d_scores, long stride, S* d_regions, S* d_words, double* d_scalars, const Run& run);

}  // namespace cmsei
