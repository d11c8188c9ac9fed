// Products of matrices by one warp, from sm_80 on: what the pairs' kernels have beside device.cuh.
#pragma once

#include "device.cuh"

namespace cmsei::device {

// The same number, hidden from the compiler, so that it computes nothing from it before this point.
CMSEI_DEVICE int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
CMSEI_DEVICE float opaque(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
// The same for a pointer to the device's memory.
CMSEI_DEVICE const float* opaque(const float* x) {
  asm volatile("" : "+l"(x));
  __builtin_assume(__isGlobal(x));
  return x;
}

// Counts a lane that comes here, in the host's model of the GPU only.
CMSEI_DEVICE void count(int) {}

// How many numbers one place in shared memory lies behind another.
CMSEI_DEVICE int distance(const float* from, const float* to) {
  return (static_cast<int>(__cvta_generic_to_shared(to)) - static_cast<int>(__cvta_generic_to_shared(from))) / 4;
}

// sums (16, 8) += left (16, 16) · right (8, 16)ᵀ, by a warp.
template <bool kHalf>
CMSEI_DEVICE void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) {
  if (kHalf)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// sums (16, 8) += left (16, 8) · right (8, 8), by a warp, of the leading 19 bits of each number.
CMSEI_DEVICE void multiply(float (&sums)[4], const float (&left)[4], const float (&right)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(left[0])), "r"(__float_as_uint(left[1])), "r"(__float_as_uint(left[2])),
        "r"(__float_as_uint(left[3])), "r"(__float_as_uint(right[0])), "r"(__float_as_uint(right[1])));
}

}  // namespace cmsei::device
