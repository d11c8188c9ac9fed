// Tiles as plain numbers, for Python.
#include "ampere_plan.h"
#include "hopper_plan.h"
#include "pair_plan.h"
#include "tile_scores.h"

namespace cmsei::cuda {
namespace {

TileList numbers(const std::vector<tile::Tile>& tiles) {
  TileList out;
  for (const tile::Tile& x : tiles) {
    const auto& [small, large] = x.shares;
    out.push_back({x.first, x.last, x.kind, small.teams, small.bytes, large.teams, large.bytes});
  }
  return out;
}

int64_t count(const std::vector<int64_t>& offsets) { return static_cast<int64_t>(offsets.size()) - 1; }

}  // namespace

std::pair<TileList, TileList> pair_tiles(const PairOptions& config, bool hopper, const std::vector<int64_t>& images,
                                         const std::vector<int64_t>& captions) {
  const int room = hopper ? hopper::kTeamBytes : ampere::kTeamBytes;
  const tile::Tiles tiles = tile::make_tiles(pair::parse(config.data()), room, images.data(), count(images),
                                             captions.data(), count(captions));
  return {numbers(tiles.images), numbers(tiles.captions)};
}

int ampere_bytes() { return ampere::kMultiprocessorBytes; }

}  // namespace cmsei::cuda
