// Runs the Hopper pair score's kernel on the host (fibers.h, hopper_machine.h), and tells what its plan and maps say.
#include <cstdio>

#include "hopper_machine.h"

#include "../../csrc/cuda/ampere_plan.h"
#include "../../csrc/cuda/hopper_pair.cuh"
#include "../../csrc/cuda/tile_arguments.h"

namespace {

using namespace cmsei;
using namespace cmsei::hopper;

struct Options {
  int64_t clusters, reversed, late;  // late: 0 at once, 1 as late as may be, else drawn from this seed
  int64_t bits;                      // of sums of e4m3 products; 0: float32
  int64_t captions, images;          // blocks of a cluster; 0: what a launch takes
  int64_t sum_bits;                  // of sums of other products
};

device::Map map_of(const cuda::TileRows& rows, const cuda::TileCall& call, int box_rows) {
  const TensorMap map = tensor_map(static_cast<uint64_t>(rows.data), rows.stride, rows.rows, call.width,
                                   static_cast<int>(call.type), box_rows);
  if (!encodable(map)) throw std::invalid_argument("TMA does not take these rows");
  return {pair::address<const unsigned char>(rows.data), map};
}

// One cluster of the grid.
void run_cluster_of(const Arguments& a, const Rectangles& rectangles, const device::Map& words,
                    const device::Map& regions, const Options& options, int64_t index, int64_t clusters) {
  const int blocks = blocks_of(rectangles.cluster);
  auto& machine = device::machine;
  machine = {};
  machine.late = options.late != 0;
  machine.any = options.late > 1;
  machine.eager = 1 + static_cast<unsigned>(options.late) % 3 * 3;
  machine.bits = static_cast<int>(options.bits);
  device::sum_bits = static_cast<int>(options.sum_bits);
  machine.draw.seed(static_cast<unsigned>(options.late + index));
  machine.index = static_cast<uint32_t>(index);
  machine.count = static_cast<uint32_t>(clusters);
  machine.blocks.resize(blocks);
  std::vector<std::unique_ptr<uint64_t[]>> shared;
  for (int rank = 0; rank < blocks; ++rank) {
    // Exact in size, so that a sanitizer sees whoever leaves it, and poisoned.
    shared.emplace_back(new uint64_t[kSharedBytes / 8]);
    std::memset(static_cast<void*>(shared.back().get()), 0xff, kSharedBytes);
    device::Memory& memory = machine.blocks[rank];
    memory.bytes = reinterpret_cast<unsigned char*>(shared.back().get());
    memory.running = kThreads;
    memory.tile_loads[kConsumers] = a.depth_blocks;
    for (int k = 0; k < a.depth_blocks; ++k)
      memory.tile_loads[kConsumers + 32] += has_stage(rectangles.cluster.regions[rank], k % kStages);
  }
  device::Schedule schedule;
  schedule.reversed = options.reversed != 0;
  schedule.seed = machine.any ? static_cast<unsigned>(options.late + index) : 0;
  schedule.stuck = [] { return device::load_outstanding() || device::feed_one(); };
  schedule.passed = device::publish_barriers;
  schedule.round = device::load_some;
  device::run_cluster(blocks, kThreads, schedule, [&](int thread) {
    device::Memory& memory = device::own();
    memory.free = lay_out(memory.bytes).free;
    run_thread(a, rectangles, words, regions, memory.bytes, thread);
    memory.gone = --memory.running == 0;
  });
  if (!machine.loads.empty()) throw std::runtime_error("loads that nobody waited for");
}

// A thread of a small kernel that breaks the rule of this number; of 0, none.
void run_breaking(int rule, unsigned char* shared, int thread) {
  const Memory memory = lay_out(shared);
  const bool consumes = thread < kConsumers;
  const int warp = thread / 32, lane = thread % 32;
  if (thread == 0) {
    device::barrier_init(rule == 1 ? reinterpret_cast<uint64_t*>(shared + 4) : memory.free, rule == 2 ? 0 : 4);
    device::fence_barriers();
  }
  device::sync_cluster();
  if (!consumes) {
    if (rule != 3) device::give_registers<kProducerRegisters>();
    return;
  }
  device::take_registers<kConsumerRegisters>();
  if (rule == 4 && lane < 16) device::sync_warp();
  if (rule == 4 && lane >= 16) device::shuffle(1.0f, 0);
  device::shuffle(1.0f, rule == 5 ? 32 : lane ^ 1);
  device::Accumulators sums{};
  const uint64_t step = rule == 6 ? warp * kDescriptorStep : 0, odd = rule == 7 ? 1 << 14 : 0;
  if (rule != 8) device::wgmma_fence();
  const uint64_t words = descriptor(memory.work_address), regions = descriptor(memory.work_address + kWordBytes);
  device::wgmma<false>(sums, words + step + odd, regions);
  device::wgmma_commit();
  device::wgmma_finish(sums);
  if (rule == 9 && thread == 0) device::barrier_expect(memory.free, 1 << 20);
  if (lane == 0) device::barrier_arrive(device::address_in(memory.free, 0));
  device::barrier_wait(memory.free, 0);
}

}  // namespace

// Whether the model of the machine refuses a kernel that breaks this rule.
extern "C" int32_t hopper_refuses(int rule) try {
  std::unique_ptr<uint64_t[]> shared(new uint64_t[kSharedBytes / 8]());
  device::machine = {};
  device::machine.blocks.resize(1);
  device::machine.blocks[0].bytes = reinterpret_cast<unsigned char*>(shared.get());
  device::Schedule schedule;
  schedule.passed = device::publish_barriers;
  device::run_cluster(1, kThreads, schedule, [&](int thread) { run_breaking(rule, device::own().bytes, thread); });
  return 0;
} catch (const std::runtime_error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

// Bytes of shared memory, or -2: a rule of the machine is broken, -4: TMA does not take the rows.
extern "C" int64_t hopper_host(const cuda::TileCall* call, const Options* options) try {
  const Arguments a = tile::arguments(*call);
  const Cluster cluster = options->captions
                              ? cluster_of(static_cast<int>(options->captions), static_cast<int>(options->images))
                              : cluster_of(fitting(a.caption_tile_count, kClusterCaptions),
                                           fitting(a.image_tile_count, kClusterImages));
  const device::Map words = map_of(call->words, *call, kRows / cluster.images);
  const device::Map regions = map_of(call->regions, *call, kColumns / cluster.region_shares);
  const Rectangles rectangles = rectangles_of(cluster, a.image_tile_count, a.caption_tile_count);
  const int64_t clusters = std::min(count_of(rectangles), options->clusters);
  try {
    for (int64_t index = 0; index < clusters; ++index)
      run_cluster_of(a, rectangles, words, regions, *options, index, clusters);
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return -2;
  }
  return kSharedBytes;
} catch (const std::invalid_argument&) {
  return -4;
}

// Loads so far that were started before the pairs of the tile before were scored.
extern "C" int64_t hopper_ahead() { return device::loads_ahead; }
// Lanes so far that went this Way of csrc/include/fragment_forms.h.
extern "C" int64_t hopper_counted(int way) { return device::counted[way]; }
// Meetings so far of a block's consumers: one for a rectangle of its cluster, one for a tile whose pairs it scores.
extern "C" int64_t hopper_meetings() { return device::meetings; }

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

// The same of clusters of a shape, whose blocks have no tile beyond the last. -1 where a cluster does not walk as
// locate() says.
extern "C" int32_t cluster_cover(int captions, int images, int64_t image_tiles, int64_t caption_tiles, int64_t clusters,
                                 int32_t* counts) {
  const Rectangles all = rectangles_of(cluster_of(captions, images), image_tiles, caption_tiles);
  for (int64_t cluster = 0; cluster < clusters; ++cluster) {
    int64_t index = cluster;
    for (Walk walk = walk_from(all, static_cast<uint32_t>(cluster)); walk.goes_on(all);
         walk.advance(all, static_cast<uint32_t>(clusters)), index += clusters) {
      const Spot corner = walk.corner(all);
      const Meeting same = locate(all.across, all.down, index, all.band);
      if (same.image * images != corner.image || same.caption * captions != corner.caption) return -1;
      for (int rank = 0; rank < blocks_of(all.cluster); ++rank) {
        const Spot at = beside(all, corner, rank);
        if (exists(all, at)) ++counts[at.image * caption_tiles + at.caption];
      }
    }
    if (index < count_of(all)) return -1;
  }
  return 0;
}

// Adds one to counts (blocks, stages, rows), words' and then regions', for every row of a stage that a block's memory
// gets; `boxes`: rows of a load of words, and of regions. To peers (blocks, blocks) one for each block that it tells.
extern "C" void cluster_loads(int captions, int images, int32_t* boxes, int32_t* counts, int32_t* peers) {
  const Cluster x = cluster_of(captions, images);
  boxes[0] = kRows / x.images;
  boxes[1] = kColumns / x.region_shares;
  for (int rank = 0; rank < blocks_of(x); ++rank) {
    for (int to = 0; to < blocks_of(x); ++to)
      for (int stage = 0; stage < kStages; ++stage) {
        int32_t* const rows = counts + (to * kStages + stage) * (kRows + kColumns);
        const Part &words = x.words[rank], &regions = x.regions[rank];
        for (int row = 0; row < boxes[0]; ++row)
          rows[words.first + row] += has_stage(words, stage) && ranks_of(words) >> to & 1;
        for (int row = 0; row < boxes[1]; ++row)
          rows[kRows + regions.first + row] += has_stage(regions, stage) && ranks_of(regions) >> to & 1;
      }
    for (int i = 0; i < peers_of(x); ++i) ++peers[rank * blocks_of(x) + peer(x, rank, i)];
  }
}
extern "C" int32_t cluster_fitting(int64_t tiles, int most) { return fitting(tiles, most); }

// Numbers of the products' part that (kRows, kColumns) elements of a tile of these images are written to; -1: nowhere.
extern "C" void tile_places(int pads, const int64_t* offsets, int first, int last, int32_t* places) {
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < kColumns; ++column) {
      const Column to = locate_column(pads != 0, offsets, first, last, column);
      places[row * kColumns + column] = to.stride == 0 ? -1 : to.place + row * to.stride;
    }
}

extern "C" int32_t tile_quotient(int few, int by) { return quotient(few, by); }
extern "C" int32_t tile_product_numbers() { return kProductBytes / 4; }
// Whether means ask beside in a pair of r + 1 regions and w + 1 words, to out (regions, words).
extern "C" void tile_beside(const int64_t* config, const float* scalars, int regions, int words, uint8_t* out) {
  const bool any = (forms_of(pair::parse(config), scalars) & kMeansBeside) != 0;
  for (int r = 0; r < regions; ++r)
    for (int w = 0; w < words; ++w) out[r * words + w] = any && has_rows_for_means(r + 1, w + 1);
}
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
