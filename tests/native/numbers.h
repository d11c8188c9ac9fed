// Numbers of 16 bits, and e4m3.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace cmsei::device {

// The value of a float16, or of a bfloat16.
static float number(uint16_t bits, bool half) {
  uint32_t u = static_cast<uint32_t>(bits) << 16;
  if (half) {
    const uint32_t sign = u & 0x80000000u, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) {
      const float x = std::ldexp(static_cast<float>(fraction), -24);
      return sign ? -x : x;
    }
    u = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
  }
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

// The value of an e4m3 number (OCP FP8, finite: no infinities, NaN where all bits but the sign are 1).
[[maybe_unused]] static float number_e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  if (exponent == 15 && fraction == 7) return NAN;
  const float x = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return bits & 128 ? -x : x;
}

}  // namespace cmsei::device
