// From a call in plain numbers to the Hopper kernel's typed arguments.
#pragma once

#include "hopper_pair.cuh"
#include "hopper_scores.h"
#include "pair_arguments.h"

namespace cmsei::hopper {

inline Arguments arguments(const cuda::HopperCall& call) {
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

}  // namespace cmsei::hopper
