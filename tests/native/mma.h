// What mma.sync does, as the PTX ISA documents it, for warps that run as fibers. Stands in for csrc/cuda/mma.cuh.
#pragma once

#include "fibers.h"
#include "numbers.h"

namespace cmsei::device {

struct Operands {
  uint32_t left[4], right[2];
};
// Of each thread of a cluster; an instruction and the one after it take turns, so that one barrier keeps them apart.
constexpr int kMostThreads = 256;  // of a block
static Operands operands[2][8 * kMostThreads];
static int turn[8 * kMostThreads];

// The operands of all threads, once the thread's warp has given its own.
template <class Left>
static const Operands* gathered(const Left (&left)[4], const Left* right, Together what) {
  const int self = block->rank * kMostThreads + block->current;
  Operands* const all = operands[turn[self] ^= 1];
  std::memcpy(all[self].left, left, sizeof left);
  std::memcpy(all[self].right, right, sizeof all[self].right);
  sync_warp(what);
  return all + (self - self % 32);
}

template <class T>
static T opaque(T x) {
  return x;
}

[[maybe_unused]] static float any() { return NAN; }

template <bool kHalf>
static void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) {
  const int lane = block->current % 32;
  const Operands* const of = gathered(left, right, kMultiply);
  const auto half = [](uint32_t x, int k) { return number(static_cast<uint16_t>(x >> (k % 2 * 16)), kHalf); };
  for (int i = 0; i < 4; ++i) {
    const int row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
    for (int k = 0; k < 16; ++k) {
      const uint32_t a = of[row % 8 * 4 + k % 8 / 2].left[row / 8 + 2 * (k / 8)];
      const uint32_t b = of[column * 4 + k % 8 / 2].right[k / 8];
      sums[i] += half(a, k) * half(b, k);
    }
  }
}

// The tensor cores do not see the other 13 bits.
static float tf32(uint32_t bits) {
  bits &= 0xffffe000u;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

static void multiply(float (&sums)[4], const float (&left)[4], const float (&right)[2]) {
  const int lane = block->current % 32;
  const Operands* const of = gathered(left, right, kMultiplyTf32);
  for (int i = 0; i < 4; ++i) {
    const int row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
    for (int k = 0; k < 8; ++k)
      sums[i] += tf32(of[row % 8 * 4 + k % 4].left[row / 8 + 2 * (k / 4)]) *
                 tf32(of[column * 4 + k % 4].right[k / 4]);
  }
}

}  // namespace cmsei::device
