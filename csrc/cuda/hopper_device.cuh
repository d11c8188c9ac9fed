// The instructions that only sm_90a has: what hopper_pair.cuh is written in, beside device.cuh.
#pragma once

#include <cuda.h>

#include "device.cuh"

namespace cmsei::device {

CMSEI_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Barriers in shared memory count arrivals and, where asked to, bytes that TMA writes; they complete phase after phase.
CMSEI_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes barriers that were initialised known to TMA.
CMSEI_DEVICE void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
CMSEI_DEVICE void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
CMSEI_DEVICE void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity is complete; of a new barrier, that of parity 1 is.
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

// The map's box at (column, row) into shared memory; outside the matrix there are zeros, whose bytes count too.
CMSEI_DEVICE void load_tile(const CUtensorMap& map, void* to, uint64_t* barrier, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
      :
      : "r"(shared_address(to)), "l"(reinterpret_cast<uint64_t>(&map)), "r"(shared_address(barrier)), "r"(column),
        "r"(row)
      : "memory");
}
CMSEI_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// A barrier of the 128 threads that multiply.
CMSEI_DEVICE void sync_consumers() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// Registers that a thread of this warpgroup has from here on; all its threads say so.
template <int kCount>
CMSEI_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
CMSEI_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

struct Accumulators {
  static constexpr int kCount = 72;
  float x[kCount];
};

CMSEI_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CMSEI_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until all groups but the last kPending are done.
template <int kPending>
CMSEI_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Until all are done: the compiler must not read the sums earlier.
CMSEI_DEVICE void wgmma_finish(Accumulators& sums) {
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < Accumulators::kCount; ++i) asm volatile("" : "+f"(sums.x[i])::"memory");
}

#define CMSEI_WGMMA(type)                                                                                             \
  asm volatile(                                                                                                       \
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n144k16.f32." type "." type " {"       \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "                                                          \
        "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "                                                \
        "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "                                                \
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                                \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "                                                \
        "%60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71}, %72, %73, p, 1, 1, 0, 0;\n}\n"                  \
      : "+f"(sums.x[0]), "+f"(sums.x[1]), "+f"(sums.x[2]), "+f"(sums.x[3]),                                           \
          "+f"(sums.x[4]), "+f"(sums.x[5]), "+f"(sums.x[6]), "+f"(sums.x[7]),                                         \
          "+f"(sums.x[8]), "+f"(sums.x[9]), "+f"(sums.x[10]), "+f"(sums.x[11]),                                       \
          "+f"(sums.x[12]), "+f"(sums.x[13]), "+f"(sums.x[14]), "+f"(sums.x[15]),                                     \
          "+f"(sums.x[16]), "+f"(sums.x[17]), "+f"(sums.x[18]), "+f"(sums.x[19]),                                     \
          "+f"(sums.x[20]), "+f"(sums.x[21]), "+f"(sums.x[22]), "+f"(sums.x[23]),                                     \
          "+f"(sums.x[24]), "+f"(sums.x[25]), "+f"(sums.x[26]), "+f"(sums.x[27]),                                     \
          "+f"(sums.x[28]), "+f"(sums.x[29]), "+f"(sums.x[30]), "+f"(sums.x[31]),                                     \
          "+f"(sums.x[32]), "+f"(sums.x[33]), "+f"(sums.x[34]), "+f"(sums.x[35]),                                     \
          "+f"(sums.x[36]), "+f"(sums.x[37]), "+f"(sums.x[38]), "+f"(sums.x[39]),                                     \
          "+f"(sums.x[40]), "+f"(sums.x[41]), "+f"(sums.x[42]), "+f"(sums.x[43]),                                     \
          "+f"(sums.x[44]), "+f"(sums.x[45]), "+f"(sums.x[46]), "+f"(sums.x[47]),                                     \
          "+f"(sums.x[48]), "+f"(sums.x[49]), "+f"(sums.x[50]), "+f"(sums.x[51]),                                     \
          "+f"(sums.x[52]), "+f"(sums.x[53]), "+f"(sums.x[54]), "+f"(sums.x[55]),                                     \
          "+f"(sums.x[56]), "+f"(sums.x[57]), "+f"(sums.x[58]), "+f"(sums.x[59]),                                     \
          "+f"(sums.x[60]), "+f"(sums.x[61]), "+f"(sums.x[62]), "+f"(sums.x[63]),                                     \
          "+f"(sums.x[64]), "+f"(sums.x[65]), "+f"(sums.x[66]), "+f"(sums.x[67]),                                     \
          "+f"(sums.x[68]), "+f"(sums.x[69]), "+f"(sums.x[70]), "+f"(sums.x[71])                                      \
      : "l"(words), "l"(regions))

// sums (64, 144) += words (64, 16) · regions (144, 16)ᵀ, by a warpgroup.
template <bool kHalf>
CMSEI_DEVICE void wgmma(Accumulators& sums, uint64_t words, uint64_t regions) {
  if (kHalf)
    CMSEI_WGMMA("f16");
  else
    CMSEI_WGMMA("bf16");
}

#undef CMSEI_WGMMA

}  // namespace cmsei::device
