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

// A warp that has its rows in the fragments of mma m16n8k8: team_fragments.h.
struct MatrixTeam : pair::WarpTeam {
  static constexpr bool kFragments = true;
  CMSEI_DEVICE void multiply(float (&sums)[4], const float (&left)[4], const float (&right)[2]) const {
    device::multiply(sums, left, right);
  }
  CMSEI_DEVICE float neighbour(float x) const { return device::shuffle_xor(x, 1); }
  CMSEI_DEVICE int opaque(int x) const { return device::opaque(x); }
  // Over the four lanes that have a row.
  CMSEI_DEVICE float row_sum(float x) const {
    x += device::shuffle_xor(x, 1);
    return x + device::shuffle_xor(x, 2);
  }
  CMSEI_DEVICE float row_largest(float x) const {
    x = Plain<float>::max(device::shuffle_xor(x, 1), x);
    return Plain<float>::max(device::shuffle_xor(x, 2), x);
  }
};

// Where each region's inner products go.
CMSEI_DEVICE void place_columns(const Arguments& a, const Tile& images, Column* columns, int thread) {
  for (int column = thread; column < kColumns; column += kScorers)
    columns[column] = locate_column(a.images.offsets, images.first, images.last, column);
}

// The pairs of a tile whose inner products begin `work`; behind them are the teams' bytes.
CMSEI_DEVICE void score_pairs(const Arguments& a, unsigned char* work, const Tile& images, const Tile& captions,
                              int thread) {
  const MatrixTeam team{{thread % 32}};
  const Share share = share_of(images, captions);
  const int across = images.last - images.first, pairs = across * (captions.last - captions.first);
  const int64_t first_word = a.captions.offsets[captions.first], first_region = a.images.offsets[images.first];
  const float* const products = reinterpret_cast<const float*>(work);
  float* const own = reinterpret_cast<float*>(work + kProductBytes + thread / 32 * share.bytes);
  if (thread / 32 >= share.teams) return;
#pragma unroll 1
  for (int p = thread / 32; p < pairs; p += share.teams) {
    const int image = images.first + p % across, caption = captions.first + p / across;
    const PairSide<float> regions = pair::side_of(a.images, image), words = pair::side_of(a.captions, caption);
    // Not from the columns in shared memory: a warp that is done writes the next tile's there.
    const Column corner = locate_column(a.images.offsets, images.first, images.last,
                                        static_cast<int>(a.images.offsets[image] - first_region));
    const float* const block =
        products + corner.place + static_cast<int>(a.captions.offsets[caption] - first_word) * corner.stride;
    const TeamPair<float, MatrixTeam> pair{team, a.config, a.scalars, regions, words, block, corner.stride, own};
    const float score = pair.forward();
    if (team.lane() == 0) a.scores[image * a.scores_stride + caption] = score;
    team.sync();
  }
}

}  // namespace cmsei::tile
