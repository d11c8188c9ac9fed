// Rows rounded to whole numbers of 8 bits times a power of two, and their products' way back to float32. Included once per
// instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

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
inline long pass_of(long depth) { return kPassUnit * even_part((depth + kPassUnit - 1) / kPassUnit, kMostOfPass / kPassUnit); }

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
// 127. NaN and zeros of a row with a number that is not finite. As engines/eight_bits.py.
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
    // Added to, it leaves no bits for a fraction.
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

// visit(first row, rows, their numbers (rows, width) with zeros past the depth, their scales) of panels of `most`, the
// width a multiple of four.
template <class Visit> void each_panel(Rows src, long rows, long depth, long width, long most, Visit visit) {
    std::vector<float> memory(most * width / 4); // numbers move four at a time, as the float that has their bits
    auto* numbers = reinterpret_cast<int8_t*>(memory.data());
    float scales[kNR<float>];
    with_storage(src, [&](auto* p) {
        for (long i = 0; i < rows; i += most) {
            const long n = rows - i < most ? rows - i : most;
            for (long r = 0; r < n; ++r) scales[r] = quantise(p + (i + r) * src.stride, depth, numbers + r * width);
            visit(i, n, numbers, scales);
        }
    });
}

inline void lengths_int8(Rows src, long depth, const Gram<float>& out) {
    const long width = round_up(depth, 4);
    for (long i = out.m; i < out.ld; ++i) out.length[i] = 0;
    each_panel(src, out.m, depth, width, kMR, [&](long first, long n, const int8_t* numbers, const float* scales) {
        for (long r = 0; r < n; ++r) {
            int64_t squared = 0;
            for (long k = 0; k < depth; ++k) squared += numbers[r * width + k] * numbers[r * width + k];
            out.length[first + r] = PairMath<Plain<float>>::length(static_cast<float>(squared) * scales[r] * scales[r]);
        }
    });
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
