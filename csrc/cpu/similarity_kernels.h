// SGRAF's similarity, words in the lanes of registers: what the portable driver hands to the code compiled once per
// instruction set.
#pragma once

#include "pair_kernels.h"

namespace cmsei {

// A layer W x + b: W (rows × depth) as `pack_layer` leaves it, b (rows).
template <class S> struct Layer {
    const S *weight, *bias;
};

// A step of graph reasoning: the layer of a node's query to the others, and the layer of what it receives.
template <class S> struct GraphStep {
    Layer<S> ask, answer;
};

template <class S> struct SimilarityModel {
    long depth, width; // of a word, of a similarity vector
    bool rounded;      // round the squared differences to bfloat16, as their weights already are
    S temperature;     // of the attention over clipped_l2norm, from -12 to 12
    Layer<S> local, whole;
    const GraphStep<S>* step;
    long steps;             // 0: attention filtration
    const S* gate;          // (width) of the filtration, sigmoid(gate · x gate_scale + gate_shift)
    S gate_scale, gate_shift;
    const S* evaluate; // (width); it and the gate continued with zeros to whole registers
    S evaluate_bias;
};

// Captions whose words lie side by side.
template <class S> struct SimilarityBlock {
    const S* words;      // columns of B, panels along the words
    const int64_t* offsets; // (count + 1) of the words, from the packed words' beginning
    long count, first;   // captions, the first of them in the chunk
    long total() const { return offsets[count] - offsets[0]; }
    long size(long j) const { return offsets[j + 1] - offsets[j]; }
};

// Captions that are scored with one image at a time.
template <class S> struct SimilarityChunk {
    const S* sentences; // (count) as columns of B
    long count;
    const SimilarityBlock<S>* block;
    long blocks;
};

// Regions of every image; the most captions of a chunk and of a block, words of a block and of a caption.
struct SimilaritySizes {
    long regions, captions, block_captions, words, longest;
};

template <class S> struct SimilarityKernels {
    int lanes, panel; // words of a register, of a panel
    // dst holds rows × depth; `rounded`: a layer of rounded squared differences.
    void (*pack_layer)(const S* weight, long rows, long depth, bool rounded, S* dst);
    void (*pack_b)(Rows src, long cols, long depth, S* dst);
    long (*scratch)(const SimilarityModel<S>&, const SimilaritySizes&);
    // Makes an image (regions × depth, dense) ready in the scratch.
    void (*image)(const SimilarityModel<S>&, const SimilaritySizes&, const S* regions, S* scratch);
    // The scores of that image, whose own vector is `whole` (depth), with a chunk's captions.
    void (*chunk)(const SimilarityModel<S>&, const SimilaritySizes&, const S* whole, const SimilarityChunk<S>&,
                  S* scores, S* scratch);
};

}  // namespace cmsei
