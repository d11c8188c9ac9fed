// The Hopper pair score's entry points in plain C++. Addresses are of device memory unless said otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pair_score.h"

namespace cmsei::cuda {

// Packed rows (rows, width) of 16 bits a number; address and stride multiples of 16 bytes.
struct HopperRows {
  int64_t data, stride, rows;  // stride in bytes
};

struct HopperCall {
  int64_t half;                    // 1: float16, 0: bfloat16
  int64_t width;
  std::array<int64_t, 11> config;  // PairScorer.config()
  int64_t scalars;                 // float32, PairScorer.scalars()
  PairItems images, captions;      // all of them: only offsets, gram_offsets, lengths, means and grams are read
  HopperRows regions, words;
  int64_t image_tiles, image_tile_count;      // int32 (count, 3): hopper_plan.h
  int64_t caption_tiles, caption_tile_count;
  int64_t scores, scores_stride;   // float32 (images, captions): written where a tile has both
};

// (first, last, teams): items [first, last), and of captions how many warps' memory fits a block.
using HopperTiles = std::vector<std::array<int32_t, 3>>;

// Image tiles and caption tiles of items with these offsets; those too large for a tile are in none.
std::pair<HopperTiles, HopperTiles> hopper_tiles(const std::array<int64_t, 11>& config,
                                                 const std::vector<int64_t>& images,
                                                 const std::vector<int64_t>& captions);

// Enqueues the kernel on `stream` (a cudaStream_t) of `device`. Empty string, or what went wrong.
std::string hopper_scores(const HopperCall& call, int device, void* stream);

}  // namespace cmsei::cuda
