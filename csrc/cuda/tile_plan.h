// Tiles of the pair score whose products and pairs are one kernel's: plain functions that the host's tests enumerate.
//
// A tile is a run of whole captions of at most 64 words times a run of whole images of at most 144 regions (four of 36
// fit exactly), so no pair lies in two tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../include/team_pair.h"

namespace cmsei::tile {

constexpr int kRows = 64;       // words of a tile
constexpr int kColumns = 144;   // regions of a tile
constexpr int kPlanes = 160;    // numbers a word has in shared memory: plane_stride() of each image
constexpr int kBand = 32;       // caption tiles over which the blocks walk before they come to the next images
constexpr int kScorers = 128;   // threads that score pairs: each warp is a team
constexpr int kMostTeams = kScorers / 32;

// Numbers of features; those of 8 bits are multiplied by a scale of their row.
enum Type : int { kBFloat16 = 0, kFloat16 = 1, kE4M3 = 2, kInt8 = 3 };
CMSEI_FORMULA constexpr int bytes_of(int type) { return type == kE4M3 || type == kInt8 ? 1 : 2; }

// Operands in shared memory: a stage is 128 bytes of each row, 64 numbers of 16 bits or 128 of 8, whose 16-byte chunk c
// lies at c ^ (row % 8).
constexpr int kRowBytes = 128;
constexpr int kStepBytes = 32;  // of one instruction
constexpr int kSteps = kRowBytes / kStepBytes;
constexpr int kWordBytes = kRows * kRowBytes, kRegionBytes = kColumns * kRowBytes;
constexpr int kStageBytes = kWordBytes + kRegionBytes;

// The bytes of the inner products, followed by zeros, which are read for rows past a caption's last word.
constexpr int kZeros = kRows * kPlanes;
constexpr int kProductBytes = (kZeros + kMostInFragments) * 4;
constexpr int kColumnBytes = kColumns * 8;
static_assert(kProductBytes % 16 == 0, "what follows is aligned");

// An image's block of inner products is row after row of words. For fragments there are zeros behind a row's last
// region up to the next multiple of eight, so that they need no condition, and rows are an odd number of eights apart:
// half a warp, which reads eight numbers of each of four rows, then uses every bank once. Without fragments, each lane
// has rows of its own: these are an odd number apart.
CMSEI_FORMULA bool pads(const PairConfig& config) {
  return (config.on(0) && fits_fragments(config.attend_of(0))) || (config.on(1) && fits_fragments(config.attend_of(1)));
}
CMSEI_FORMULA constexpr int padded(int64_t regions) { return static_cast<int>((regions + 7) / 8 * 8); }
CMSEI_FORMULA constexpr int plane_stride(bool pads, int64_t regions) {
  if (!pads) return static_cast<int>(regions | 1);
  return regions > kMostInFragments ? padded(regions) + 1 : padded(regions) | 8;
}

// Numbers of a team's KnownGram, before those of a pair.
CMSEI_FORMULA int known_numbers(const PairConfig& config) {
  bool refines = false;
  for (int d = 0; d < 2; ++d)
    refines = refines || (config.on(d) && fits_fragments(config.attend_of(d)) && config.steps_of(d) > 1);
  return refines ? KnownGram::lower_numbers() : 0;
}
// Bytes that a team needs for a pair of these sizes whose inner products are in shared memory already.
inline int64_t team_bytes(const PairConfig& config, int64_t regions, int64_t words) {
  const int ld = plane_stride(pads(config), regions);
  const int64_t numbers = known_numbers(config) +
                          TeamPair<float, Alone>::size(config, regions, words, ld, false, true);
  return (numbers * 4 + 15) / 16 * 16;
}
// How many teams share `room` bytes.
inline int teams_of(const PairConfig& config, int64_t regions, int64_t words, int room) {
  const int64_t fit = room / team_bytes(config, regions, words);
  return static_cast<int>(fit < kMostTeams ? fit : kMostTeams);
}

// few / by for a `few` of at most kMostTeams: a general division takes twenty instructions.
CMSEI_FORMULA constexpr int quotient(int few, int by) {
  int times = 0;
  for (int i = 1; i <= kMostTeams; ++i) times += few >= i * by ? 1 : 0;
  return times;
}

// How many teams, of one warp each, have room in a block's memory, and the bytes of one team.
struct Share {
  int32_t teams, bytes;
};

// Items [first, last). A tile's images are of one kind: 0, or 1 if they have more regions than fragments hold. A tile
// of captions has a share for each kind of images, so that a large image takes no memory from the pairs of others.
struct Tile {
  int32_t first, last, kind;
  Share shares[2];
};

CMSEI_FORMULA constexpr Share share_of(const Tile& images, const Tile& captions) {
  return images.kind ? captions.shares[1] : captions.shares[0];
}

// Bytes that a tile's inner products and teams take of a block's memory, from its beginning.
CMSEI_FORMULA constexpr int held_bytes(const Share& share) { return kProductBytes + share.teams * share.bytes; }

struct Tiles {
  std::vector<Tile> images, captions;
};

// Tiles of all images and captions except those that are too large for any tile. `room`: the teams' bytes.
inline Tiles make_tiles(const PairConfig& config, int room, const int64_t* image_offsets, int64_t images,
                        const int64_t* caption_offsets, int64_t captions) {
  Tiles tiles;
  int64_t longest[2] = {0, 0};  // of each kind
  for (int64_t i = 0, rows = 0, planes = 0; i < images; ++i) {
    const int64_t n = image_offsets[i + 1] - image_offsets[i];
    if (n > kColumns) continue;
    const int kind = n > kMostInFragments;
    longest[kind] = n > longest[kind] ? n : longest[kind];
    const int stride = plane_stride(pads(config), n);
    const bool joins = !tiles.images.empty() && tiles.images.back().last == i && tiles.images.back().kind == kind &&
                       rows + n <= kColumns && planes + stride <= kPlanes;
    if (!joins) {
      tiles.images.push_back({static_cast<int32_t>(i), static_cast<int32_t>(i), kind, {}});
      rows = planes = 0;
    }
    tiles.images.back().last = static_cast<int32_t>(i + 1);
    rows += n;
    planes += stride;
  }
  for (int64_t i = 0, rows = 0; i < captions; ++i) {
    const int64_t n = caption_offsets[i + 1] - caption_offsets[i];
    bool fits = n <= kRows && !tiles.images.empty();
    for (const int64_t regions : longest) fits = fits && (regions == 0 || teams_of(config, regions, n, room) > 0);
    if (!fits) continue;
    const bool joins = !tiles.captions.empty() && tiles.captions.back().last == i && rows + n <= kRows;
    if (!joins) {
      const auto begin = static_cast<int32_t>(i);
      tiles.captions.push_back({begin, begin, 0, {{kMostTeams, 0}, {kMostTeams, 0}}});
      rows = 0;
    }
    Tile& tile = tiles.captions.back();
    tile.last = static_cast<int32_t>(i + 1);
    for (int kind = 0; kind < 2; ++kind) {
      if (longest[kind] == 0) continue;
      Share& share = tile.shares[kind];
      const int teams = teams_of(config, longest[kind], n, room);
      const auto bytes = static_cast<int32_t>(team_bytes(config, longest[kind], n));
      share.teams = teams < share.teams ? teams : share.teams;
      share.bytes = bytes > share.bytes ? bytes : share.bytes;
    }
    rows += n;
  }
  return tiles;
}

// An image tile and a caption tile that are scored together. Blocks walk over `band` caption tiles before they come to
// the next images.
struct Meeting {
  int64_t image, caption;
};

CMSEI_FORMULA Meeting locate(int64_t image_tiles, int64_t caption_tiles, int64_t index, int band = kBand) {
  const int64_t first = index / (band * image_tiles) * band, within = index - first * image_tiles;
  const int64_t left = caption_tiles - first, height = left < band ? left : band;
  return {within / height, first + within % height};
}

// Where the inner products of a tile's region with word 0 lie, and how far apart those with the next words: an image's
// block is row after row. No region: stride 0.
struct Column {
  int32_t place, stride;
};

CMSEI_FORMULA Column locate_column(bool pads, const int64_t* offsets, int first, int last, int column) {
  const int64_t start = offsets[first];
  int plane = 0;
  for (int item = first; item < last; ++item) {
    const int begin = static_cast<int>(offsets[item] - start), end = static_cast<int>(offsets[item + 1] - start);
    const int stride = plane_stride(pads, end - begin);
    if (column < end) return {plane + column - begin, stride};
    plane += kRows * stride;
  }
  return {0, 0};
}

}  // namespace cmsei::tile
