// The Hopper pair score, products and pairs in one kernel: its text, in terms of the primitives of device.cuh and
// hopper_device.cuh, which the includer has defined, so that it also runs on a host (tests/).
//
// Two threads of one warpgroup load tiles by TMA into a ring of stages, the words and the regions: a share of them,
// into the memory of all blocks of the cluster that multiply it. The other warpgroup multiplies them by wgmma and
// writes the products into shared memory in the stages' place, an image's block after another's; its warps score pairs.
#pragma once

#include "hopper_cluster.h"
#include "tile_pairs.cuh"

namespace cmsei::hopper {

using namespace tile;

struct Memory {
  unsigned char* work;        // kWorkBytes at a 1024-byte boundary
  uint32_t work_address;      // of it as instructions take it
  Column* columns;            // (kColumns)
  float* scales;              // (kColumns) of the regions
  uint64_t *full, *empty;     // by stage: loaded into this block; read in all blocks that this one loads for
  uint64_t* free;             // the tile's pairs are scored in all blocks that this one loads for
};

CMSEI_DEVICE Memory lay_out(unsigned char* shared) {
  const uint32_t address = device::shared_address(shared);
  const uint32_t aligned = (address + kSwizzleBytes - 1) / kSwizzleBytes * kSwizzleBytes;
  unsigned char* const work = shared + (aligned - address);
  uint64_t* const barriers = reinterpret_cast<uint64_t*>(work + kWorkBytes);
  unsigned char* const columns = work + kWorkBytes + kBarrierBytes;
  return {work,
          aligned,
          reinterpret_cast<Column*>(columns),
          reinterpret_cast<float*>(columns + kColumnBytes),
          barriers,
          barriers + kStages,
          barriers + 2 * kStages};
}

constexpr int kFree = -1;

// Loads this block's part of the words, or of the regions, of every stage of every tile, as soon as its place is free
// in all blocks that get it. In the place of a tile's first stages, the pairs of the tile before may still be scored.
// `phases` has a bit for each stage, the phase in which it is filled next, and one for `free`. The barrier expects a
// whole stage: what other blocks load of it may arrive earlier than this part.
template <bool kWords, class Map>
CMSEI_DEVICE void produce(const Arguments& a, const Rectangles& rectangles, const Map& map, const Memory& memory) {
  const int rank = device::cluster_rank();
  const Part part = kWords ? rectangles.cluster.words[rank] : rectangles.cluster.regions[rank];
  unsigned char* const to = memory.work + (kWords ? 0 : kWordBytes) + part.first * kRowBytes;
  uint32_t phases = 0;
  int held = 0;  // bytes in use by the pairs of the tile before; kFree: they are scored
#pragma unroll 1
  for (Walk walk = walk_from(rectangles, device::cluster_index()); walk.goes_on(rectangles);
       walk.advance(rectangles, device::cluster_count())) {
    const Spot corner = walk.corner(rectangles), at = inside(rectangles, beside(rectangles, corner, rank));
    const int64_t first = kWords ? a.captions.offsets[a.caption_tiles[at.caption].first]
                                 : a.images.offsets[a.image_tiles[at.image].first];
    const int row = static_cast<int>(first) + part.first;
#pragma unroll 1
    for (int k = 0; k < a.depth_blocks; ++k) {
      const int stage = k % kStages;
      // Waits before the last stage at the latest: the next phase of `free` needs that stage, and so cannot complete
      // before this thread has seen this one.
      if (held != kFree && (stage_place(stage) < held || k + 1 == a.depth_blocks)) {
        device::barrier_wait(memory.free, (phases >> kStages & 1) ^ 1);
        phases ^= 1u << kStages;
        held = kFree;
      }
      device::barrier_wait(memory.empty + stage, (phases >> stage & 1) ^ 1);
      phases ^= 1u << stage;
      device::barrier_expect(memory.full + stage, kWords ? kWordBytes : kRegionBytes);
      if (has_stage(part, stage))
        device::load_tile(map, to + stage_place(stage), memory.full + stage, k * (kRowBytes / bytes_of(a.type)), row,
                          ranks_of(part));
    }
    held = held_bytes(rectangles, corner, a.image_tiles, a.caption_tiles);
  }
}

// A full stage's descriptors; a bit of `phases` is the phase in which a stage is full next.
struct Operands {
  uint64_t words, regions;
};
CMSEI_DEVICE Operands await_stage(const Memory& memory, int stage, uint32_t& phases) {
  device::barrier_wait(memory.full + stage, phases >> stage & 1);
  phases ^= 1u << stage;
  const uint32_t address = memory.work_address + stage_place(stage);
  return {descriptor(address), descriptor(address + kWordBytes)};
}
// Where a consumer reports to one of the blocks that load for its own block, each lane to another one: the barriers
// `empty` of that block, and `free` after them. 0: this lane reports nothing.
CMSEI_DEVICE uint32_t place_of_peer(const Cluster& cluster, const Memory& memory, int rank, int thread) {
  const int lane = thread % 32;
  return lane < peers_of(cluster) ? device::address_in(memory.empty, peer(cluster, rank, lane)) : 0;
}
// Reports that a warp is done with stage i or, for i = kStages, with the tile.
CMSEI_DEVICE void release(uint32_t peer, int i) {
  if (peer != 0) device::barrier_arrive(peer + i * static_cast<int>(sizeof(uint64_t)));
}

// One instruction of each type whose sums stay where they are from stage to stage.
template <Type kType>
CMSEI_DEVICE void multiply_step(device::Accumulators& sums, uint64_t words, uint64_t regions) {
  device::wgmma<kType == kFloat16>(sums, words, regions);
}
template <Type>
CMSEI_DEVICE void multiply_step(device::WholeAccumulators& sums, uint64_t words, uint64_t regions) {
  device::wgmma_int8(sums, words, regions);
}

// A tile's inner products into the accumulators, which begin as zeros.
template <Type kType, class Sums>
CMSEI_DEVICE void multiply_tile(const Arguments& a, const Memory& memory, uint32_t& phases, uint32_t peer, Sums& sums) {
#pragma unroll 1
  for (int k = 0; k < a.depth_blocks; ++k) {
    const Operands stage = await_stage(memory, k % kStages, phases);
    device::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      multiply_step<kType>(sums, stage.words + step * kDescriptorStep, stage.regions + step * kDescriptorStep);
    device::wgmma_commit();
    // The product before this one is done: its stage is no longer needed.
    device::wgmma_wait<1>();
    if (k > 0) release(peer, (k - 1) % kStages);
  }
  device::wgmma_finish(sums);
  release(peer, (a.depth_blocks - 1) % kStages);
}

// The same for e4m3. Its instructions keep only about 14 bits of a sum, so that the sums of each stage, 128 deep, are
// added up in float32.
CMSEI_DEVICE void multiply_tile_e4m3(const Arguments& a, const Memory& memory, uint32_t& phases, uint32_t peer,
                                     device::Accumulators& sums) {
#pragma unroll 1
  for (int k = 0; k < a.depth_blocks; ++k) {
    const Operands stage = await_stage(memory, k % kStages, phases);
    device::Accumulators part;
    device::wgmma_fence();
    device::wgmma_e4m3<true>(part, stage.words, stage.regions);
#pragma unroll
    for (int step = 1; step < kSteps; ++step)
      device::wgmma_e4m3<false>(part, stage.words + step * kDescriptorStep, stage.regions + step * kDescriptorStep);
    device::wgmma_commit();
    device::wgmma_finish(part);
    release(peer, k % kStages);
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) sums.x[i] += part.x[i];
  }
}

// The same for whole numbers: their sums are exact in 32 bits up to a depth of 133,144, and are rounded once at the
// end.
CMSEI_DEVICE void multiply_tile_int8(const Arguments& a, const Memory& memory, uint32_t& phases, uint32_t peer,
                                     device::Accumulators& sums) {
  device::WholeAccumulators whole;
#pragma unroll
  for (int i = 0; i < device::WholeAccumulators::kCount; ++i) whole.x[i] = 0;
  multiply_tile<kInt8>(a, memory, phases, peer, whole);
#pragma unroll
  for (int i = 0; i < device::WholeAccumulators::kCount; ++i) sums.x[i] = static_cast<float>(whole.x[i]);
}

// Scales of a tile's regions; 1 where numbers have none.
CMSEI_DEVICE void place_scales(const Arguments& a, const Tile& images, float* scales, int thread) {
  const int64_t first = a.images.offsets[images.first], last = a.images.offsets[images.last];
  for (int column = thread; column < kColumns; column += kConsumers)
    scales[column] = a.region_scales && first + column < last ? a.region_scales[first + column] : 1;
}
// The scale of a tile's word; the tile may end before it.
CMSEI_DEVICE float word_scale(const Arguments& a, int64_t word) {
  return a.word_scales && word < a.word_rows ? a.word_scales[word] : 1;
}

// The products of a tile in shared memory, and from them its pairs.
CMSEI_DEVICE void score_tile(const Arguments& a, const Memory& memory, const Tile& images, const Tile& captions,
                             const device::Accumulators& sums, int thread) {
  float* const products = reinterpret_cast<float*>(memory.work);
  const int64_t first_word = a.captions.offsets[captions.first];
  const float scales[2] = {word_scale(a, first_word + fragment_row(thread, 0)),
                           word_scale(a, first_word + fragment_row(thread, 2))};
#pragma unroll
  for (int i = 0; i < device::Accumulators::kCount; ++i) {
    const int column = fragment_column(thread, i);
    const Column to = memory.columns[column];
    // One scale after the other: their product may leave float32's range where the inner product does not.
    const float product = sums.x[i] * scales[i / 2 % 2] * memory.scales[column];
    if (to.stride != 0) products[to.place + fragment_row(thread, i) * to.stride] = product;
  }
  place_zeros(a, images, products, thread);
  device::sync_consumers();
  score_pairs(a, memory.work, images, captions, thread);
}

CMSEI_DEVICE void consume(const Arguments& a, const Rectangles& rectangles, const Memory& memory, int thread) {
  const int rank = device::cluster_rank();
  const uint32_t peer = place_of_peer(rectangles.cluster, memory, rank, thread);
  uint32_t phases = 0;
#pragma unroll 1
  for (Walk walk = walk_from(rectangles, device::cluster_index()); walk.goes_on(rectangles);
       walk.advance(rectangles, device::cluster_count())) {
    const Spot own = beside(rectangles, walk.corner(rectangles), rank), at = inside(rectangles, own);
    const Tile images = a.image_tiles[at.image], captions = a.caption_tiles[at.caption];
    place_columns(a, images, memory.columns, thread);
    place_scales(a, images, memory.scales, thread);
    // Set here, not by the first product: otherwise these registers would stay in use while pairs are scored.
    device::Accumulators sums;
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) sums.x[i] = 0;
    if (a.type == kE4M3)
      multiply_tile_e4m3(a, memory, phases, peer, sums);
    else if (a.type == kInt8)
      multiply_tile_int8(a, memory, phases, peer, sums);
    else if (a.type == kFloat16)
      multiply_tile<kFloat16>(a, memory, phases, peer, sums);
    else
      multiply_tile<kBFloat16>(a, memory, phases, peer, sums);
    device::sync_consumers();  // the stages have been read, the columns' places and scales written
    if (exists(rectangles, own)) score_tile(a, memory, images, captions, sums, thread);
    device::fence_async();  // what was written here comes before what TMA writes next
    device::sync_warp();
    release(peer, kStages);
  }
}

// What a thread of a block of kThreads does.
template <class Map>
CMSEI_DEVICE void run_thread(const Arguments& a, const Rectangles& rectangles, const Map& words, const Map& regions,
                             unsigned char* shared, int thread) {
  const Memory memory = lay_out(shared);
  if (thread == 0) {
    const int arrivals = kConsumers / 32 * peers_of(rectangles.cluster);
    for (int stage = 0; stage < kStages; ++stage) {
      device::barrier_init(memory.full + stage, 2);
      device::barrier_init(memory.empty + stage, arrivals);
    }
    device::barrier_init(memory.free, arrivals);
    device::fence_barriers();
  }
  device::sync_cluster();
  if (thread < kConsumers) {
    device::take_registers<kConsumerRegisters>();
    consume(a, rectangles, memory, thread);
  } else {
    device::give_registers<kProducerRegisters>();
    if (thread == kConsumers) produce<true>(a, rectangles, words, memory);
    if (thread == kConsumers + 32) produce<false>(a, rectangles, regions, memory);
  }
  device::sync_cluster();  // a block's memory stays until the others neither load into it nor arrive at its barriers
}

}  // namespace cmsei::hopper
