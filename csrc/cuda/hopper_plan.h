// How the Hopper pair score is cut up: plain functions that the host's tests enumerate.
//
// A tile is a run of whole captions of at most 64 words times a run of whole images of at most 144 regions (four of 36
// fit exactly), so no pair lies in two tiles. Accounting of a block, of which two share a multiprocessor, so that the
// pairs of one are scored while the products of the other run:
//   stage          64 x 64 words + 144 x 64 regions, 16 bits          8,192 + 18,432 = 26,624 bytes
//   main loop      4 stages                                                             106,496 bytes
//   then instead   inner products 64 x 148 fp32                                          37,888 bytes
//                  the teams' memory, 4 warps                                    at most 75,520 bytes
//   always         barriers, places of the columns, alignment                             2,304 bytes
//   registers      128 threads x 232 of the consumers, 72 of them accumulators, + 128 x 24 of the producers: 32,768
//   work           64 x 144 x 16 multiply-adds a wgmma: 72 cycles at 2,048 a cycle, in which it reads 6,656 bytes of
//                  shared memory, 52 cycles at 128 a cycle
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../include/team_pair.h"
#include "hopper_maps.h"

namespace cmsei::hopper {

constexpr int kRows = 64;           // words of a tile
constexpr int kColumns = 144;       // regions of a tile
constexpr int kPlanes = 148;        // numbers a word has in shared memory: an image's regions, made odd
constexpr int kStages = 4;
constexpr int kConsumers = 128;     // threads: one warpgroup
constexpr int kThreads = 2 * kConsumers;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 232;  // of a thread
constexpr int kMostTeams = kConsumers / 32;
constexpr int kBand = 32;           // caption tiles over which the blocks walk before they come to the next images

constexpr int kWordBytes = kRows * kRowBytes, kRegionBytes = kColumns * kRowBytes;
constexpr int kStageBytes = kWordBytes + kRegionBytes;
constexpr int kProductBytes = kRows * kPlanes * 4;
constexpr int kSharedBytes = 113 * 1024;  // of 228 KiB of a multiprocessor, where each block also takes 1 KiB
constexpr int kColumnBytes = kColumns * 8;
constexpr int kBarrierBytes = 128;
// Of the stages, then of the products and the teams.
constexpr int kWorkBytes = kSharedBytes - kSwizzleBytes - kColumnBytes - kBarrierBytes;
constexpr int kTeamBytes = kWorkBytes - kProductBytes;

static_assert(kStages * kStageBytes <= kWorkBytes, "the stages do not fit");
static_assert(kWordBytes % kSwizzleBytes == 0 && kStageBytes % kSwizzleBytes == 0, "tiles begin as the swizzle does");
static_assert((2 * kStages + 1) * 8 <= kBarrierBytes, "the barriers do not fit");
static_assert(2 * kConsumers * (kProducerRegisters + kConsumerRegisters) <= 65536, "the registers do not fit");
static_assert(kWorkBytes % 16 == 0 && kProductBytes % 16 == 0, "what follows is aligned");

CMSEI_FORMULA constexpr int plane_stride(int64_t regions) { return static_cast<int>(regions | 1); }

// Bytes a team wants for a pair of these sizes whose inner products are in shared memory already.
inline int64_t team_bytes(const PairConfig& config, int64_t regions, int64_t words) {
  const int64_t numbers = TeamPair<float, Alone>::size(config, regions, words, plane_stride(regions), false);
  return (numbers * 4 + 15) / 16 * 16;
}
inline int teams_of(const PairConfig& config, int64_t regions, int64_t words) {
  const int64_t fit = kTeamBytes / team_bytes(config, regions, words);
  return static_cast<int>(fit < kMostTeams ? fit : kMostTeams);
}

// Items [first, last) and, of captions, how many warps' memory fits: a warp is a team.
struct Tile {
  int32_t first, last, teams;
};

struct Tiles {
  std::vector<Tile> images, captions;
};

// Tiles of all images and captions but those too large for any: they are in nobody's.
inline Tiles make_tiles(const PairConfig& config, const int64_t* image_offsets, int64_t images,
                        const int64_t* caption_offsets, int64_t captions) {
  Tiles tiles;
  int64_t longest = 0;
  for (int64_t i = 0, rows = 0, planes = 0; i < images; ++i) {
    const int64_t n = image_offsets[i + 1] - image_offsets[i];
    if (n > kColumns) continue;
    longest = n > longest ? n : longest;
    const bool joins = !tiles.images.empty() && tiles.images.back().last == i && rows + n <= kColumns &&
                       planes + plane_stride(n) <= kPlanes;
    if (!joins) {
      tiles.images.push_back({static_cast<int32_t>(i), static_cast<int32_t>(i), 0});
      rows = planes = 0;
    }
    tiles.images.back().last = static_cast<int32_t>(i + 1);
    rows += n;
    planes += plane_stride(n);
  }
  for (int64_t i = 0, rows = 0; i < captions; ++i) {
    const int64_t n = caption_offsets[i + 1] - caption_offsets[i];
    const int teams = n > kRows || longest == 0 ? 0 : teams_of(config, longest, n);
    if (teams == 0) continue;
    const bool joins = !tiles.captions.empty() && tiles.captions.back().last == i && rows + n <= kRows;
    if (!joins) {
      tiles.captions.push_back({static_cast<int32_t>(i), static_cast<int32_t>(i), kMostTeams});
      rows = 0;
    }
    Tile& tile = tiles.captions.back();
    tile.last = static_cast<int32_t>(i + 1);
    tile.teams = teams < tile.teams ? teams : tile.teams;
    rows += n;
  }
  return tiles;
}

// Which image tile meets which caption tile, in the order in which the blocks walk.
struct Meeting {
  int64_t image, caption;
};

CMSEI_FORMULA Meeting locate(int64_t image_tiles, int64_t caption_tiles, int64_t index) {
  const int64_t band = index / (kBand * image_tiles), within = index - band * kBand * image_tiles;
  const int64_t left = caption_tiles - band * kBand, height = left < kBand ? left : kBand;
  return {within / height, band * kBand + within % height};
}

// Where the inner products of a tile's region with word 0 lie, and how far apart those with the next words: an image's
// block is row after row, of odd stride. No region: stride 0.
struct Column {
  int32_t place, stride;
};

CMSEI_FORMULA Column locate_column(const int64_t* offsets, int first, int last, int column) {
  const int64_t start = offsets[first];
  int plane = 0;
  for (int item = first; item < last; ++item) {
    const int begin = static_cast<int>(offsets[item] - start), end = static_cast<int>(offsets[item + 1] - start);
    const int stride = plane_stride(end - begin);
    if (column < end) return {plane + column - begin, stride};
    plane += kRows * stride;
  }
  return {0, 0};
}

}  // namespace cmsei::hopper
