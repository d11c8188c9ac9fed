// Numbers of 16 bits.
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

}  // namespace cmsei::device
