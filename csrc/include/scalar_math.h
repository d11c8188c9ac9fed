// Functions of one number. On a host they are the library's. On a device, those of float32 take one or two instructions
// where the library's take five to ten, since a pair of 12 words and 36 regions needs hundreds of them. They are wrong
// by at most two units in the last place (exp of x by as much as rounding x itself is worth) and take numbers below the
// normal ones as 0.
// CMSEI_OWN_FLOATS: the file that includes this has defined those of float32.
#pragma once

#if defined(__CUDACC__)
#define CMSEI_FORMULA __host__ __device__ __forceinline__
#else
#define CMSEI_FORMULA inline __attribute__((always_inline))
#endif

#include <math.h>

namespace cmsei::scalar {

CMSEI_FORMULA double max(double a, double b) { return a > b ? a : b; }
CMSEI_FORMULA double sqrt(double x) { return ::sqrt(x); }
CMSEI_FORMULA double exp(double x) { return ::exp(x); }
CMSEI_FORMULA double exp2(double x) { return ::exp2(x); }
CMSEI_FORMULA double log(double x) { return ::log(x); }
CMSEI_FORMULA double divide(double a, double b) { return a / b; }
// x clamped to [-most, most]; NaN stays NaN.
CMSEI_FORMULA double within(double x, double most) { return x > most ? most : x < -most ? -most : x; }

// a · b, rounded: on a device never part of a multiply-add, which would use the unrounded product.
#if defined(__CUDA_ARCH__)
CMSEI_FORMULA double rounded_product(double a, double b) { return ::__dmul_rn(a, b); }
CMSEI_FORMULA float rounded_product(float a, float b) { return ::__fmul_rn(a, b); }
#else
template <class S> CMSEI_FORMULA S rounded_product(S a, S b) { return a * b; }
#endif

#if defined(__CUDA_ARCH__)
// The max of NaN and x is x.
CMSEI_FORMULA float max(float a, float b) { return ::fmaxf(a, b); }
// NaN where x or most is NaN.
CMSEI_FORMULA float within(float x, float most) {
#if __CUDA_ARCH__ >= 860
    asm("min.NaN.xorsign.abs.f32 %0, %0, %1;" : "+f"(x) : "f"(most));
#else
    asm("min.NaN.f32 %0, %0, %1;\n\tmax.NaN.f32 %0, %0, %2;" : "+f"(x) : "f"(most), "f"(-most));
#endif
    return x;
}
CMSEI_FORMULA float sqrt(float x) {
    asm("sqrt.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
CMSEI_FORMULA float exp2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}
CMSEI_FORMULA float log(float x) {
    asm("lg2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x * 0.693147180559945309417f;
}
// 0 for a divisor above 2^126, whose reciprocal is below the normal numbers. Only a sigmoid can have one, and is
// as good as 0 then. The largest others are a cosine's, |Q| |U|, times the sum of the weights where U is not yet
// divided by it: within the range of docs/scores.md, they are below 2^76.
CMSEI_FORMULA float divide(float a, float b) {
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(b));
    return a * b;
}
CMSEI_FORMULA float exp(float x) { return exp2(x * 1.44269504088896340736f); }
#elif !defined(CMSEI_OWN_FLOATS)
CMSEI_FORMULA float max(float a, float b) { return a > b ? a : b; }
CMSEI_FORMULA float within(float x, float most) { return x > most ? most : x < -most ? -most : x; }
CMSEI_FORMULA float sqrt(float x) { return ::sqrtf(x); }
CMSEI_FORMULA float exp(float x) { return ::expf(x); }
CMSEI_FORMULA float exp2(float x) { return ::exp2f(x); }
CMSEI_FORMULA float log(float x) { return ::logf(x); }
CMSEI_FORMULA float divide(float a, float b) { return a / b; }
#endif

}  // namespace cmsei::scalar
