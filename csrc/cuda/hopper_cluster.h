// Clusters: blocks that score neighbouring tiles at the same time and load for one another. Plain functions, which a
// host's tests enumerate. A cluster scores a rectangle of `captions` caption tiles and `images` image tiles, a block
// for each pair of tiles: block `rank` has caption tile rank / images and image tile rank % images of it. The blocks of
// a caption tile, its row, multiply the same words: each reads a share of them, which TMA writes into the memory of all
// (multicast). The blocks of an image tile, its column, do the same with the regions.
#pragma once

#include "hopper_plan.h"

namespace cmsei::hopper {

constexpr int kMostBlocks = 8;  // of a cluster, which every device that has clusters grants

// What a block loads of each stage's words, or of its regions.
struct Part {
  int32_t first;     // row of the tile
  uint32_t targets;  // a bit each: the ranks of the blocks that get it and, from bit 16 on, the ring's stages it is of
};
CMSEI_FORMULA constexpr uint16_t ranks_of(const Part& x) { return static_cast<uint16_t>(x.targets); }
CMSEI_FORMULA constexpr bool has_stage(const Part& x, int stage) { return x.targets >> (16 + stage) & 1; }

// A cluster of a shape: powers of two, of at most kMostBlocks together.
struct Cluster {
  int32_t captions, images;
  int32_t image_bits;     // of a rank: images is 1 << image_bits
  int32_t region_shares;  // of a stage; where they are fewer than the blocks of a column, these take turns
  Part words[kMostBlocks], regions[kMostBlocks];  // of each rank
};

CMSEI_FORMULA constexpr int blocks_of(const Cluster& x) { return x.captions * x.images; }
CMSEI_FORMULA constexpr int caption_of(const Cluster& x, int rank) { return rank >> x.image_bits; }
CMSEI_FORMULA constexpr int image_of(const Cluster& x, int rank) { return rank & (x.images - 1); }
CMSEI_FORMULA constexpr int rank_of(const Cluster& x, int caption, int image) {
  return caption << x.image_bits | image;
}

// The most equal shares, of whole swizzles each, that `rows` can be cut into such that `blocks` is a multiple of their
// number.
constexpr int shares_of(int rows, int blocks) {
  int shares = blocks;
  while (blocks % shares != 0 || rows % (shares * kSwizzleRows) != 0) --shares;
  return shares;
}
static_assert(tile::kRows % (kMostBlocks * kSwizzleRows) == 0, "words come in a share for each block of a row");
static_assert(kMostBlocks / shares_of(tile::kColumns, kMostBlocks) <= kStages, "each block has its turn in the ring");
static_assert(kClusterCaptions * kClusterImages <= kMostBlocks, "the cluster has too many blocks");

constexpr Cluster cluster_of(int captions, int images) {
  Cluster x{captions, images, 0, shares_of(tile::kColumns, captions), {}, {}};
  while (1 << x.image_bits < images) ++x.image_bits;
  for (int rank = 0; rank < blocks_of(x); ++rank) {
    const int caption = caption_of(x, rank), image = image_of(x, rank);
    uint32_t row = 0, column = 0;
    for (int i = 0; i < images; ++i) row |= 1u << rank_of(x, caption, i);
    for (int i = 0; i < captions; ++i) column |= 1u << rank_of(x, i, image);
    for (int stage = 0; stage < kStages; ++stage) {
      row |= 1u << (16 + stage);
      if (stage % (captions / x.region_shares) == caption / x.region_shares) column |= 1u << (16 + stage);
    }
    x.words[rank] = {image * (tile::kRows / images), row};
    x.regions[rank] = {caption % x.region_shares * (tile::kColumns / x.region_shares), column};
  }
  return x;
}

// How many blocks (`most` at most) a cluster has side by side for this many tiles: so few that at most one block in
// eight lies beyond the last tile.
constexpr int fitting(int64_t tiles, int most) {
  int blocks = most;
  while (blocks > 1 && (tiles + blocks - 1) / blocks * blocks * 8 > tiles * 9) blocks /= 2;
  return blocks;
}

// The blocks whose memory a block's loads reach, and whose loads reach its own: those of its row and of its column.
CMSEI_FORMULA constexpr int peers_of(const Cluster& x) { return x.captions + x.images - 1; }
// The rank of peer i: the row's, itself among them, then the others of the column.
CMSEI_FORMULA constexpr int peer(const Cluster& x, int rank, int i) {
  if (i < x.images) return rank_of(x, caption_of(x, rank), i);
  const int other = i - x.images;
  return rank_of(x, other < caption_of(x, rank) ? other : other + 1, image_of(x, rank));
}

// The rectangles that the tiles come to; the last ones of a row or a column may reach beyond the tiles.
struct Rectangles {
  Cluster cluster;
  int32_t last_image, last_caption;  // tiles
  int32_t across, down;              // rectangles
  int32_t band;                      // rows of rectangles over which clusters walk before they come to the next images
};

constexpr int64_t kMostImageTiles = 1 << 26;  // so that a band's rectangles count in 32 bits

constexpr Rectangles rectangles_of(const Cluster& x, int64_t image_tiles, int64_t caption_tiles) {
  return {x,
          static_cast<int32_t>(image_tiles - 1),
          static_cast<int32_t>(caption_tiles - 1),
          static_cast<int32_t>((image_tiles + x.images - 1) / x.images),
          static_cast<int32_t>((caption_tiles + x.captions - 1) / x.captions),
          tile::kBand / x.captions};
}
constexpr int64_t count_of(const Rectangles& x) { return static_cast<int64_t>(x.across) * x.down; }

// An image tile and a caption tile.
struct Spot {
  int32_t image, caption;
};

// A cluster's way over the rectangles: every step-th in the order of locate(), without its divisions of 64 bits.
struct Walk {
  int32_t row;      // the first of a band
  uint32_t within;  // the rectangle in the band

  CMSEI_FORMULA void settle(const Rectangles& x) {
    while (row < x.down && within >= height(x) * x.across) {
      within -= height(x) * x.across;
      row += x.band;
    }
  }
  CMSEI_FORMULA uint32_t height(const Rectangles& x) const { return x.down - row < x.band ? x.down - row : x.band; }
  CMSEI_FORMULA bool goes_on(const Rectangles& x) const { return row < x.down; }
  CMSEI_FORMULA void advance(const Rectangles& x, uint32_t step) {
    within += step;
    settle(x);
  }
  // The tiles of the rectangle's first block.
  CMSEI_FORMULA Spot corner(const Rectangles& x) const {
    const uint32_t tall = height(x), image = within / tall;
    return {static_cast<int32_t>(image) * x.cluster.images,
            static_cast<int32_t>(row + (within - image * tall)) * x.cluster.captions};
  }
};
CMSEI_FORMULA Walk walk_from(const Rectangles& x, uint32_t first) {
  Walk walk{0, first};
  walk.settle(x);
  return walk;
}

// The tiles of any of its blocks.
CMSEI_FORMULA constexpr Spot beside(const Rectangles& x, const Spot& corner, int rank) {
  return {corner.image + image_of(x.cluster, rank), corner.caption + caption_of(x.cluster, rank)};
}
CMSEI_FORMULA constexpr bool exists(const Rectangles& x, const Spot& at) {
  return at.image <= x.last_image && at.caption <= x.last_caption;
}
// Replaces tiles past the last by the last ones: a block without a tile of its own still loads for the others.
CMSEI_FORMULA constexpr Spot inside(const Rectangles& x, const Spot& at) {
  return {at.image < x.last_image ? at.image : x.last_image,
          at.caption < x.last_caption ? at.caption : x.last_caption};
}

// Bytes that a rectangle's pairs take of the memory of any of its blocks, at most.
CMSEI_FORMULA int held_bytes(const Rectangles& x, const Spot& corner, const tile::Tile* images,
                             const tile::Tile* captions) {
  int kinds = 0, held = 0;
#pragma unroll 1
  for (int i = 0; i < x.cluster.images; ++i)
    kinds |= 1 << images[inside(x, {corner.image + i, corner.caption}).image].kind;
#pragma unroll 1
  for (int i = 0; i < x.cluster.captions; ++i) {
    const tile::Tile& tile = captions[inside(x, {corner.image, corner.caption + i}).caption];
    const int small = kinds & 1 ? tile::held_bytes(tile.shares[0]) : 0;
    const int large = kinds & 2 ? tile::held_bytes(tile.shares[1]) : 0;
    const int own = small > large ? small : large;
    held = own > held ? own : held;
  }
  return held;
}

}  // namespace cmsei::hopper
