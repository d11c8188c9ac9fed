// The instructions that only sm_90a has: what hopper_pair.cuh is written in, beside device.cuh and mma.cuh.
#pragma once

#include <cuda.h>

#include "mma.cuh"

namespace cmsei::device {

CMSEI_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Barriers in shared memory count arrivals and, where asked to, bytes that TMA writes; they complete phase after phase.
CMSEI_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes barriers that were initialised known to TMA and, after sync_cluster(), to the cluster's other blocks.
CMSEI_DEVICE void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// A barrier of all threads of a cluster, even of warps that have diverged: what was written before it is seen after it.
CMSEI_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// This block's rank in its cluster; the cluster's index in the grid; the number of clusters. Read where they are used,
// so that they take no registers of the threads that have few.
CMSEI_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
CMSEI_DEVICE uint32_t cluster_index() {
  uint32_t index;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return index;
}
CMSEI_DEVICE uint32_t cluster_count() {
  uint32_t count;
  asm volatile("mov.u32 %0, %%nclusterid.x;" : "=r"(count));
  return count;
}
// The address, in the memory of the cluster's block `rank`, of what p is in this block's.
CMSEI_DEVICE uint32_t address_in(const void* p, int rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}
// Arrives at a barrier of any block of the cluster, given by address_in(). Like the waits, it is without the scope
// .cluster, which would also order what goes to device memory. No block here hands that over to another, but each
// arrival would wait for the scores to get there and each wait would empty the first cache. After fence_async() the
// instructions are those of the narrower pair fence.release.sync_restrict::shared::cta.cluster and
// mbarrier.arrive.relaxed.cluster, which older compilers lack; after products alone there is nothing to order, since
// products that have been waited for have read their operands.
CMSEI_DEVICE void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
CMSEI_DEVICE void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity is complete; a new barrier counts as having completed one of parity 1.
CMSEI_DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
}

// The map's box at (column, row) into the shared memory of the cluster's blocks that `ranks` has bits of, in each where
// `to` lies in this block's, its bytes counted by the barrier where `barrier` lies. Outside the matrix there are zeros,
// whose bytes count too.
CMSEI_DEVICE void load_tile(const CUtensorMap& map, void* to, uint64_t* barrier, int column, int row, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;"
      :
      : "r"(shared_address(to)), "l"(reinterpret_cast<uint64_t>(&map)), "r"(shared_address(barrier)), "r"(column),
        "r"(row), "h"(ranks)
      : "memory");
}
// What this thread wrote to its block's shared memory comes before what TMA writes there, whichever block loads.
CMSEI_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// A barrier of the 128 threads that multiply.
CMSEI_DEVICE void sync_consumers() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// Sets how many registers a thread of this warpgroup has from here on; all its threads must call it.
template <int kCount>
CMSEI_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
CMSEI_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

template <class Number>
struct Sums {
  static constexpr int kCount = 72;
  Number x[kCount];
};
using Accumulators = Sums<float>;
using WholeAccumulators = Sums<int32_t>;

CMSEI_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CMSEI_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until all groups but the last kPending are done.
template <int kPending>
CMSEI_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Waits until all are done; the compiler must not read the sums earlier.
CMSEI_DEVICE void wgmma_finish(Accumulators& sums) {
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < Accumulators::kCount; ++i) asm volatile("" : "+f"(sums.x[i])::"memory");
}
CMSEI_DEVICE void wgmma_finish(WholeAccumulators& sums) {
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < WholeAccumulators::kCount; ++i) asm volatile("" : "+r"(sums.x[i])::"memory");
}

// "+f", "+r" or "=f" of each sum.
#define CMSEI_ADDED(x) "+f"(x)
#define CMSEI_ADDED_WHOLE(x) "+r"(x)
#define CMSEI_WRITTEN(x) "=f"(x)
#define CMSEI_SUMS(set)                                                                                               \
  set(sums.x[0]), set(sums.x[1]), set(sums.x[2]), set(sums.x[3]), set(sums.x[4]), set(sums.x[5]),                     \
  set(sums.x[6]), set(sums.x[7]), set(sums.x[8]), set(sums.x[9]), set(sums.x[10]), set(sums.x[11]),                   \
  set(sums.x[12]), set(sums.x[13]), set(sums.x[14]), set(sums.x[15]), set(sums.x[16]), set(sums.x[17]),               \
  set(sums.x[18]), set(sums.x[19]), set(sums.x[20]), set(sums.x[21]), set(sums.x[22]), set(sums.x[23]),               \
  set(sums.x[24]), set(sums.x[25]), set(sums.x[26]), set(sums.x[27]), set(sums.x[28]), set(sums.x[29]),               \
  set(sums.x[30]), set(sums.x[31]), set(sums.x[32]), set(sums.x[33]), set(sums.x[34]), set(sums.x[35]),               \
  set(sums.x[36]), set(sums.x[37]), set(sums.x[38]), set(sums.x[39]), set(sums.x[40]), set(sums.x[41]),               \
  set(sums.x[42]), set(sums.x[43]), set(sums.x[44]), set(sums.x[45]), set(sums.x[46]), set(sums.x[47]),               \
  set(sums.x[48]), set(sums.x[49]), set(sums.x[50]), set(sums.x[51]), set(sums.x[52]), set(sums.x[53]),               \
  set(sums.x[54]), set(sums.x[55]), set(sums.x[56]), set(sums.x[57]), set(sums.x[58]), set(sums.x[59]),               \
  set(sums.x[60]), set(sums.x[61]), set(sums.x[62]), set(sums.x[63]), set(sums.x[64]), set(sums.x[65]),               \
  set(sums.x[66]), set(sums.x[67]), set(sums.x[68]), set(sums.x[69]), set(sums.x[70]), set(sums.x[71])
#define CMSEI_WGMMA(instruction, options, add, set)                                                                   \
  asm volatile(                                                                                                       \
      "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n144" instruction " {"           \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "                                                          \
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "                                                \
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "                                                \
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                                \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "                                                \
        "%60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71}, %72, %73, p" options ";\n}\n"                   \
      : CMSEI_SUMS(set)                                                                                               \
      : "l"(words), "l"(regions))

// sums (64, 144) += words (64, 16) · regions (144, 16)ᵀ, by a warpgroup.
template <bool kHalf>
CMSEI_DEVICE void wgmma(Accumulators& sums, uint64_t words, uint64_t regions) {
  if (kHalf)
    CMSEI_WGMMA("k16.f32.f16.f16", ", 1, 1, 0, 0", "1", CMSEI_ADDED);
  else
    CMSEI_WGMMA("k16.f32.bf16.bf16", ", 1, 1, 0, 0", "1", CMSEI_ADDED);
}

// sums (64, 144) = or += words (64, 32) · regions (144, 32)ᵀ of e4m3, by a warpgroup.
template <bool kFirst>
CMSEI_DEVICE void wgmma_e4m3(Accumulators& sums, uint64_t words, uint64_t regions) {
  if (kFirst)
    CMSEI_WGMMA("k32.f32.e4m3.e4m3", ", 1, 1", "0", CMSEI_WRITTEN);
  else
    CMSEI_WGMMA("k32.f32.e4m3.e4m3", ", 1, 1", "1", CMSEI_ADDED);
}

// sums (64, 144) += words (64, 32) · regions (144, 32)ᵀ of signed whole numbers, exactly, by a warpgroup.
CMSEI_DEVICE void wgmma_int8(WholeAccumulators& sums, uint64_t words, uint64_t regions) {
  CMSEI_WGMMA("k32.s32.s8.s8", "", "1", CMSEI_ADDED_WHOLE);
}

#undef CMSEI_ADDED
#undef CMSEI_ADDED_WHOLE
#undef CMSEI_WRITTEN
#undef CMSEI_SUMS
#undef CMSEI_WGMMA

}  // namespace cmsei::device
