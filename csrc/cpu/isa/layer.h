// A layer W x + b of many x, which lie in the lanes of registers. Included once per instruction set.
#pragma once

#include "../similarity_kernels.h"
#include "../bf16/pairs.h"

namespace cmsei {
namespace CMSEI_ISA {

// Working memory in pieces; without a base it only counts.
template <class S> struct Space {
    S* base;
    long used = 0;

    S* take(long n) {
        S* p = base ? base + used : nullptr;
        used += round_up(n, 64 / static_cast<long>(sizeof(S)));
        return p;
    }
};

// Elements between rows of n lanes: room for a register past the last, and an odd number of cache lines, so that a
// column's lines spread over the whole first cache.
template <class S> CMSEI_INLINE long lead(long n) { return round_up(n, kNR<S>) + Simd<S>::W; }

// Registers of a panel that begins at lane j of n.
template <class S> CMSEI_INLINE int registers(long n, long j) { return n - j <= Simd<S>::W ? 1 : kNV; }

// Depth of a pass over a layer's results: with a panel of x that stays in the first cache, whole panels of rows of A.
template <class S> inline long layer_step(long depth) {
    constexpr long most = round_up(32768 / (kNR<S> * static_cast<long>(sizeof(S))), kMR);
    const long blocks = divide_up(depth, most);
    return blocks <= 1 ? depth : round_up(divide_up(depth, blocks), kMR);
}

// What is multiplied: numbers as they are, numbers rounded to bfloat16, or two of those in one element.
enum class Form { kExact, kRounded, kPairs };
static_assert(kMR % 2 == 0, "a pair is of one panel of rows");

template <class S> constexpr Form rounded_form() {
#if defined(CMSEI_PAIRS)
    return sizeof(S) == 4 ? Form::kPairs : Form::kRounded;
#else
    return Form::kRounded;
#endif
}

typedef uint32_t Bits __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

// x rounded to bfloat16, as bits of a float32; NaN stays NaN.
CMSEI_INLINE Bits rounded_bits(Simd<float>::T x) {
    Bits u;
    __builtin_memcpy(&u, &x, sizeof u);
    const Bits r = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
    return x == x ? r : (u | 0x400000u) & 0xffff0000u;
}
CMSEI_INLINE Simd<float>::T rounded(Simd<float>::T x) {
    const Bits r = rounded_bits(x);
    Simd<float>::T y;
    __builtin_memcpy(&y, &r, sizeof y);
    return y;
}

template <class S> inline void pack_layer_pairs(const S* weight, long stride, long rows, long depth, S* dst) {
    const auto bits = [&](long o, long k) {
        uint32_t u = 0;
        const float x = k < depth ? static_cast<float>(weight[o * stride + k]) : 0;
        __builtin_memcpy(&u, &x, sizeof u);
        return u >> 16;
    };
    auto* to = reinterpret_cast<uint32_t*>(dst);
    for (long i = 0; i < rows; i += kMR)
        for (long k = 0; k < depth; k += 2)
            for (long o = i; o < rows && o < i + kMR; ++o) *to++ = bits(o, k) | bits(o, k + 1) << 16;
}

// W (rows × depth) pass by pass, each packed as A; `rounded`: its numbers are of bfloat16.
template <class S> void pack_layer(const S* weight, long rows, long depth, bool rounded, S* dst) {
    const long step = layer_step<S>(depth);
    for (long k0 = 0; k0 < depth; k0 += step) {
        const long k = depth - k0 < step ? depth - k0 : step;
        if (rounded && rounded_form<S>() == Form::kPairs)
            pack_layer_pairs(weight + k0, depth, rows, k, dst + rows * k0);
        else
            pack_a_of(weight + k0, depth, rows, k, dst + rows * k0);
    }
}

// Lanes 0..n-1 of y (rows × ld) = b, and 0 in the rows up to the next multiple of the lanes.
template <class S> inline void fill_rows(S* y, long ld, long n, const S* bias, long rows) {
    using V = Simd<S>;
    for (long o = 0; o < round_up(rows, V::W); ++o) {
        const auto b = V::set(o < rows ? bias[o] : 0);
        for (long v = 0; v < n; v += V::W) V::store(y + o * ld + v, b);
    }
}

// A panel of `nv` registers of y += W x for the pass that begins at k0 and is k deep.
template <class S, Form form = Form::kExact>
inline void add_panel(const S* weight, long rows, long k0, long k, const S* x, long ldx, S* y, long ldy, int nv) {
    const S* a = weight + rows * k0;
    for (long i = 0; i < rows; i += kMR) {
        const int m = rows - i < kMR ? static_cast<int>(rows - i) : kMR;
#if defined(CMSEI_PAIRS)
        if constexpr (form == Form::kPairs) {
            const long pairs = (k + 1) / 2;
            micro_pairs_any(m, nv, pairs, reinterpret_cast<const uint32_t*>(a) + i * pairs, m,
                            reinterpret_cast<const uint32_t*>(x), kNR<S>, y + i * ldy, ldy, true,
                            Ahead::part(x, 0, 0, 1));
            continue;
        }
#endif
        micro_any<S>(m, nv, k, a + i * k, m, x, ldx, y + i * ldy, ldy, true, Ahead::part(x, 0, 0, 1));
    }
}

// z (M × NV registers), as the product of that form reads it, from a row's number of each (row, register).
template <class S, Form form, int M, int NV, class Row> CMSEI_INLINE void store_rows(S* z, Row row) {
    using V = Simd<S>;
#pragma GCC unroll 16
    for (int i = 0; i < M; i += form == Form::kPairs ? 2 : 1)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            if constexpr (form == Form::kPairs) {
                Bits both = rounded_bits(row(i, j)) >> 16;
                if (i + 1 < M) both |= rounded_bits(row(i + 1, j));
                __builtin_memcpy(z + i / 2 * kNR<S> + j * V::W, &both, sizeof both);
            } else if constexpr (form == Form::kRounded && sizeof(S) == 4) {
                V::store(z + i * kNR<S> + j * V::W, rounded(row(i, j)));
            } else {
                V::store(z + i * kNR<S> + j * V::W, row(i, j));
            }
        }
}

// y (rows × n lanes) = W x + b.
template <class S>
inline void apply_layer(const Layer<S>& layer, long rows, long depth, const S* x, long ldx, S* y, long ldy, long n) {
    fill_rows(y, ldy, n, layer.bias, rows);
    const long step = layer_step<S>(depth);
    for (long k = 0; k < depth; k += step)
        for (long j = 0; j < n; j += kNR<S>)
            add_panel(layer.weight, rows, k, depth - k < step ? depth - k : step, x + k * ldx + j, ldx, y + j, ldy,
                      registers<S>(n, j));
}

// factor[lane] = 1 / max(length of the lane's vector in y (width × ld), eps); with `gate`, dot[lane] = gate · vector.
template <class S, bool gated>
inline void unit_factors(const S* y, long ld, long width, long n, S* factor, const S* gate, S* dot) {
    using V = Simd<S>;
    constexpr int kTogether = 4;
    for (long v = 0; v < n; v += kTogether * V::W) {
        const int some = n - v < kTogether * V::W ? static_cast<int>(divide_up(n - v, V::W)) : kTogether;
        typename V::T square[kTogether] = {}, along[kTogether] = {};
        for (long o = 0; o < width; ++o) {
            const S* row = y + o * ld + v;
            for (int i = 0; i < some; ++i) {
                const auto x = V::load(row + i * V::W);
                square[i] += x * x;
                if (gated) along[i] += x * gate[o];
            }
        }
        for (int i = 0; i < some; ++i) {
            V::store(factor + v + i * V::W, PairMath<V>::unit_factor(V::sqrt(square[i])));
            if (gated) V::store(dot + v + i * V::W, along[i]);
        }
    }
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
