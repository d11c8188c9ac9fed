// One vector width per instruction set: the compiler lowers these to SSE2, AVX2, AVX-512 or NEON.
// Included only by files that are compiled once per variant (CMSEI_ISA, CMSEI_VECTOR_BYTES).
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#if defined(__AVX2__)
#if defined(__clang__)
#include <immintrin.h>
#else
// GCC takes the undefined operand that its own header passes on for an oversight.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef CMSEI_ISA
#define CMSEI_ISA baseline
#endif
#ifndef CMSEI_VECTOR_BYTES
#define CMSEI_VECTOR_BYTES 16
#endif

// How many vector registers there are.
#ifndef CMSEI_REGISTERS
#if CMSEI_VECTOR_BYTES == 64 || defined(__aarch64__)
#define CMSEI_REGISTERS 32
#else
#define CMSEI_REGISTERS 16
#endif
#endif

#define CMSEI_INLINE inline __attribute__((always_inline))

namespace cmsei {
namespace CMSEI_ISA {

template <class T> struct IntOf;
template <> struct IntOf<float> { using type = int32_t; };
template <> struct IntOf<double> { using type = int64_t; };

#if defined(__clang__)
template <class T, class Place, int... I>
CMSEI_INLINE T shuffled_lanes(T a, T b, Place place, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, place(I)...);
}
#endif

// Lane i of the result is lane place(i) of a and b, whose lanes come after a's; a constant.
template <int W, class T, class Place> CMSEI_INLINE T shuffled(T a, T b, Place place) {
#if defined(__clang__)
    return shuffled_lanes(a, b, place, std::make_integer_sequence<int, W>());
#else
    decltype(a < b) places;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) places[i] = place(i);
    return __builtin_shuffle(a, b, places);
#endif
}

// The math policy of csrc/include/pair_math.h over a register of W lanes.
template <class Scalar> struct Simd {
    using S = Scalar;
    using Int = typename IntOf<S>::type;
    static constexpr int W = CMSEI_VECTOR_BYTES / sizeof(S);
    typedef S T __attribute__((vector_size(CMSEI_VECTOR_BYTES)));
    typedef Int Mask __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

    // Lanes anywhere in memory. The compiler may assume that a store of them changes only numbers of their type; a
    // store of bytes could change the pointers and sizes of a loop, which would then be read again each time.
    typedef S Lanes __attribute__((vector_size(CMSEI_VECTOR_BYTES), aligned(sizeof(S))));
    static CMSEI_INLINE T load(const S* p) { return *reinterpret_cast<const Lanes*>(p); }
    static CMSEI_INLINE void store(S* p, T v) { *reinterpret_cast<Lanes*>(p) = v; }
    static CMSEI_INLINE T set(S x) { return x - T{}; }
    static CMSEI_INLINE T zero() { return T{}; }
    static CMSEI_INLINE T select(Mask m, T a, T b) { return m ? a : b; }
    // x, a product, rounded: it does not become part of a multiply-add, which would use the unrounded product.
    static CMSEI_INLINE T rounded(T x) {
#if defined(CMSEI_EMULATE_512)
        asm("" : "+m"(x)); // wider than a register
#elif defined(__x86_64__)
        asm("" : "+v"(x));
#elif defined(__aarch64__)
        asm("" : "+w"(x));
#endif
        return x;
    }
    // a > b ? a : b, so b if one is NaN: one instruction, which compilers do not make of it.
    static CMSEI_INLINE T max(T a, T b) {
#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512F__)
        if constexpr (sizeof(S) == 4)
            return (T)_mm512_max_ps((__m512)a, (__m512)b);
        else
            return (T)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif CMSEI_VECTOR_BYTES == 32 && defined(__AVX2__)
        if constexpr (sizeof(S) == 4)
            return (T)_mm256_max_ps((__m256)a, (__m256)b);
        else
            return (T)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
        return a > b ? a : b;
#endif
    }
    static CMSEI_INLINE T min(T a, T b) {
#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512F__)
        if constexpr (sizeof(S) == 4)
            return (T)_mm512_min_ps((__m512)a, (__m512)b);
        else
            return (T)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif CMSEI_VECTOR_BYTES == 32 && defined(__AVX2__)
        if constexpr (sizeof(S) == 4)
            return (T)_mm256_min_ps((__m256)a, (__m256)b);
        else
            return (T)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
        return a < b ? a : b;
#endif
    }
    static CMSEI_INLINE T divide(T a, T b) { return a / b; }
    static CMSEI_INLINE T abs(T a) { return max(a, -a); }
    static CMSEI_INLINE T sqrt(T a) {
        T v;
        for (int i = 0; i < W; ++i) v[i] = sizeof(S) == 4 ? (S)__builtin_sqrtf((float)a[i]) : (S)__builtin_sqrt(a[i]);
        return v;
    }
    // How many lanes are true.
    static CMSEI_INLINE long count(Mask m) {
#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512F__)
        return __builtin_popcount(sizeof(S) == 4 ? _mm512_test_epi32_mask((__m512i)m, (__m512i)m)
                                                 : _mm512_test_epi64_mask((__m512i)m, (__m512i)m));
#else
        Int all = 0;
        for (int i = 0; i < W; ++i) all -= m[i];
        return static_cast<long>(all);
#endif
    }
    // Stores the lanes of x that are true to p, one behind the other; up to W lanes of p are overwritten.
    static CMSEI_INLINE void compress(S* p, Mask m, T x) {
#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512F__)
        if constexpr (sizeof(S) == 4)
            store(p, (T)_mm512_maskz_compress_ps(_mm512_test_epi32_mask((__m512i)m, (__m512i)m), (__m512)x));
        else
            store(p, (T)_mm512_maskz_compress_pd(_mm512_test_epi64_mask((__m512i)m, (__m512i)m), (__m512d)x));
#else
        for (int i = 0; i < W; ++i) {
            *p = x[i];
            p -= m[i];
        }
#endif
    }
    // Lanes 0..n-1 true.
    static CMSEI_INLINE Mask first(long n) {
        Mask lane;
        for (int i = 0; i < W; ++i) lane[i] = i;
        return lane < static_cast<Int>(n < W ? n : W);
    }
    // v rotated by Half lanes: lane i of the result is lane i + Half, the first lanes coming after the last.
    template <int Half> static CMSEI_INLINE T turned(T v) {
        return shuffled<W>(v, v, [](int i) { return (i + Half) % W; });
    }
    // Lane i of the result is lane from[i] of v.
    static CMSEI_INLINE T lookup(T v, Mask from) {
#if defined(__aarch64__) && CMSEI_VECTOR_BYTES == 16
        // The bytes of each lane. There is no product of lanes of 64 bits, and `from` is 0 or 1 in them.
        const Mask first = sizeof(S) == 4 ? from * static_cast<Int>(0x04040404)
                                          : (Mask{} - from) & static_cast<Int>(0x0808080808080808);
        return (T)vqtbl1q_u8((uint8x16_t)v, (uint8x16_t)(first + static_cast<Int>(0x0706050403020100)));
#elif defined(__clang__)
        T x;
        for (int i = 0; i < W; ++i) x[i] = v[from[i]];
        return x;
#else
        return __builtin_shuffle(v, from);
#endif
    }
    // Lane i, a constant, in all lanes.
    static CMSEI_INLINE T spread(T v, int i) {
#if defined(__clang__)
        return set(v[i]);
#else
        return __builtin_shuffle(v, Mask{} + static_cast<Int>(i));
#endif
    }
    template <int Half = W / 2> static CMSEI_INLINE S sum(T v) {
        if constexpr (Half == 0)
            return v[0];
        else
            return sum<Half / 2>(v + turned<Half>(v));
    }
    template <int Half = W / 2> static CMSEI_INLINE S largest(T v) {
        if constexpr (Half == 0)
            return v[0];
        else
            return largest<Half / 2>(max(turned<Half>(v), v));
    }
    static CMSEI_INLINE T exp(T x);
    static CMSEI_INLINE T exp2(T x);
    static CMSEI_INLINE T exp2_within(T x); // of numbers between -100 and 100
    static CMSEI_INLINE T sigmoid(T x) { return 1 / (1 + exp(-x)); }
};

// Adding `round` to a number rounds it to a whole number; the last bits of the sum are then those of 2^n's exponent.
template <class S> struct ExpConstants;
template <> struct ExpConstants<float> {
    static constexpr float lowest = -87.0f, highest = 88.0f, round = 12582912.0f + 127.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr int mantissa = 23, terms = 8;
    static constexpr float poly[terms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                          1.6666665459e-1f, 5.0000001201e-1f, 1.0f,             1.0f};
};
template <> struct ExpConstants<double> {
    static constexpr double lowest = -708.0, highest = 709.0, round = 6755399441055744.0 + 1023.0;
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
    static constexpr int mantissa = 52, terms = 14;
    static constexpr double poly[terms] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                           1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                           1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5,
                                           1.0,                1.0};
};

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.693147180559945309417;

#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512DQ__)
// 2^x from 2^(x - floor(x)), a polynomial that is right to half a unit in the last place.
template <> CMSEI_INLINE Simd<float>::T Simd<float>::exp2_within(T x) {
    constexpr float poly[] = {2.1702253106e-4f, 1.2439688514e-3f, 9.6788409215e-3f, 5.5483342022e-2f,
                              2.4022983627e-1f, 6.9314698384e-1f, 1.0f};
    const T r = (T)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);
    T p = set(poly[0]);
#pragma GCC unroll 8
    for (int i = 1; i < 7; ++i) p = p * r + poly[i];
    return (T)_mm512_scalef_ps((__m512)p, (__m512)x);
}
// 2^x clamped to between 2^-126 and 2^120; NaN stays NaN.
template <> CMSEI_INLINE Simd<float>::T Simd<float>::exp2(T x) {
    return exp2_within(min(set(120.0f), max(set(-126.0f), x)));
}
template <> CMSEI_INLINE Simd<float>::T Simd<float>::exp(T x) { return exp2(x * static_cast<float>(kLog2E)); }
#endif

template <class S> CMSEI_INLINE typename Simd<S>::T Simd<S>::exp2(T x) { return exp(x * static_cast<S>(kLn2)); }
template <class S> CMSEI_INLINE typename Simd<S>::T Simd<S>::exp2_within(T x) { return exp2(x); }

// exp by Cody-Waite reduction; below `lowest` it returns exp(lowest), the smallest normal numbers' neighbourhood.
template <class S> CMSEI_INLINE typename Simd<S>::T Simd<S>::exp(T x) {
    using C = ExpConstants<S>;
    // NaN stays NaN.
    x = max(set(C::lowest), x);
    x = min(set(C::highest), x);
    const T shifted = x * static_cast<S>(kLog2E) + C::round;
    const T n = shifted - C::round;
    const T r = (x - n * C::ln2_high) - n * C::ln2_low;
    // 2^n, whose exponent is in the last bits of `shifted`. It is multiplied in, as a NaN's last bits may be any.
    const T power = (T)((Mask)shifted << C::mantissa);
    T p = set(C::poly[0]);
    for (int i = 1; i + 1 < C::terms; ++i) p = p * r + C::poly[i];
    return p * (r * power) + power;
}

// Sets the sums of a register tile to 0 in registers: an initialiser would go by way of memory.
template <class S, int M, int NV> CMSEI_INLINE void clear(typename Simd<S>::T (&sum)[M][NV]) {
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) sum[i][j] = Simd<S>::zero();
}

// For each run of 2 * Half lanes: the sums of a's first and last Half lanes, then those of b's.
template <class S, int Half>
CMSEI_INLINE typename Simd<S>::T half_sums(typename Simd<S>::T a, typename Simd<S>::T b) {
    constexpr int W = Simd<S>::W;
    using T = typename Simd<S>::T;
    // A blend and a shuffle: two shuffles would share one port.
    const T own = shuffled<W>(a, b, [](int i) { return i & Half ? W + i : i; });
    const T other = shuffled<W>(a, b, [](int i) { return i & Half ? W + i - Half : i + Half; });
    return own + other;
}

// The sums over the lanes of W registers; v is overwritten.
template <class S, int Half = Simd<S>::W / 2> CMSEI_INLINE typename Simd<S>::T lane_sums(typename Simd<S>::T* v) {
    if constexpr (Half == 0) {
        return v[0];
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < Half; ++i) v[i] = half_sums<S, Half>(v[i], v[i + Half]);
        return lane_sums<S, Half / 2>(v);
    }
}

// For each run of 2 * Half lanes: its first (High: last) Half lanes of a, then those of b.
template <class S, int Half, bool High>
CMSEI_INLINE typename Simd<S>::T halves(typename Simd<S>::T a, typename Simd<S>::T b) {
    constexpr int W = Simd<S>::W;
    return shuffled<W>(a, b, [](int i) { return i & Half ? W + i - (High ? 0 : Half) : i + (High ? Half : 0); });
}

// W registers of W lanes as a matrix, transposed.
template <class S, int Half = Simd<S>::W / 2> CMSEI_INLINE void transpose_registers(typename Simd<S>::T* v) {
    if constexpr (Half > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < Simd<S>::W; ++i) {
            if (i & Half) continue;
            const typename Simd<S>::T low = halves<S, Half, false>(v[i], v[i + Half]);
            v[i + Half] = halves<S, Half, true>(v[i], v[i + Half]);
            v[i] = low;
        }
        transpose_registers<S, Half / 2>(v);
    }
}

// dst (cols × rows) = src (rows × cols) transposed, in W × W register blocks. Rows and lanes up to the next multiple of
// W are read and written: the callers' buffers are padded to that.
template <class S> CMSEI_INLINE void transpose(const S* src, long ld_src, long rows, long cols, S* dst, long ld_dst) {
    using V = Simd<S>;
    constexpr int W = V::W;
    for (long r0 = 0; r0 < rows; r0 += W)
        for (long c0 = 0; c0 < cols; c0 += W) {
            typename V::T a[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) a[i] = V::load(src + (r0 + i) * ld_src + c0);
            transpose_registers<S>(a);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) V::store(dst + (c0 + i) * ld_dst + r0, a[i]);
        }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
