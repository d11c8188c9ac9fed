// The pair score by mma.sync, products and pairs in one kernel: its text, in terms of the primitives of device.cuh and
// ampere_device.cuh, which the includer has defined, so that it also runs on a host (tests/).
//
// All threads copy stages ahead of the products, write the products into shared memory in the stages' place, an image's
// block after another's, and score the pairs, a warp a pair.
#pragma once

#include "ampere_plan.h"
#include "tile_pairs.cuh"

namespace cmsei::ampere {

using namespace tile;

struct Sums {
  float x[kTall][kWide][4];
};

// Stage k of rows [first, first + kCount): 64 numbers of each, zeros outside the matrix.
template <int kCount>
CMSEI_DEVICE void load_rows(const Rows& from, int64_t first, int k, unsigned char* to, int thread) {
  constexpr int kChunks = kRowBytes / 16;
#pragma unroll
  for (int i = thread; i < kCount * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int64_t at = static_cast<int64_t>(k) * kRowBytes + chunk * 16;
    const bool inside = first + row < from.rows && at < from.width;
    device::copy_async(to + swizzled(row, chunk), from.data + (inside ? (first + row) * from.stride + at : 0), inside);
  }
}

CMSEI_DEVICE void load_stage(const Rows& words, const Rows& regions, int64_t row, int64_t column, int k,
                             unsigned char* work, int thread) {
  unsigned char* const to = work + k % kStages * kStageBytes;
  load_rows<kRows>(words, row, k, to, thread);
  load_rows<kColumns>(regions, column, k, to + kWordBytes, thread);
}

// One stage's products of a warp's part of the tile.
template <bool kHalf>
CMSEI_DEVICE void multiply_stage(const unsigned char* stage, int thread, Sums& sums) {
  const int lane = thread % 32, warp_row = thread / 64 * kWarpRows, warp_column = thread / 32 % 2 * kWarpColumns;
  const unsigned char* const regions = stage + kWordBytes;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t words[kTall][4];
#pragma unroll
    for (int m = 0; m < kTall; ++m)
      device::load_matrices(words[m], stage + swizzled(warp_row + m * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n + 1 < kWide; n += 2) {
      uint32_t pair[4];
      const int row = warp_column + n * 8 + lane / 16 * 8 + lane % 8;
      device::load_matrices(pair, regions + swizzled(row, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < kTall; ++m) {
        device::multiply<kHalf>(sums.x[m][n], words[m], pair);
        device::multiply<kHalf>(sums.x[m][n + 1], words[m], pair + 2);
      }
    }
    static_assert(kWide % 2 == 1, "one tile of 8 regions is left");
    uint32_t last[2];
    device::load_matrices(last, regions + swizzled(warp_column + (kWide - 1) * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
    for (int m = 0; m < kTall; ++m) device::multiply<kHalf>(sums.x[m][kWide - 1], words[m], last);
  }
}

template <bool kHalf>
CMSEI_DEVICE void multiply_tile(const Rows& words, const Rows& regions, int64_t row, int64_t column, int depth_blocks,
                                unsigned char* work, int thread, Sums& sums) {
#pragma unroll
  for (int k = 0; k + 1 < kStages; ++k) {
    if (k < depth_blocks) load_stage(words, regions, row, column, k, work, thread);
    device::commit_copies();  // an empty group where there is nothing, so that groups count stages
  }
#pragma unroll 1
  for (int k = 0; k < depth_blocks; ++k) {
    device::wait_copies<kStages - 2>();
    device::sync_block();  // all threads see stage k, and none reads the one before it any more
    if (k + kStages - 1 < depth_blocks) load_stage(words, regions, row, column, k + kStages - 1, work, thread);
    device::commit_copies();
    multiply_stage<kHalf>(work + k % kStages * kStageBytes, thread, sums);
  }
  device::wait_copies<0>();
}

// What a thread of a block of kThreads does.
CMSEI_DEVICE void run_thread(const Arguments& a, const Rows& words, const Rows& regions, unsigned char* work,
                             int64_t block, int64_t blocks, int number) {
  Column* const columns = reinterpret_cast<Column*>(work + kWorkBytes);
  const int64_t meetings = a.image_tile_count * a.caption_tile_count;
#pragma unroll 1
  for (int64_t index = block; index < meetings; index += blocks) {
    const int thread = device::opaque(number);  // places of its copies are not kept while pairs are scored
    const Meeting meeting = locate(a.image_tile_count, a.caption_tile_count, index);
    const Tile images = a.image_tiles[meeting.image], captions = a.caption_tiles[meeting.caption];
    place_columns(a, images, columns, thread);
    Sums sums;
#pragma unroll
    for (int m = 0; m < kTall; ++m)
#pragma unroll
      for (int n = 0; n < kWide; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums.x[m][n][i] = 0;
    const int64_t row = a.captions.offsets[captions.first], column = a.images.offsets[images.first];
    if (a.type == kFloat16)
      multiply_tile<true>(words, regions, row, column, a.depth_blocks, work, thread, sums);
    else
      multiply_tile<false>(words, regions, row, column, a.depth_blocks, work, thread, sums);
    device::sync_block();  // the stages have been read
    float* const products = reinterpret_cast<float*>(work);
#pragma unroll
    for (int m = 0; m < kTall; ++m)
#pragma unroll
      for (int n = 0; n < kWide; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Column to = columns[fragment_column(thread, n, i)];
          if (to.stride != 0) products[to.place + fragment_row(thread, m, i) * to.stride] = sums.x[m][n][i];
        }
    place_zeros(a, images, products, thread);
    device::sync_block();
    score_pairs(a, work, images, captions, thread);
    device::sync_block();  // what the next tile's stages take the place of
  }
}

}  // namespace cmsei::ampere
