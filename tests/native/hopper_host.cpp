// Runs the Hopper pair score's kernel on the host (fibers.h, hopper_machine.h), and tells what its plan and maps say.
#include "hopper_machine.h"

#include "../../csrc/cuda/ampere_plan.h"
#include "../../csrc/cuda/hopper_pair.cuh"
#include "../../csrc/cuda/tile_arguments.h"

namespace {

using namespace cmsei;
using namespace cmsei::hopper;

struct Options {
  int64_t blocks, reversed, late;  // late: 0 at once, 1 as late as may be, else drawn from this seed
  int64_t bits;                    // of sums of e4m3 products; 0: float32
};

device::Map map_of(const cuda::TileRows& rows, const cuda::TileCall& call, int box_rows) {
  const TensorMap map = tensor_map(static_cast<uint64_t>(rows.data), rows.stride, rows.rows, call.width,
                                   static_cast<int>(call.type), box_rows);
  if (!encodable(map)) throw std::invalid_argument("TMA does not take these rows");
  return {pair::address<const unsigned char>(rows.data), map};
}

}  // namespace

// Bytes of shared memory, or -2: threads wait for what does not come, -4: TMA does not take the rows.
extern "C" int64_t hopper_host(const cuda::TileCall* call, const Options* options) try {
  const device::Map words = map_of(call->words, *call, kRows);
  const device::Map regions = map_of(call->regions, *call, kColumns);
  const Arguments a = tile::arguments(*call);
  const int64_t blocks = std::min(a.image_tile_count * a.caption_tile_count, options->blocks);
  try {
    for (int64_t index = 0; index < blocks; ++index) {
      // Exact in size, so that a sanitizer sees whoever leaves it, and poisoned.
      std::unique_ptr<uint64_t[]> shared(new uint64_t[kSharedBytes / 8]);
      std::memset(static_cast<void*>(shared.get()), 0xff, kSharedBytes);
      device::machine = {};
      device::machine.late = options->late != 0;
      device::machine.any = options->late > 1;
      device::machine.bits = static_cast<int>(options->bits);
      device::machine.draw.seed(static_cast<unsigned>(options->late + index));
      device::machine.tile_loads = 2 * a.depth_blocks;
      device::machine.shared = reinterpret_cast<unsigned char*>(shared.get());
      device::run_block(
          kThreads, options->reversed != 0,
          [&](int thread) { run_thread(a, words, regions, device::machine.shared, index, blocks, thread); },
          device::load_outstanding);
      if (!device::machine.loads.empty()) return -3;
    }
  } catch (const std::runtime_error&) {
    return -2;
  }
  return kSharedBytes;
} catch (const std::invalid_argument&) {
  return -4;
}

// Loads so far that were started before the pairs of the tile before were scored.
extern "C" int64_t hopper_ahead() { return device::loads_ahead; }

// Tiles as (first, last, kind, teams, bytes, teams, bytes): images', then captions'; how many of each.
extern "C" void tile_host(const int64_t* config, int hopper, const int64_t* image_offsets, int64_t images,
                                  const int64_t* caption_offsets, int64_t captions, int32_t* out, int64_t* counts) {
  const int room = hopper ? hopper::kTeamBytes : ampere::kTeamBytes;
  const Tiles tiles = make_tiles(pair::parse(config), room, image_offsets, images, caption_offsets, captions);
  counts[0] = static_cast<int64_t>(tiles.images.size());
  counts[1] = static_cast<int64_t>(tiles.captions.size());
  for (const auto* some : {&tiles.images, &tiles.captions})
    for (const Tile& tile : *some) {
      *out++ = tile.first;
      *out++ = tile.last;
      *out++ = tile.kind;
      for (const Share& share : tile.shares) {
        *out++ = share.teams;
        *out++ = share.bytes;
      }
    }
}

// Adds one to counts (image_tiles, caption_tiles) for every meeting that a block of the launch walks over.
extern "C" void tile_cover(int64_t image_tiles, int64_t caption_tiles, int64_t blocks, int32_t* counts) {
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t index = block; index < image_tiles * caption_tiles; index += blocks) {
      const Meeting meeting = locate(image_tiles, caption_tiles, index);
      ++counts[meeting.image * caption_tiles + meeting.caption];
    }
}

// Numbers of the products' part that (kRows, kColumns) elements of a tile of these images are written to; -1: nowhere.
extern "C" void tile_places(const int64_t* offsets, int first, int last, int32_t* places) {
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < kColumns; ++column) {
      const Column to = locate_column(offsets, first, last, column);
      places[row * kColumns + column] = to.stride == 0 ? -1 : to.place + row * to.stride;
    }
}

extern "C" int32_t tile_product_numbers() { return kProductBytes / 4; }
// Bytes that a team wants for a pair, and those of all teams of a block.
extern "C" int64_t tile_team_bytes(const int64_t* config, int64_t regions, int64_t words) {
  return team_bytes(pair::parse(config), regions, words);
}
extern "C" int32_t tile_room(int hopper) { return hopper ? hopper::kTeamBytes : ampere::kTeamBytes; }
// Where a stage of the ring lies, what it has, and what all have.
extern "C" int32_t hopper_stage(int stage) { return stage_place(stage); }
extern "C" int32_t hopper_stages() { return kStages; }
extern "C" int32_t hopper_stage_bytes() { return kStageBytes; }
extern "C" int32_t hopper_work_bytes() { return kWorkBytes; }
extern "C" float hopper_e4m3(int bits) { return device::number_e4m3(static_cast<uint8_t>(bits)); }
extern "C" int32_t hopper_fragment(int thread, int i, int column) {
  return column ? fragment_column(thread, i) : fragment_row(thread, i);
}
extern "C" uint64_t hopper_descriptor(uint32_t address) { return descriptor(address); }
