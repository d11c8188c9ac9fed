// One vector width per instruction set: the compiler lowers these to SSE2, AVX2, AVX-512 or NEON.
// Included only by files that are compiled once per variant (CMSEI_ISA, CMSEI_VECTOR_BYTES).
#pragma once

#include <cmath>
#include <cstdint>

#ifndef CMSEI_ISA
#define CMSEI_ISA baseline
#endif
#ifndef CMSEI_VECTOR_BYTES
#define CMSEI_VECTOR_BYTES 16
#endif

#define CMSEI_INLINE inline __attribute__((always_inline))

namespace cmsei {
namespace CMSEI_ISA {

template <class T> struct IntOf;
template <> struct IntOf<float> { using type = int32_t; };
template <> struct IntOf<double> { using type = int64_t; };

// The math policy of csrc/include/pair_math.h over a register of W lanes.
template <class Scalar> struct Simd {
    using S = Scalar;
    using Int = typename IntOf<S>::type;
    static constexpr int W = CMSEI_VECTOR_BYTES / sizeof(S);
    typedef S T __attribute__((vector_size(CMSEI_VECTOR_BYTES)));
    typedef Int Mask __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

    static CMSEI_INLINE T load(const S* p) {
        T v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
    static CMSEI_INLINE void store(S* p, T v) { __builtin_memcpy(p, &v, sizeof v); }
    static CMSEI_INLINE T set(S x) { return x - T{}; }
    static CMSEI_INLINE T zero() { return T{}; }
    static CMSEI_INLINE T select(Mask m, T a, T b) { return m ? a : b; }
    static CMSEI_INLINE T max(T a, T b) { return a > b ? a : b; }
    static CMSEI_INLINE T abs(T a) { return a < 0 ? -a : a; }
    static CMSEI_INLINE T sqrt(T a) {
        T v;
        for (int i = 0; i < W; ++i) v[i] = sizeof(S) == 4 ? (S)__builtin_sqrtf((float)a[i]) : (S)__builtin_sqrt(a[i]);
        return v;
    }
    // Lanes 0..n-1 true.
    static CMSEI_INLINE Mask first(long n) {
        Mask lane;
        for (int i = 0; i < W; ++i) lane[i] = i;
        return lane < static_cast<Int>(n < W ? n : W);
    }
    static CMSEI_INLINE S sum(T v) {
        S buf[W];
        store(buf, v);
        for (int h = W / 2; h > 0; h /= 2)
            for (int i = 0; i < h; ++i) buf[i] += buf[i + h];
        return buf[0];
    }
    static CMSEI_INLINE S largest(T v) {
        S x = v[0];
        for (int i = 1; i < W; ++i) x = x > v[i] ? x : v[i];
        return x;
    }
    static CMSEI_INLINE T exp(T x);
    static CMSEI_INLINE T sigmoid(T x) { return 1 / (1 + exp(-x)); }
};

template <class S> struct ExpConstants;
template <> struct ExpConstants<float> {
    static constexpr float lowest = -87.0f, highest = 88.0f, round = 12582912.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr int mantissa = 23, terms = 8;
    static constexpr float poly[terms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                          1.6666665459e-1f, 5.0000001201e-1f, 1.0f,             1.0f};
};
template <> struct ExpConstants<double> {
    static constexpr double lowest = -708.0, highest = 709.0, round = 6755399441055744.0;
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
    static constexpr int mantissa = 52, terms = 14;
    static constexpr double poly[terms] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                           1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                           1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5,
                                           1.0,                1.0};
};

// exp by Cody-Waite reduction; below `lowest` it returns exp(lowest), the smallest normal numbers' neighbourhood.
template <class S> CMSEI_INLINE typename Simd<S>::T Simd<S>::exp(T x) {
    using C = ExpConstants<S>;
    x = x < C::lowest ? set(C::lowest) : x;
    x = x > C::highest ? set(C::highest) : x;
    const T shifted = x * (S)1.44269504088896340736 + C::round;
    const T n = shifted - C::round;
    const T r = (x - n * C::ln2_high) - n * C::ln2_low;
    T p = set(C::poly[0]);
    for (int i = 1; i < C::terms; ++i) p = p * r + C::poly[i];
    return (T)((Mask)p + ((Mask)shifted << C::mantissa));
}

// dst (n × rows_padded) = src (rows × n_padded) transposed, in W × W register blocks. Rows and lanes up to the next
// multiple of W are read and written: the callers' buffers are padded to that.
template <class S> CMSEI_INLINE void transpose(const S* src, long ld_src, long rows, long cols, S* dst, long ld_dst) {
    using V = Simd<S>;
    constexpr int W = V::W;
    for (long r0 = 0; r0 < rows; r0 += W)
        for (long c0 = 0; c0 < cols; c0 += W) {
            typename V::T a[W], b[W];
            typename V::Mask low, high;
            for (int i = 0; i < W; ++i) {
                low[i] = i / 2 + (i % 2) * W;
                high[i] = W / 2 + i / 2 + (i % 2) * W;
            }
            for (int i = 0; i < W; ++i) a[i] = V::load(src + (r0 + i) * ld_src + c0);
            // log2(W) perfect shuffles of the rows (i with i + W/2) are a transposition.
            for (int stage = 1; stage < W; stage *= 2) {
                for (int i = 0; i < W / 2; ++i) {
#if defined(__clang__)
                    for (int k = 0; k < W; ++k) {
                        b[2 * i][k] = k % 2 ? a[i + W / 2][k / 2] : a[i][k / 2];
                        b[2 * i + 1][k] = k % 2 ? a[i + W / 2][W / 2 + k / 2] : a[i][W / 2 + k / 2];
                    }
#else
                    b[2 * i] = __builtin_shuffle(a[i], a[i + W / 2], low);
                    b[2 * i + 1] = __builtin_shuffle(a[i], a[i + W / 2], high);
#endif
                }
                for (int i = 0; i < W; ++i) a[i] = b[i];
            }
            for (int i = 0; i < W; ++i) V::store(dst + (c0 + i) * ld_dst + r0, a[i]);
        }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
