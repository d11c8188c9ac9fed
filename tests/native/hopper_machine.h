// What the instructions of sm_90a do, as the PTX ISA documents them, for clusters of blocks that run as fibers:
// barriers with phases, TMA into several blocks' memory, and wgmma. Stands in for csrc/cuda/hopper_device.cuh. What is
// asynchronous happens at once, as late as barriers and waits allow, or at any time between, TMA's in any order and in
// each block on its own: a kernel that is right gives the same in all.
#pragma once

#include "mma.h"

#include "../../csrc/cuda/hopper_cluster.h"

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
  int32_t* whole;  // the sums of whole numbers, in the others' place
  uint64_t words, regions;
  float (*number)(const unsigned char*);
  int bytes;   // of a number
  bool first;  // what the sums were does not matter
};

// Whom a block's barriers serve: as they are known to nobody, to its own threads, to TMA and, once the cluster's blocks
// have met, to all of these.
enum class Known { kNowhere, kHere, kToTma, kEverywhere };

struct Memory {
  unsigned char* bytes = nullptr;
  bool gone = false;                              // its block's threads have all ended
  Known barriers = Known::kNowhere;
  std::map<int, std::deque<std::vector<Product>>> groups;  // of each thread, committed
  std::map<int, std::vector<Product>> open;
  std::vector<std::pair<uint64_t, uint64_t>> operands;  // of each of the warpgroup's products
  std::map<int, size_t> issued;                   // of each thread, how many
  int64_t registers = 0;                          // given back
  int waiting = 0, generation = 0;                // of the consumers' barrier
  int passed[128] = {};                           // how often the thread has come to that barrier
  int unordered[128] = {};  // since when what it wrote may come after what TMA writes; 0: it may not
  bool settled[128] = {};                         // the thread's sums are ready for wgmma
  uint64_t* free = nullptr;                       // the barrier of which each phase is a tile's
  int64_t freed = 0, running = 256;               // phases of `free`, threads that have not ended
  std::map<int, int64_t> started, tile_loads;     // of each thread: loads so far, those of a tile
};

struct Machine {
  bool late = false;
  std::minstd_rand draw;                          // of what happens when, unless at once
  bool any = false;                               // at any time, not late
  unsigned eager = 4;                             // of eight, how often at once
  int bits = 0;                                   // of a sum of e4m3 products, where not 0
  uint32_t start = 1040;                          // the memory's address in a block: not at a boundary of anything
  uint32_t index = 0, count = 1;                  // of the cluster in the grid, and of clusters
  std::vector<Memory> blocks;                     // of the cluster
  std::deque<std::function<void()>> loads;        // that TMA has not done yet, in one block each
  std::vector<bool*> starving;                    // of threads that wait until nobody else can go on
};
static Machine machine;
static int64_t loads_ahead = 0;   // loads that were started before the pairs of the tile before were scored
static int64_t meetings = 0;      // of the consumers of a block at their barrier
constexpr uint32_t kWindow = 1 << 24;  // addresses of a block's memory in the cluster's

static Memory& own() { return machine.blocks[block->rank]; }
static int cluster_rank() { return block->rank; }
static uint32_t cluster_index() { return machine.index; }
static uint32_t cluster_count() { return machine.count; }

static uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - own().bytes) + machine.start;
}
static uint32_t address_in(const void* p, int rank) {
  if (rank < 0 || rank >= static_cast<int>(machine.blocks.size())) throw std::runtime_error("no such block");
  return shared_address(p) + kWindow * static_cast<uint32_t>(rank + 1);
}

// At any time: a thread that has done one thing is late with the next, one that loads often as late as can be.
static void dawdle() {
  if (!machine.any || machine.draw() % 8 != 0) return;
  bool fed = machine.draw() % (block->current < 128 ? 64 : 3) != 0;
  if (!fed) machine.starving.push_back(&fed);
  poll([&fed] { return fed; });
}
static bool feed_one() {
  if (machine.starving.empty()) return false;
  const auto next = machine.starving.begin() + machine.draw() % machine.starving.size();
  **next = true;
  machine.starving.erase(next);
  return true;
}

static Barrier& of(uint64_t* barrier) { return *reinterpret_cast<Barrier*>(barrier); }

// A barrier counts to 2^20 - 1, arrivals from 1 on.
static void check_count(int64_t count, int64_t least) {
  if (count < least || count >= 1 << 20) throw std::runtime_error("more, or fewer, than a barrier counts");
}
static void check_place(uint32_t address) {
  if (address % 8 != 0) throw std::runtime_error("a barrier lies at no multiple of 8");
}

static void settle(Memory& memory, Barrier& x) {
  if (x.pending != 0 || x.bytes != 0) return;
  x.phase ^= 1;
  x.pending = x.arrivals;
  if (memory.free && &x == &of(memory.free)) ++memory.freed;
}
static void arrive(Memory& memory, Barrier& x) {
  if (memory.gone) throw std::runtime_error("an arrival at a barrier of a block that has ended");
  if (--x.pending < 0) throw std::runtime_error("more arrivals than a barrier counts");
  settle(memory, x);
}

static void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  check_place(shared_address(barrier));
  check_count(arrivals, 1);
  const auto n = static_cast<int16_t>(arrivals);
  of(barrier) = {n, n, 0, 0};
  own().barriers = Known::kHere;
}
static void fence_barriers() { own().barriers = Known::kToTma; }
// What happens at a barrier of the cluster.
static void publish_barriers() {
  for (Memory& memory : machine.blocks)
    if (memory.barriers == Known::kToTma) memory.barriers = Known::kEverywhere;
}
static void sync_cluster() { sync_all_blocks(); }
static void check_known(const Memory& memory) {
  if (memory.barriers != Known::kEverywhere) throw std::runtime_error("a barrier that is not known yet");
}

// By a lane for its warp.
static void barrier_arrive(uint32_t barrier) {
  dawdle();
  const int warp = block->current / 32 * 32;
  for (int thread = warp; thread < warp + 32; ++thread)
    if (own().unordered[thread] && own().unordered[thread] <= own().passed[block->current])
      throw std::runtime_error("TMA may overtake what a thread wrote");
  const uint32_t rank = barrier / kWindow - 1;
  Memory& memory = machine.blocks.at(rank);
  check_known(memory);
  arrive(memory, of(reinterpret_cast<uint64_t*>(memory.bytes + (barrier % kWindow - machine.start))));
}
static void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  dawdle();
  check_known(own());
  check_count(of(barrier).bytes + static_cast<int64_t>(bytes), 1 - (1 << 20));
  of(barrier).bytes += static_cast<int32_t>(bytes);
  arrive(own(), of(barrier));
}
static void barrier_wait(uint64_t* barrier, uint32_t parity) {
  const auto ready = [barrier, parity] { return of(barrier).phase != parity; };
  check_known(own());
  if (!ready()) poll(ready);
  dawdle();
}

// In the memory of one block, at offsets in it.
static void fill_box(const Map& map, Memory& memory, int64_t at_box, int64_t at_barrier, int64_t column, int64_t row) {
  check_known(memory);
  if (memory.gone) throw std::runtime_error("a load into a block that has ended");
  unsigned char* const to = memory.bytes + at_box;
  Barrier& barrier = of(reinterpret_cast<uint64_t*>(memory.bytes + at_barrier));
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
  check_count(barrier.bytes - tall * shape.box[0] * bytes, 1 - (1 << 20));
  barrier.bytes -= static_cast<int32_t>(tall * shape.box[0] * bytes);
  settle(memory, barrier);
}

static bool load_outstanding() {
  if (machine.loads.empty()) return false;
  const auto next = machine.loads.begin() + (machine.any ? machine.draw() % machine.loads.size() : 0);
  const auto load = *next;
  machine.loads.erase(next);
  load();
  return true;
}

// At any time, one of them.
static void load_some() {
  if (machine.any && machine.draw() % 8 < machine.eager) load_outstanding();
}

static void load_tile(const Map& map, void* to, uint64_t* barrier, int column, int row, uint16_t ranks) {
  if (shared_address(to) % 1024) throw std::runtime_error("a swizzled tile begins at no multiple of 1024");
  if (ranks == 0 || ranks >> machine.blocks.size()) throw std::runtime_error("a load into no block of the cluster");
  if (own().started[block->current]++ / own().tile_loads.at(block->current) > own().freed) ++loads_ahead;
  const int64_t at_box = static_cast<unsigned char*>(to) - own().bytes;
  const int64_t at_barrier = reinterpret_cast<unsigned char*>(barrier) - own().bytes;
  for (size_t rank = 0; rank < machine.blocks.size(); ++rank) {
    if (!(ranks >> rank & 1)) continue;
    machine.loads.push_back([=, &map] { fill_box(map, machine.blocks[rank], at_box, at_barrier, column, row); });
    if (!machine.late || (machine.any && machine.draw() % 8 < machine.eager)) {
      const auto load = machine.loads.back();
      machine.loads.pop_back();
      load();
    }
  }
  dawdle();
}

static void fence_async() {
  dawdle();
  own().unordered[block->current] = 0;
}
static void sync_consumers() {
  dawdle();
  Memory& memory = own();
  const int passed = ++memory.passed[block->current];
  if (memory.unordered[block->current] == 0) memory.unordered[block->current] = passed;
  const int mine = memory.generation;
  if (++memory.waiting == 128) {
    memory.waiting = 0;
    ++memory.generation;
    ++meetings;
    return;
  }
  poll([mine, &memory] { return memory.generation != mine; });
}

template <class Number>
struct Sums {
  static constexpr int kCount = 72;
  Number x[kCount];
};
using Accumulators = Sums<float>;
using WholeAccumulators = Sums<int32_t>;

// Element (row, k) of the K-major operand that a descriptor of layout 1 describes: addresses, then the swizzle on them.
static float element(uint64_t descriptor, int row, int k, const Product& p) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) throw std::runtime_error("not the 128-byte swizzle");
  if (descriptor & 0x3ff1c000c000c000u) throw std::runtime_error("bits of a descriptor that mean nothing");
  const uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  uint32_t at = start + row / 8 * stride + row % 8 * 128 + k * p.bytes;
  at ^= at >> 7 << 4 & 0x70;
  return p.number(own().bytes + (at - machine.start));
}

// The sum of products and of what was there, each cut to machine.bits below the largest one's exponent: what e4m3
// instructions of sm_90 are reported to do with 14 (DeepSeek-V3, arXiv 2412.19437).
static float cut_sum(float sum, const float* left, const float* right) {
  float terms[33] = {sum};
  for (int k = 0; k < 32; ++k) terms[k + 1] = left[k] * right[k];
  int top = -200;
  for (const float x : terms)
    if (std::isfinite(x) && x != 0) top = std::max(top, std::ilogb(x));
  const int shift = machine.bits - 1 - top;
  float out = 0;
  for (const float x : terms) out += std::isfinite(x) ? std::ldexp(std::trunc(std::ldexp(x, shift)), -shift) : x;
  return out;
}

static void multiply_now(const Product& p, int thread) {
  const int warp = thread >> 5, lane = thread & 31, depth = 32 / p.bytes;
  float left[2][32], right[Accumulators::kCount / 2][32];
  for (int i = 0; i < 2; ++i)
    for (int k = 0; k < depth; ++k) left[i][k] = element(p.words, 16 * warp + (lane >> 2) + 8 * i, k, p);
  for (int i = 0; i < Accumulators::kCount / 2; ++i)
    for (int k = 0; k < depth; ++k) right[i][k] = element(p.regions, 8 * (i >> 1) + 2 * (lane & 3) + (i & 1), k, p);
  for (int i = 0; i < Accumulators::kCount; ++i) {
    const float *const row = left[i >> 1 & 1], *const column = right[(i >> 2) * 2 + (i & 1)];
    if (p.whole) {
      for (int k = 0; k < depth; ++k) p.whole[i] += static_cast<int32_t>(row[k]) * static_cast<int32_t>(column[k]);
      continue;
    }
    float sum = p.first ? 0 : p.sums[i];
    if (p.bytes == 1 && machine.bits)
      sum = cut_sum(sum, row, column);
    else if (sum_bits)
      sum = aligned_sum(sum, row, column, depth, sum_bits);
    else
      for (int k = 0; k < depth; ++k) sum += row[k] * column[k];
    p.sums[i] = sum;
  }
}

// The registers of a thread at the beginning: of two blocks on a multiprocessor, in eights. What a warpgroup takes more
// must have been given back, and is waited for.
constexpr int kRegisters = 65536 / (2 * hopper::kThreads) / 8 * 8;
template <int kCount>
static void take_registers() {
  static_assert(kCount % 8 == 0 && kRegisters <= kCount && kCount <= 256);
  constexpr int more = kCount - kRegisters;
  Memory& memory = own();
  while (memory.registers < more) poll([&memory] { return memory.registers >= more; });
  memory.registers -= more;
}
template <int kCount>
static void give_registers() {
  static_assert(kCount % 8 == 0 && 24 <= kCount && kCount <= kRegisters);
  own().registers += kRegisters - kCount;
}
static void wgmma_fence() { own().settled[block->current] = true; }
static void multiply(const Product& product) {
  Memory& memory = own();
  if (!memory.settled[block->current]) throw std::runtime_error("no fence between other uses of sums and wgmma");
  const std::pair operands(product.words, product.regions);
  const size_t place = memory.issued[block->current]++;
  if (place == memory.operands.size()) memory.operands.push_back(operands);
  if (memory.operands.at(place) != operands) throw std::runtime_error("descriptors differ within the warpgroup");
  if (machine.late)
    own().open[block->current].push_back(product);
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
  multiply({sums.x, nullptr, words, regions, number_at<kHalf>, 2, false});
}
template <bool kFirst>
static void wgmma_e4m3(Accumulators& sums, uint64_t words, uint64_t regions) {
  multiply({sums.x, nullptr, words, regions, [](const unsigned char* p) { return number_e4m3(*p); }, 1, kFirst});
}
static void wgmma_int8(WholeAccumulators& sums, uint64_t words, uint64_t regions) {
  const auto number = [](const unsigned char* p) { return static_cast<float>(static_cast<int8_t>(*p)); };
  multiply({nullptr, sums.x, words, regions, number, 1, false});
}
static void finish_groups(size_t pending) {
  auto& groups = own().groups[block->current];
  for (; groups.size() > pending; groups.pop_front())
    for (const Product& product : groups.front()) multiply_now(product, block->current);
}
static void wgmma_commit() {
  auto& open = own().open[block->current];
  own().groups[block->current].push_back(std::move(open));
  open.clear();
  if (machine.any && machine.draw() % 2) finish_groups(0);
  dawdle();
}
template <int kPending>
static void wgmma_wait() {
  dawdle();
  finish_groups(kPending);
  sync_warp(kWaitForProducts);  // of a warp's threads at a time, as they began
}
template <class Number>
static void wgmma_finish(Sums<Number>&) {
  wgmma_wait<0>();
  own().settled[block->current] = false;
}

}  // namespace cmsei::device
