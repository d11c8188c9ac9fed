// What a block of the pair score by mma.sync has. Two share a multiprocessor of 164 KiB, so that the pairs of one are
// scored while the products of the other run:
//   main loop      3 stages of 26,624 bytes                                              79,872 bytes
//   then instead   inner products 64 x 160 fp32 and 40 zeros                             41,120 bytes
//                  the teams' memory, 4 warps                                    at most 40,672 bytes
//   always         places of the columns                                                  1,152 bytes
//   registers      128 threads x at most 255, 72 of them accumulators
//   work           a warp has 32 words x 72 regions: a step of 16 reads 3,328 bytes of shared memory for 18 mma of
//                  16 x 8 x 16; a block's four warps read 104 cycles at 128 bytes, and multiply 144 at 1,024 a cycle
#pragma once

#include "tile_plan.h"

namespace cmsei::ampere {

constexpr int kStages = 3;
constexpr int kThreads = tile::kScorers;
constexpr int kWarpRows = 32, kWarpColumns = 72;  // of a tile; the warps stand 2 x 2
constexpr int kTall = kWarpRows / 16, kWide = kWarpColumns / 8;

constexpr int kSharedBytes = 81 * 1024;  // of 164 KiB of a multiprocessor, where each block also takes 1 KiB
constexpr int kWorkBytes = kSharedBytes - tile::kColumnBytes;
constexpr int kTeamBytes = kWorkBytes - tile::kProductBytes;
constexpr int kMultiprocessorBytes = 2 * (kSharedBytes + 1024);

static_assert(kStages * tile::kStageBytes <= kWorkBytes, "the stages do not fit");
static_assert(kWorkBytes % 16 == 0, "what follows is aligned");
static_assert(2 * kWarpRows == tile::kRows && 2 * kWarpColumns == tile::kColumns, "four warps fill a tile");

// The byte of a tile at which 16-byte chunk `chunk` of a row lies.
CMSEI_FORMULA constexpr int swizzled(int row, int chunk) {
  return row * tile::kRowBytes + ((chunk ^ (row % 8)) << 4);
}

// Row and column in the tile of number i of a thread's accumulator (m, n) of mma m16n8k16.
CMSEI_FORMULA constexpr int fragment_row(int thread, int m, int i) {
  return thread / 64 * kWarpRows + m * 16 + thread % 32 / 4 + i / 2 * 8;
}
CMSEI_FORMULA constexpr int fragment_column(int thread, int n, int i) {
  return thread / 32 % 2 * kWarpColumns + n * 8 + thread % 4 * 2 + i % 2;
}

}  // namespace cmsei::ampere
