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
          static_cast<int>((call.width + kDepth - 1) / kDepth),
          static_cast<int>(call.half),
          pair::address<float>(call.scores),
          call.scores_stride};
}

inline Rows rows(const cuda::TileRows& x, int64_t width) {
  return {pair::address<const unsigned char>(x.data), x.stride, x.rows, width * 2};
}

}  // namespace cmsei::tile
