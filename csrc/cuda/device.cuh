// The primitives that kernels' texts are written in. On a host, functions of the same names and contracts take their
// place (tests/native).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#define CMSEI_DEVICE __device__ __forceinline__

namespace cmsei::device {

CMSEI_DEVICE void sync_block() { __syncthreads(); }
CMSEI_DEVICE void sync_warp() { __syncwarp(); }
template <typename T>
CMSEI_DEVICE T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}

template <typename T>
CMSEI_DEVICE T shuffle(T x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
// Whether `yes` is true in all lanes of the warp.
CMSEI_DEVICE bool all(bool yes) { return __all_sync(0xffffffffu, yes); }

}  // namespace cmsei::device
