// From a call in plain numbers to the typed arguments of the kernels that multiply and score.
#pragma once

#include "pair_arguments.h"
#include "tile_pairs.cuh"
#include "tile_scores.h"

namespace cmsei::tile {

inline Arguments arguments(const cuda::TileCall& call) {
  return {pair::parse(call.config.data()),
          pair::address<const float>(call.scalars),
          pair::items<float>(call.images),
          pair::items<float>(call.captions),
          pair::address<const Tile>(call.image_tiles),
          pair::address<const Tile>(call.caption_tiles),
          call.image_tile_count,
          call.caption_tile_count,
          static_cast<int>(call.type),
          static_cast<int>((call.width * bytes_of(static_cast<int>(call.type)) + kRowBytes - 1) / kRowBytes),
          pair::address<const float>(call.regions.scales),
          pair::address<const float>(call.words.scales),
          call.words.rows,
          pair::address<float>(call.scores),
          call.scores_stride};
}

inline Rows rows(const cuda::TileRows& x, int64_t width) {
  return {pair::address<const unsigned char>(x.data), x.stride, x.rows, width * 2};
}

}  // namespace cmsei::tile
