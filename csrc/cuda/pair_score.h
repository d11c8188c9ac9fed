// The pair score's entry points in plain C++: no CUDA header is needed to call them. Addresses are of device memory.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace cmsei::cuda {

// Some images, or captions, of a chunk. Numbers are float32, or float64 where the call's type is.
struct PairItems {
  int64_t items;         // int64 (count): which they are among all
  int64_t count;
  int64_t longest;       // most rows of one
  int64_t row;           // first packed row of the chunk
  int64_t start;         // first number of the chunk's Gram matrices
  int64_t offsets;       // int64 (all + 1): packed rows
  int64_t gram_offsets;  // int64 (all + 1)
  int64_t lengths;       // (rows)
  int64_t means;         // (all): lengths of the mean rows
  int64_t grams;         // Gram matrices (n, n), one behind another
};

struct PairCall {
  int64_t type;                     // 0: float32, 1: float64
  std::array<int64_t, 15> config;   // PairScorer.config()
  int64_t scalars;                  // PairScorer.scalars()
  PairItems images, captions;
  int64_t products, products_stride;  // (words, regions) of the chunk
  int64_t scores, scores_stride;      // (images, captions) of all: written forward, backward the gradient, read
  int64_t splits;                     // teams that share an image's captions
  int64_t scratch;                    // pair_scratch(...) bytes, or 0
  // Backward only.
  int64_t d_products;                                  // written, as products
  int64_t d_image_grams, d_image_grams_stride;         // (splits, numbers of the chunk), added to
  int64_t d_caption_grams, d_caption_grams_stride;     // (images, numbers of the chunk), added to
  int64_t d_scalars;                                   // float64 (images · splits, kMaxScalars), written
};

// Bytes of device memory that the call needs as scratch; -1 if a pair is too large (kMostNumbers).
int64_t pair_scratch(const PairCall& call, bool backward, int device, std::string& problem);

// Enqueues the kernel on `stream` (a cudaStream_t) of `device`. Empty string, or what went wrong.
std::string pair_scores(const PairCall& call, int device, void* stream);
std::string pair_gradients(const PairCall& call, int device, void* stream);

}  // namespace cmsei::cuda
