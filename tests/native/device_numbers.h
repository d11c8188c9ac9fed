// Functions of float32 as a device has them, to the rounding of the last places: what they make of NaN, of infinities
// and of numbers below the normal ones. Stands in for those of csrc/include/scalar_math.h.
#pragma once

#include <cmath>
#include <limits>

#define CMSEI_OWN_FLOATS

namespace cmsei::scalar {

inline float flushed(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

inline float max(float a, float b) { return std::fmax(a, b); }
inline float within(float x, float most) {
  if (std::isnan(x) || std::isnan(most)) return NAN;
  return std::fabs(x) > most ? std::copysign(most, x) : x;
}
inline float sqrt(float x) { return std::sqrt(flushed(x)); }
inline float exp2(float x) { return flushed(std::exp2(flushed(x))); }
inline float exp(float x) { return exp2(x * 1.44269504088896340736f); }
inline float log(float x) { return flushed(std::log2(flushed(x))) * 0.693147180559945309417f; }
inline float divide(float a, float b) { return a * flushed(1 / flushed(b)); }

}  // namespace cmsei::scalar
