// Rows rounded to whole numbers of 8 bits times a power of two, and their products' way back to float32. Included once
// per instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "../pack.h"

namespace cmsei {
namespace CMSEI_ISA {

using V = Simd<float>;
typedef V::Mask Whole; // a register of int32
typedef uint32_t Bits __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

constexpr float kLargest = 127;

// Numbers of a pass over the depth, the same in every kernel, so that all of them give inner products of the same bits:
// sums of at most 127² · 1,024 < 2²⁴ are exact in float32, and those of the passes are added up in it.
constexpr long kMostOfPass = 1024, kPassUnit = 64;
inline long pass_of(long depth) {
    return kPassUnit * even_part(divide_up(depth, kPassUnit), kMostOfPass / kPassUnit);
}

CMSEI_INLINE Whole load_whole(const int32_t* p) {
    Whole x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}

// c = or += sums of products · the scales of their row and columns: one after the other, as both together may leave
// float32's range where the inner product does not.
CMSEI_INLINE void store_product(Whole sums, float row, V::T columns, float* c, bool accumulate) {
    const V::T x = __builtin_convertvector(sums, V::T) * row * columns;
    V::store(c, accumulate ? V::load(c) + x : x);
}

// The row's whole numbers, the nearest with ties to even, and its scale: the least power of two at which none is beyond
// 127. For a row with a number that is not finite: NaN as the scale, and zeros. As engines/eight_bits.py.
template <class X> float quantise(const X* row, long depth, int8_t* out) {
    const Bits sign = Bits{} + 0x80000000u;
    Bits most = {};
    long k = 0;
    for (; k + V::W <= depth; k += V::W) {
        const Bits x = (Bits)load_wide<float>(row + k) & ~sign;
        most = x > most ? x : most;
    }
    uint32_t bits = 0;
    for (int i = 0; i < V::W; ++i) bits = most[i] > bits ? most[i] : bits;
    for (; k < depth; ++k) {
        const float x = std::fabs(widen<float>(row[k]));
        uint32_t own;
        __builtin_memcpy(&own, &x, sizeof own);
        bits = own > bits ? own : bits;
    }
    const float largest = as_float(bits);
    if (!(largest < std::numeric_limits<float>::infinity())) {
        __builtin_memset(out, 0, depth);
        return std::numeric_limits<float>::quiet_NaN();
    }
    int power, own;
    const float fraction = std::frexp(kLargest, &power);
    const int over = std::frexp(largest, &own) > fraction, exponent = std::max(own - power + over, -126);
    const float inverse = std::ldexp(1.0f, -exponent);
    // Adding this leaves no bits for a fraction.
    const float whole = 12582912.0f;
    typedef int8_t Bytes __attribute__((vector_size(CMSEI_VECTOR_BYTES / 4)));
    for (k = 0; k + V::W <= depth; k += V::W) {
        const V::T x = load_wide<float>(row + k) * inverse + whole;
        const Bytes n = __builtin_convertvector((Whole)x - (Whole)V::set(whole), Bytes);
        __builtin_memcpy(out + k, &n, sizeof n);
    }
    for (; k < depth; ++k) out[k] = static_cast<int8_t>(std::nearbyint(widen<float>(row[k]) * inverse));
    return std::ldexp(1.0f, exponent);
}

// Rounded rows lie one behind the other, each with zeros up to a multiple of 64 numbers, and their scales behind all of
// them. Numbers move four at a time, as the float that has their bits.
inline long row_size(long depth) { return round_up(depth, kPassUnit) / 4; }
inline long rounded_size(long depth) { return row_size(depth) + 1; }

inline Rows round_rows(Rows src, long rows, long depth, float* memory) {
    const long size = row_size(depth);
    float* const scales = memory + rows * size;
    with_storage(src, [&](auto* p) {
        for (long r = 0; r < rows; ++r, p += src.stride) {
            auto* const numbers = reinterpret_cast<int8_t*>(memory + r * size);
            scales[r] = quantise(p, depth, numbers);
            __builtin_memset(numbers + depth, 0, 4 * size - depth);
        }
    });
    return {memory, Storage::kFloat32, size, scales};
}

inline const float* row_of(const Rows& rounded, long row) {
    return static_cast<const float*>(rounded.data) + row * rounded.stride;
}

inline void lengths_int8(Rows src, long depth, const Gram<float>& out) {
    for (long i = 0; i < out.ld; ++i) out.length[i] = 0;
    for (long i = 0; i < out.m; ++i) {
        const auto* const numbers = reinterpret_cast<const int8_t*>(row_of(src, i));
        int64_t squared = 0;
        for (long k = 0; k < depth; k += kMostOfPass) {
            const long end = std::min(k + kMostOfPass, depth);
            int32_t sum = 0; // as exact as in 64 bits, and quicker
            for (long n = k; n < end; ++n) sum += numbers[n] * numbers[n];
            squared += sum;
        }
        out.length[i] = PairMath<Plain<float>>::length(static_cast<float>(squared) * src.scales[i] * src.scales[i]);
    }
}

// The length of the mean row, from the rows.
inline float mean_length_int8(Rows src, long rows, long depth) {
    double squares = 0;
    for (long k = 0; k < depth; ++k) {
        double sum = 0;
        for (long i = 0; i < rows; ++i)
            sum += static_cast<double>(src.scales[i]) * reinterpret_cast<const int8_t*>(row_of(src, i))[k];
        squares += sum * sum;
    }
    return static_cast<float>(std::sqrt(squares) / static_cast<double>(rows));
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
