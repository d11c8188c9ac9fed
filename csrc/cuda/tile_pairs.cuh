// The pairs of a tile, from its inner products in shared memory: what the kernels that also multiply have in common.
#pragma once

#include "pair_score.cuh"
#include "tile_plan.h"

namespace cmsei::tile {

struct Arguments {
  PairConfig config;
  const float* scalars;
  pair::Items<float> images, captions;  // all of them: rows and numbers count from the first
  const Tile *image_tiles, *caption_tiles;
  int64_t image_tile_count, caption_tile_count;
  int type;
  int depth_blocks;  // stages' worth of the width
  // Of e4m3: (rows) what its rows are multiplied by; else null.
  const float *region_scales, *word_scales;
  int64_t word_rows;
  float* scores;
  int64_t scores_stride;
};

// Packed rows: address and stride multiples of 16 bytes.
struct Rows {
  const unsigned char* data;
  int64_t stride, rows, width;  // stride and width in bytes
};

// Where each region's inner products go.
CMSEI_DEVICE void place_columns(const Arguments& a, const Tile& images, Column* columns, int thread) {
  for (int column = thread; column < kColumns; column += kScorers)
    columns[column] = locate_column(a.images.offsets, images.first, images.last, column);
}

// The pairs of a tile whose inner products begin `work`; behind them are the teams' bytes.
CMSEI_DEVICE void score_pairs(const Arguments& a, unsigned char* work, const Tile& images, const Tile& captions,
                              int thread) {
  const pair::WarpTeam team{thread % 32};
  const int across = images.last - images.first, pairs = across * (captions.last - captions.first);
  const int64_t first_word = a.captions.offsets[captions.first], first_region = a.images.offsets[images.first];
  const float* const products = reinterpret_cast<const float*>(work);
  float* const own = reinterpret_cast<float*>(work + kProductBytes + thread / 32 * captions.bytes);
  if (thread / 32 >= captions.teams) return;
#pragma unroll 1
  for (int p = thread / 32; p < pairs; p += captions.teams) {
    const int image = images.first + p % across, caption = captions.first + p / across;
    const PairSide<float> regions = pair::side_of(a.images, image), words = pair::side_of(a.captions, caption);
    // Not from the columns in shared memory: a warp that is done writes the next tile's there.
    const Column corner = locate_column(a.images.offsets, images.first, images.last,
                                        static_cast<int>(a.images.offsets[image] - first_region));
    const float* const block =
        products + corner.place + static_cast<int>(a.captions.offsets[caption] - first_word) * corner.stride;
    const TeamPair<float, pair::WarpTeam> pair{team, a.config, a.scalars, regions, words, block, corner.stride, own};
    const float score = pair.forward();
    if (team.lane() == 0) a.scores[image * a.scores_stride + caption] = score;
    team.sync();
  }
}

}  // namespace cmsei::tile
