// The Hopper pair score, products and pairs in one kernel: its text, in terms of the primitives of device.cuh and
// hopper_device.cuh, which the includer has defined, so that it also runs on a host (tests/).
//
// A thread of one warpgroup loads tiles by TMA into a ring of stages. The other warpgroup multiplies them by wgmma and
// writes the products into shared memory in the stages' place, an image's block after another's; its warps score pairs.
#pragma once

#include "hopper_plan.h"
#include "tile_pairs.cuh"

namespace cmsei::hopper {

using namespace tile;

struct Memory {
  unsigned char* work;        // kWorkBytes at a 1024-byte boundary
  uint32_t work_address;      // of it as instructions take it
  Column* columns;            // (kColumns)
  uint64_t *full, *empty;     // of each stage: loaded, read
  uint64_t* free;             // work: the tile's pairs are scored
};

CMSEI_DEVICE Memory lay_out(unsigned char* shared) {
  const uint32_t address = device::shared_address(shared);
  const uint32_t aligned = (address + kSwizzleBytes - 1) / kSwizzleBytes * kSwizzleBytes;
  unsigned char* const work = shared + (aligned - address);
  uint64_t* const barriers = reinterpret_cast<uint64_t*>(work + kWorkBytes);
  return {work, aligned, reinterpret_cast<Column*>(work + kWorkBytes + kBarrierBytes), barriers, barriers + kStages,
          barriers + 2 * kStages};
}

// Every stage of every tile, as soon as its place is free: of a tile's first stages, the pairs of the tile before may
// be scored still. A bit of `phases` is the phase in which a stage is filled next.
template <class Map>
CMSEI_DEVICE void produce(const Arguments& a, const Map& words, const Map& regions, const Memory& memory, int64_t block,
                          int64_t blocks) {
  uint32_t phases = 0, tile = 0;
  int held = 0;  // by the pairs of the tile before
  const int64_t meetings = a.image_tile_count * a.caption_tile_count;
#pragma unroll 1
  for (int64_t index = block; index < meetings; index += blocks, ++tile) {
    const Meeting meeting = locate(a.image_tile_count, a.caption_tile_count, index);
    const int row = static_cast<int>(a.captions.offsets[a.caption_tiles[meeting.caption].first]);
    const int column = static_cast<int>(a.images.offsets[a.image_tiles[meeting.image].first]);
    bool free = false;
#pragma unroll 1
    for (int k = 0; k < a.depth_blocks; ++k) {
      const int stage = k % kStages;
      if (!free && stage_place(stage) < held) {
        device::barrier_wait(memory.free, (tile & 1) ^ 1);
        free = true;
      }
      device::barrier_wait(memory.empty + stage, (phases >> stage & 1) ^ 1);
      phases ^= 1u << stage;
      device::barrier_expect(memory.full + stage, kStageBytes);
      unsigned char* const to = memory.work + stage_place(stage);
      device::load_tile(words, to, memory.full + stage, k * kDepth, row);
      device::load_tile(regions, to + kWordBytes, memory.full + stage, k * kDepth, column);
    }
    if (!free) device::barrier_wait(memory.free, (tile & 1) ^ 1);  // a phase may not pass unseen
    held = held_bytes(a.caption_tiles[meeting.caption]);
  }
}

// A tile's inner products into the accumulators; a bit of `phases` is the phase in which a stage is full next.
template <bool kHalf>
CMSEI_DEVICE void multiply_tile(const Arguments& a, const Memory& memory, uint32_t& phases, int thread,
                                device::Accumulators& sums) {
#pragma unroll 1
  for (int k = 0; k < a.depth_blocks; ++k) {
    const int stage = k % kStages;
    device::barrier_wait(memory.full + stage, phases >> stage & 1);
    phases ^= 1u << stage;
    const uint64_t words = descriptor(memory.work_address + stage_place(stage));
    const uint64_t regions = descriptor(memory.work_address + stage_place(stage) + kWordBytes);
    device::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kDepth / kStepDepth; ++step)
      device::wgmma<kHalf>(sums, words + step * kDescriptorStep, regions + step * kDescriptorStep);
    device::wgmma_commit();
    // The product before this one is done, and nobody needs its stage.
    device::wgmma_wait<1>();
    if (k > 0 && thread % 32 == 0) device::barrier_arrive(memory.empty + (k - 1) % kStages);
  }
  device::wgmma_finish(sums);
  if (thread % 32 == 0) device::barrier_arrive(memory.empty + (a.depth_blocks - 1) % kStages);
}

CMSEI_DEVICE void consume(const Arguments& a, const Memory& memory, int64_t block, int64_t blocks, int thread) {
  uint32_t phases = 0;
  const int64_t meetings = a.image_tile_count * a.caption_tile_count;
#pragma unroll 1
  for (int64_t index = block; index < meetings; index += blocks) {
    const Meeting meeting = locate(a.image_tile_count, a.caption_tile_count, index);
    const Tile images = a.image_tiles[meeting.image], captions = a.caption_tiles[meeting.caption];
    place_columns(a, images, memory.columns, thread);
    // Set, not left to the first product: else these registers would be live while pairs are scored.
    device::Accumulators sums;
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) sums.x[i] = 0;
    if (a.half)
      multiply_tile<true>(a, memory, phases, thread, sums);
    else
      multiply_tile<false>(a, memory, phases, thread, sums);
    device::sync_consumers();  // the stages have been read, the columns' places written
    float* const products = reinterpret_cast<float*>(memory.work);
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) {
      const Column to = memory.columns[fragment_column(thread, i)];
      if (to.stride != 0) products[to.place + fragment_row(thread, i) * to.stride] = sums.x[i];
    }
    device::sync_consumers();
    score_pairs(a, memory.work, images, captions, thread);
    device::fence_async();  // what was written here comes before what TMA writes next
    device::barrier_arrive(memory.free);
  }
}

// What a thread of a block of kThreads does.
template <class Map>
CMSEI_DEVICE void run_thread(const Arguments& a, const Map& words, const Map& regions, unsigned char* shared,
                             int64_t block, int64_t blocks, int thread) {
  const Memory memory = lay_out(shared);
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      device::barrier_init(memory.full + stage, 1);
      device::barrier_init(memory.empty + stage, kConsumers / 32);
    }
    device::barrier_init(memory.free, kConsumers);
    device::fence_barriers();
  }
  device::sync_block();
  if (thread < kConsumers) {
    device::take_registers<kConsumerRegisters>();
    consume(a, memory, block, blocks, thread);
  } else {
    device::give_registers<kProducerRegisters>();
    if (thread == kConsumers) produce(a, words, regions, memory, block, blocks);
  }
}

}  // namespace cmsei::hopper
