// What a block of the Hopper pair score has. Two share a multiprocessor, so that the pairs of one are scored while the
// products of the other run:
//   stage          128 bytes of 64 words + of 144 regions             8,192 + 18,432 = 26,624 bytes
//   main loop      4 stages                                                             106,496 bytes
//   then instead   inner products 64 x 160 fp32 and 40 zeros                             41,120 bytes
//                  the teams' memory, 4 warps                                    at most 71,712 bytes
//   meanwhile      the next tile's first stages, which lie behind what the pairs take: two of them where a team has at
//                  most 4,560 bytes (SCAN, and CMSEI to 16 words), one up to 11,216 (CMSEI to 40 words)
//   always         barriers, places and scales of the columns, alignment                  2,880 bytes
//   registers      128 threads x 232 of the consumers, 72 or 144 of them accumulators, + 128 x 24 of the producers:
//                  32,768
//   work           64 x 144 x 16 multiply-adds a wgmma: 72 cycles at 2,048 a cycle, in which it reads 6,656 bytes of
//                  shared memory, 52 cycles at 128 a cycle; of 8 bits x 32 at 4,096 a cycle
//   second cache   a stage of 26,624 bytes every 288 cycles is 92 bytes a cycle for each multiprocessor at full speed,
//                  were each block to read all of it. In a cluster of 2 x 2 a block reads 32 words + 72 regions,
//                  13,312 bytes, and gets the rest from the others' loads: 46 bytes a cycle. 2 caption tiles x 4 image
//                  tiles: 16 + 72 rows, 39; 4 x 2: 32 + 36 rows, 30. What comes into a multiprocessor is 92 all the
//                  same: if it takes 64, products run at 0.69 of the full speed. To be measured first
//   pairs          of 36 regions and 13 words, 16 a tile and so four a warp, of one image: 970 instructions the first
//                  of SCAN's and 610 each further one, 2,610 and 2,210 of CMSEI's. A scheduler issues one a cycle at
//                  best: 2,800 and 9,240 cycles a tile beside the 4,608 in which 1,024 numbers are multiplied. So CMSEI
//                  takes in 46 bytes a cycle at most and clusters of 2 x 2 read 23 of them from the cache; SCAN, at the
//                  64 that go in, 32, of 2 x 4 27 and of 4 x 2 21. Hence 2 x 2: eight blocks gain little where pairs
//                  are the bound, keep step among more, and leave more multiprocessors without a whole cluster
//   barriers       a stage is full when its words and regions are expected and all shares of them there, and empty when
//                  the four warps of each block that this one loads for have read theirs; so is the memory free
#pragma once

#include "hopper_maps.h"
#include "tile_plan.h"

namespace cmsei::hopper {

constexpr int kStages = 4;
constexpr int kConsumers = tile::kScorers;  // threads: one warpgroup
constexpr int kThreads = 2 * kConsumers;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 232;  // of a thread

// The blocks of a cluster: caption tiles x image tiles (hopper_cluster.h). Where there are few tiles, fewer.
constexpr int kClusterCaptions = 2, kClusterImages = 2;

constexpr int kSharedBytes = 113 * 1024;  // of 228 KiB of a multiprocessor, where each block also takes 1 KiB
constexpr int kBarrierBytes = 128;
constexpr int kScaleBytes = tile::kColumns * 4;
// Bytes of the stages and then, in their place, of the inner products and the teams.
constexpr int kWorkBytes = kSharedBytes - kSwizzleBytes - tile::kColumnBytes - kScaleBytes - kBarrierBytes;
constexpr int kTeamBytes = kWorkBytes - tile::kProductBytes;
// Where the ring's stage lies. A tile begins with the ring, at the end of the memory that scoring pairs fills from the
// beginning.
CMSEI_FORMULA constexpr int stage_place(int stage) {
  return kWorkBytes / kSwizzleBytes * kSwizzleBytes - (stage + 1) * tile::kStageBytes;
}

static_assert(stage_place(kStages - 1) >= 0, "the stages do not fit");
static_assert(tile::kWordBytes % kSwizzleBytes == 0, "tiles begin where the swizzle does");
static_assert(tile::kStageBytes % kSwizzleBytes == 0, "tiles begin where the swizzle does");
static_assert((2 * kStages + 1) * 8 <= kBarrierBytes, "the barriers do not fit");
static_assert(2 * kConsumers * (kProducerRegisters + kConsumerRegisters) <= 65536, "the registers do not fit");
static_assert(kWorkBytes % 16 == 0, "what follows is aligned");

}  // namespace cmsei::hopper
