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
  // For features of 8 bits: (rows) the scales of the rows; else null.
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

// A warp that keeps a direction in the fragments of mma m16n8k8 (fragments.h).
struct MatrixTeam : pair::WarpTeam {
  static constexpr bool kFragments = true;
  const float* nothing;  // kMostInFragments zeros
  KnownGram& known;
  int has;  // Forms
  CMSEI_DEVICE int forms() const { return device::opaque(has); }
  CMSEI_DEVICE void passes(Way way) const { device::count(way); }
  CMSEI_DEVICE const float* zeros() const { return nothing; }
  CMSEI_DEVICE int zeros_behind(const float* place) const { return device::distance(place, nothing); }
  // Opaque, so that what follows from it is not kept in registers during all of a pair.
  CMSEI_DEVICE int lane() const { return device::opaque(index); }
  CMSEI_DEVICE void multiply(float (&sums)[4], const float (&left)[4], const float (&right)[2]) const {
    device::multiply(sums, left, right);
  }
  // x of the lane whose number differs in these bits; x of any lane.
  CMSEI_DEVICE float exchanged(float x, int bits) const { return device::shuffle_xor(x, bits); }
  CMSEI_DEVICE float taken(float x, int lane) const { return device::shuffle(x, lane); }
  CMSEI_DEVICE bool all(bool yes) const { return device::all(yes); }
  template <class T>
  CMSEI_DEVICE T opaque(T x) const {
    return device::opaque(x);
  }
};

// Where each region's inner products go.
CMSEI_DEVICE void place_columns(const Arguments& a, const Tile& images, Column* columns, int thread) {
  for (int column = thread; column < kColumns; column += kScorers)
    columns[column] = locate_column(pads(a.config), a.images.offsets, images.first, images.last, column);
}

// Writes the zeros behind each row of a tile's inner products.
CMSEI_DEVICE void place_zeros(const Arguments& a, const Tile& images, float* products, int thread) {
  if (!pads(a.config)) return;
  float* plane = products;
#pragma unroll 1
  for (int image = images.first; image < images.last; ++image) {
    const int regions = static_cast<int>(a.images.offsets[image + 1] - a.images.offsets[image]);
    const int stride = plane_stride(true, regions);
#pragma unroll 1
    for (int row = thread / 8; row < kRows; row += kScorers / 8) {
      const int column = regions + thread % 8;
      if (column < padded(regions)) plane[row * stride + column] = 0;
    }
    plane += kRows * stride;
  }
  if (thread < kMostInFragments) products[kZeros + thread] = 0;
}

// The pairs of a tile whose inner products begin `work`; behind them are the teams' bytes.
CMSEI_DEVICE void score_pairs(const Arguments& a, unsigned char* work, const Tile& images, const Tile& captions,
                              int thread) {
  const Share share = share_of(images, captions);
  const int warp = thread / 32, across = images.last - images.first;
  const float* const products = reinterpret_cast<const float*>(work);
  if (warp >= share.teams) return;
  KnownGram known{};
  known.lower = reinterpret_cast<float*>(work + kProductBytes + warp * share.bytes);
  float* const own = known.lower + known_numbers(a.config);
  const MatrixTeam team{{thread % 32}, products + kZeros, known, forms_of(a.config, a.scalars)};
  const int first_row = static_cast<int>(a.captions.offsets[captions.first]);
  // The step to a team's next pair: how many captions on and how many images on, the latter 0 if the number of teams is
  // a multiple of that of the images. Both are in one register, since registers are scarce.
  const int on = quotient(share.teams, across), step = on << 8 | (share.teams - on * across);
  const int down = quotient(warp, across);
  int image = images.first + warp - down * across, caption = captions.first + down, before = -1;
  PairSide<float> regions{};
  Column corner{};
#pragma unroll 1
  while (caption < captions.last) {
    if (image != before) {
      before = image;
      known.extent = KnownGram::kNone;
      regions = pair::side_of(a.images, image);
      // Computed, not read from the columns in shared memory: a warp that is done already writes the next tile's there.
      corner = locate_column(pads(a.config), a.images.offsets, images.first, images.last,
                             static_cast<int>(a.images.offsets[image] - a.images.offsets[images.first]));
    }
    const int row = static_cast<int>(a.captions.offsets[caption]) - first_row;
    const PairSide<float> words = pair::side_of(a.captions, caption);
    const TeamPair<float, MatrixTeam> pair{team, a.config, a.scalars, regions, words,
                                           products + corner.place + row * corner.stride, corner.stride, own};
    const float score = pair.forward();
    if (team.lane() == 0) a.scores[image * a.scores_stride + caption] = score;
    team.sync();
    const int far = device::opaque(step);
    caption += far >> 8;
    image += far & 0xff;
    if (image >= images.last) {
      image -= across;
      ++caption;
    }
  }
}

}  // namespace cmsei::tile
