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
  float* scales;              // (kColumns) of the regions
  uint64_t *full, *empty;     // of each stage: loaded, read
  uint64_t* free;             // work: the tile's pairs are scored
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

// Every stage of every tile, as soon as its place is free: of a tile's first stages, the pairs of the tile before may
// be scored still. A bit of `phases` is the phase in which a stage is filled next.
template <class Map>
CMSEI_DEVICE void produce(const Arguments& a, const Map& words, const Map& regions, const Memory& memory, int64_t block,
                          int64_t blocks) {
  uint32_t phases = 0, tile = 0;
  int held = 0;  // by the pairs of the tile before
  const int depth = kRowBytes / bytes_of(a.type);
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
      device::load_tile(words, to, memory.full + stage, k * depth, row);
      device::load_tile(regions, to + kWordBytes, memory.full + stage, k * depth, column);
    }
    if (!free) device::barrier_wait(memory.free, (tile & 1) ^ 1);  // a phase may not pass unseen
    held = held_bytes(share_of(a.image_tiles[meeting.image], a.caption_tiles[meeting.caption]));
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
// Says that a warp is done with a stage.
CMSEI_DEVICE void release_stage(const Memory& memory, int stage, int thread) {
  if (thread % 32 == 0) device::barrier_arrive(memory.empty + stage);
}

// A tile's inner products into the accumulators, which begin as zeros.
template <bool kHalf>
CMSEI_DEVICE void multiply_tile(const Arguments& a, const Memory& memory, uint32_t& phases, int thread,
                                device::Accumulators& sums) {
#pragma unroll 1
  for (int k = 0; k < a.depth_blocks; ++k) {
    const Operands stage = await_stage(memory, k % kStages, phases);
    device::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      device::wgmma<kHalf>(sums, stage.words + step * kDescriptorStep, stage.regions + step * kDescriptorStep);
    device::wgmma_commit();
    // The product before this one is done, and nobody needs its stage.
    device::wgmma_wait<1>();
    if (k > 0) release_stage(memory, (k - 1) % kStages, thread);
  }
  device::wgmma_finish(sums);
  release_stage(memory, (a.depth_blocks - 1) % kStages, thread);
}

// The same of e4m3, whose instructions keep sums to fewer bits than float32 has (about 14): those of a stage, 128 deep,
// are added up in float32.
CMSEI_DEVICE void multiply_tile_e4m3(const Arguments& a, const Memory& memory, uint32_t& phases, int thread,
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
    release_stage(memory, k % kStages, thread);
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) sums.x[i] += part.x[i];
  }
}

// Scales of a tile's regions; 1 where numbers have none.
CMSEI_DEVICE void place_scales(const Arguments& a, const Tile& images, float* scales, int thread) {
  const int64_t first = a.images.offsets[images.first], last = a.images.offsets[images.last];
  for (int column = thread; column < kColumns; column += kConsumers)
    scales[column] = a.region_scales && first + column < last ? a.region_scales[first + column] : 1;
}
// That of a tile's word; the tile may end before it.
CMSEI_DEVICE float word_scale(const Arguments& a, int64_t word) {
  return a.word_scales && word < a.word_rows ? a.word_scales[word] : 1;
}

CMSEI_DEVICE void consume(const Arguments& a, const Memory& memory, int64_t block, int64_t blocks, int thread) {
  uint32_t phases = 0;
  const int64_t meetings = a.image_tile_count * a.caption_tile_count;
#pragma unroll 1
  for (int64_t index = block; index < meetings; index += blocks) {
    const Meeting meeting = locate(a.image_tile_count, a.caption_tile_count, index);
    const Tile images = a.image_tiles[meeting.image], captions = a.caption_tiles[meeting.caption];
    place_columns(a, images, memory.columns, thread);
    place_scales(a, images, memory.scales, thread);
    // Set, not left to the first product: else these registers would be live while pairs are scored.
    device::Accumulators sums;
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) sums.x[i] = 0;
    if (a.type == kE4M3)
      multiply_tile_e4m3(a, memory, phases, thread, sums);
    else if (a.type == kFloat16)
      multiply_tile<true>(a, memory, phases, thread, sums);
    else
      multiply_tile<false>(a, memory, phases, thread, sums);
    device::sync_consumers();  // the stages have been read, the columns' places and scales written
    float* const products = reinterpret_cast<float*>(memory.work);
    const int64_t first_word = a.captions.offsets[captions.first];
    const float scales[2] = {word_scale(a, first_word + fragment_row(thread, 0)),
                             word_scale(a, first_word + fragment_row(thread, 2))};
#pragma unroll
    for (int i = 0; i < device::Accumulators::kCount; ++i) {
      const int column = fragment_column(thread, i);
      const Column to = memory.columns[column];
      // One after the other: both together may leave float32's range where the inner product does not.
      const float product = sums.x[i] * scales[i / 2 % 2] * memory.scales[column];
      if (to.stride != 0) products[to.place + fragment_row(thread, i) * to.stride] = product;
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
