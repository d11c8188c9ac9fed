// What the instructions of sm_90a do, as the PTX ISA documents them, for kernels that run as fibers: barriers with
// phases, TMA and wgmma. Stands in for csrc/cuda/hopper_device.cuh. What is asynchronous happens at once, as late as
// barriers and waits allow, or at any time between, TMA's in any order: a kernel that is right gives the same in all.
#pragma once

#include "../../csrc/cuda/hopper_maps.h"
#include "mma.h"

#include <deque>
#include <map>
#include <random>

namespace cmsei::device {

// A matrix, and what TMA is told of it.
struct Map {
  const unsigned char* data;
  hopper::TensorMap shape;
};

struct Barrier {
  int16_t arrivals, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
static_assert(sizeof(Barrier) == 8);

struct Product {
  float* sums;
  uint64_t words, regions;
  float (*number)(const unsigned char*);
  int bytes;   // of a number
  bool first;  // what the sums were does not matter
};

struct Machine {
  bool late = false;
  std::minstd_rand draw;                          // of what happens when, unless at once
  bool any = false;                               // at any time, not late
  int bits = 0;                                   // of a sum of e4m3 products, where not 0
  unsigned char* shared = nullptr;                // of the block
  uint32_t start = 1040;                          // its address: not at a boundary of anything
  std::deque<std::function<void()>> loads;        // that TMA has not done yet
  std::map<int, std::deque<std::vector<Product>>> groups;  // of each thread, committed
  std::map<int, std::vector<Product>> open;
  int waiting = 0, generation = 0;                // of the consumers' barrier
  bool ordered[128] = {};                         // what the thread wrote comes before what TMA writes
  bool settled[128] = {};                         // the thread's sums are ready for wgmma
  uint64_t* free = nullptr;                       // the barrier at which all consumers arrive, once a tile
  int64_t tile_loads = 1, started = 0, freed = 0; // loads of a tile; since the block began: loads, phases of `free`
};
static Machine machine;
static int64_t loads_ahead = 0;  // loads that were started before the pairs of the tile before were scored

static uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - machine.shared) + machine.start;
}

static Barrier& of(uint64_t* barrier) { return *reinterpret_cast<Barrier*>(barrier); }

static void settle(Barrier& x) {
  if (x.pending != 0 || x.bytes != 0) return;
  x.phase ^= 1;
  x.pending = x.arrivals;
  if (machine.free && &x == &of(machine.free)) ++machine.freed;
}

static void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  const auto n = static_cast<int16_t>(arrivals);
  of(barrier) = {n, n, 0, 0};
  if (n == 128) machine.free = barrier;
}
static void fence_barriers() {}
static void barrier_arrive(uint64_t* barrier) {
  if (barrier == machine.free && !machine.ordered[block->current])
    throw std::runtime_error("TMA may overtake what a thread wrote");
  if (--of(barrier).pending < 0) throw std::runtime_error("more arrivals than a barrier counts");
  settle(of(barrier));
}
static void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  of(barrier).bytes += static_cast<int32_t>(bytes);
  barrier_arrive(barrier);
}
static void barrier_wait(uint64_t* barrier, uint32_t parity) {
  const auto ready = [barrier, parity] { return of(barrier).phase != parity; };
  if (!ready()) poll(ready);
}

static void fill_box(const Map& map, unsigned char* to, uint64_t* barrier, int64_t column, int64_t row) {
  if (shared_address(to) % 1024) throw std::runtime_error("a swizzled tile begins at no multiple of 1024");
  const hopper::TensorMap& shape = map.shape;
  const int64_t columns = shape.sizes[0], rows = shape.sizes[1], bytes = shape.bytes, tall = shape.box[1];
  for (int r = 0; r < tall; ++r)
    for (int e = 0; e < static_cast<int>(shape.box[0]); ++e) {
      const int64_t y = row + r, x = column + e, at = e * bytes;
      unsigned char* const out = to + r * 128 + (at / 16 ^ (r & 7)) * 16 + at % 16;
      if (y >= 0 && y < rows && x >= 0 && x < columns)
        std::memcpy(out, map.data + y * static_cast<int64_t>(shape.strides[0]) + bytes * x, bytes);
      else
        std::memset(out, 0, bytes);
    }
  of(barrier).bytes -= static_cast<int32_t>(tall * shape.box[0] * bytes);
  settle(of(barrier));
}

static bool load_outstanding() {
  if (machine.loads.empty()) return false;
  const auto next = machine.loads.begin() + (machine.any ? machine.draw() % machine.loads.size() : 0);
  const auto load = *next;
  machine.loads.erase(next);
  load();
  return true;
}

static void load_tile(const Map& map, void* to, uint64_t* barrier, int column, int row) {
  if (machine.started++ / machine.tile_loads > machine.freed) ++loads_ahead;
  const auto load = [=, &map] { fill_box(map, static_cast<unsigned char*>(to), barrier, column, row); };
  if (!machine.late) return load();
  machine.loads.push_back(load);
  while (machine.any && !machine.loads.empty() && machine.draw() % 2) load_outstanding();
}

static void fence_async() { machine.ordered[block->current] = true; }
static void sync_consumers() {
  machine.ordered[block->current] = false;
  const int mine = machine.generation;
  if (++machine.waiting == 128) {
    machine.waiting = 0;
    ++machine.generation;
    return;
  }
  poll([mine] { return machine.generation != mine; });
}

struct Accumulators {
  static constexpr int kCount = 72;
  float x[kCount];
};

// Element (row, k) of the K-major operand that a descriptor of layout 1 describes: addresses, then the swizzle on them.
static float element(uint64_t descriptor, int row, int k, const Product& p) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) throw std::runtime_error("not the 128-byte swizzle");
  const uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  uint32_t at = start + row / 8 * stride + row % 8 * 128 + k * p.bytes;
  at ^= at >> 7 << 4 & 0x70;
  return p.number(machine.shared + (at - machine.start));
}

// The sum of an element's products and of what was there, each cut to machine.bits below the largest one's exponent:
// what e4m3 instructions of sm_90 are reported to do with 14 (DeepSeek-V3, arXiv 2412.19437).
static float cut_sum(float sum, int row, int column, const Product& p) {
  float terms[33] = {sum};
  for (int k = 0; k < 32; ++k) terms[k + 1] = element(p.words, row, k, p) * element(p.regions, column, k, p);
  int top = -200;
  for (const float x : terms)
    if (std::isfinite(x) && x != 0) top = std::max(top, std::ilogb(x));
  const int shift = machine.bits - 1 - top;
  float out = 0;
  for (const float x : terms) out += std::isfinite(x) ? std::ldexp(std::trunc(std::ldexp(x, shift)), -shift) : x;
  return out;
}

static void multiply_now(const Product& p, int thread) {
  const int warp = thread >> 5, lane = thread & 31;
  for (int i = 0; i < Accumulators::kCount; ++i) {
    const int row = 16 * warp + (lane >> 2) + 8 * (i >> 1 & 1), column = 8 * (i >> 2) + 2 * (lane & 3) + (i & 1);
    float sum = p.first ? 0 : p.sums[i];
    if (p.bytes == 1 && machine.bits) {
      p.sums[i] = cut_sum(sum, row, column, p);
      continue;
    }
    for (int k = 0; k < 32 / p.bytes; ++k) sum += element(p.words, row, k, p) * element(p.regions, column, k, p);
    p.sums[i] = sum;
  }
}

template <int kCount>
static void take_registers() {}
template <int kCount>
static void give_registers() {}
static void wgmma_fence() { machine.settled[block->current] = true; }
static void multiply(const Product& product) {
  if (!machine.settled[block->current]) throw std::runtime_error("no fence between other uses of sums and wgmma");
  if (machine.late)
    machine.open[block->current].push_back(product);
  else
    multiply_now(product, block->current);
}
template <bool kHalf>
static float number_at(const unsigned char* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return number(bits, kHalf);
}
template <bool kHalf>
static void wgmma(Accumulators& sums, uint64_t words, uint64_t regions) {
  multiply({sums.x, words, regions, number_at<kHalf>, 2, false});
}
template <bool kFirst>
static void wgmma_e4m3(Accumulators& sums, uint64_t words, uint64_t regions) {
  multiply({sums.x, words, regions, [](const unsigned char* p) { return number_e4m3(*p); }, 1, kFirst});
}
static void finish_groups(size_t pending) {
  auto& groups = machine.groups[block->current];
  for (; groups.size() > pending; groups.pop_front())
    for (const Product& product : groups.front()) multiply_now(product, block->current);
}
static void wgmma_commit() {
  auto& open = machine.open[block->current];
  machine.groups[block->current].push_back(std::move(open));
  open.clear();
  if (machine.any && machine.draw() % 2) finish_groups(0);
}
template <int kPending>
static void wgmma_wait() {
  finish_groups(kPending);
}
static void wgmma_finish(Accumulators&) {
  wgmma_wait<0>();
  machine.settled[block->current] = false;
}

}  // namespace cmsei::device
