// Entry points in plain C++ of the kernels that multiply and score. Addresses are of device memory.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pair_score.h"

namespace cmsei::cuda {

// Packed rows (rows, width); address and stride multiples of 16 bytes.
struct TileRows {
  int64_t data, stride, rows;  // stride in bytes
  int64_t scales;              // float32 (rows) that numbers of 8 bits are multiplied by; of others 0
};

using PairOptions = decltype(PairCall::config);

struct TileCall {
  int64_t type;                    // tile_plan.h: of the rows; those of 8 bits are the Hopper kernel's alone
  int64_t width;
  PairOptions config;              // PairScorer.config()
  int64_t scalars;                 // float32, PairScorer.scalars()
  PairItems images, captions;      // all of them: only offsets, gram_offsets, lengths, means and grams are read
  TileRows regions, words;
  int64_t image_tiles, image_tile_count;      // int32 (count, 7): tile_plan.h
  int64_t caption_tiles, caption_tile_count;
  int64_t scores, scores_stride;   // float32 (images, captions): written where a tile has both
};

// (first, last, kind, teams, bytes, teams, bytes): items [first, last), the kind of images, and of captions how many
// warps' memory fits a block, and that of one, with images of either kind.
using TileList = std::vector<std::array<int32_t, 7>>;

// Image tiles and caption tiles of items with these offsets, for the Hopper kernel or the one by mma.sync; items too
// large for a tile are left out.
std::pair<TileList, TileList> pair_tiles(const PairOptions& config, bool hopper, const std::vector<int64_t>& images,
                                         const std::vector<int64_t>& captions);

// Enqueue the kernel on `stream` (a cudaStream_t) of `device`: by TMA and wgmma, on compute capability 9.0 alone, or by
// mma.sync. Empty string, or what went wrong.
std::string hopper_scores(const TileCall& call, int device, void* stream);
std::string ampere_scores(const TileCall& call, int device, void* stream);

// Bytes of shared memory of a multiprocessor that two blocks of the kernel by mma.sync take.
int ampere_bytes();

}  // namespace cmsei::cuda
