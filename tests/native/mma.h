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
// Lanes that came to each of the ways that a kernel's text tells apart.
static int64_t counted[16];
static void count(int way) { ++counted[way]; }
static int distance(const float* from, const float* to) { return static_cast<int>(to - from); }

// The sum of products and of what was there, each cut to `bits` below the largest one's exponent, and so is the sum to
// float32: tensor cores align what they add and do not round it to the nearest.
static int sum_bits = 0;  // of products of 16 bits and of tf32, where not 0; 24: none beyond float32's own
static float aligned_sum(float sum, const float* left, const float* right, int depth, int bits) {
  double terms[65] = {sum};
  for (int k = 0; k < depth; ++k) terms[k + 1] = static_cast<double>(left[k]) * right[k];
  int top = -1000;
  for (int k = 0; k <= depth; ++k)
    if (std::isfinite(terms[k]) && terms[k] != 0) top = std::max(top, std::ilogb(terms[k]));
  const int shift = bits - 1 - top;
  double out = 0;
  for (int k = 0; k <= depth; ++k)
    out += std::isfinite(terms[k]) ? std::ldexp(std::trunc(std::ldexp(terms[k], shift)), -shift) : terms[k];
  const float near = static_cast<float>(out);
  return std::fabs(near) > std::fabs(out) ? std::nextafter(near, 0.0f) : near;
}

template <bool kHalf>
static void multiply(float (&sums)[4], const uint32_t (&left)[4], const uint32_t* right) {
  const int lane = block->current % 32;
  const Operands* const of = gathered(left, right, kMultiply);
  const auto half = [](uint32_t x, int k) { return number(static_cast<uint16_t>(x >> (k % 2 * 16)), kHalf); };
  for (int i = 0; i < 4; ++i) {
    const int row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
    float l[16], r[16];
    for (int k = 0; k < 16; ++k) {
      const uint32_t a = of[row % 8 * 4 + k % 8 / 2].left[row / 8 + 2 * (k / 8)];
      const uint32_t b = of[column * 4 + k % 8 / 2].right[k / 8];
      l[k] = half(a, k);
      r[k] = half(b, k);
      if (!sum_bits) sums[i] += l[k] * r[k];
    }
    if (sum_bits) sums[i] = aligned_sum(sums[i], l, r, 16, sum_bits);
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
    float l[8], r[8];
    for (int k = 0; k < 8; ++k) {
      l[k] = tf32(of[row % 8 * 4 + k % 4].left[row / 8 + 2 * (k / 4)]);
      r[k] = tf32(of[column * 4 + k % 4].right[k / 4]);
      if (!sum_bits) sums[i] += l[k] * r[k];
    }
    if (sum_bits) sums[i] = aligned_sum(sums[i], l, r, 8, sum_bits);
  }
}

}  // namespace cmsei::device
