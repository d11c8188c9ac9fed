// From the callers' rows to the panels that the register-tile product reads. Included once per instruction set.
#pragma once

#include "micro.h"

namespace cmsei {
namespace CMSEI_ISA {

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class S> CMSEI_INLINE S widen(float x) { return static_cast<S>(x); }
template <class S> CMSEI_INLINE S widen(double x) { return static_cast<S>(x); }
CMSEI_INLINE float as_float(uint32_t u) {
    float f;
    __builtin_memcpy(&f, &u, sizeof f);
    return f;
}
// 32 bits of a packed row, which may have been written as the float that has them: to a compiler such a store does not
// change a number of another type.
CMSEI_INLINE uint32_t bits_at(const uint32_t* p) {
    uint32_t u;
    __builtin_memcpy(&u, p, sizeof u);
    return u;
}
template <class S> CMSEI_INLINE S widen(BFloat16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }
template <class S> CMSEI_INLINE S widen(Float16 x) {
    const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
    // Exponents differ by 112; the product also makes subnormals right. All-ones stays infinity or NaN.
    const float scaled = as_float(magnitude) * 5.192296858534828e33f;
    uint32_t bits;
    __builtin_memcpy(&bits, &scaled, sizeof bits);
    bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : bits;
    return as_float(bits | sign);
}

// W neighbours, widened.
template <class S, class X> CMSEI_INLINE typename Simd<S>::T load_wide(const X* p) {
    using V = Simd<S>;
    if constexpr (sizeof(X) == sizeof(S)) {
        typename V::T v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    } else {
        typename V::T v;
#pragma GCC unroll 16
        for (int i = 0; i < V::W; ++i) v[i] = widen<S>(p[i]);
        return v;
    }
}
#if CMSEI_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <> CMSEI_INLINE Simd<float>::T load_wide<float, BFloat16>(const BFloat16* p) {
    __m256i narrow;
    __builtin_memcpy(&narrow, p, sizeof narrow);
    return (Simd<float>::T)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
}
template <> CMSEI_INLINE Simd<float>::T load_wide<float, Float16>(const Float16* p) {
    __m256i narrow;
    __builtin_memcpy(&narrow, p, sizeof narrow);
    return (Simd<float>::T)_mm512_cvtph_ps(narrow);
}
#elif CMSEI_VECTOR_BYTES == 16 && defined(__aarch64__)
template <> CMSEI_INLINE Simd<float>::T load_wide<float, BFloat16>(const BFloat16* p) {
    uint16x4_t narrow;
    __builtin_memcpy(&narrow, p, sizeof narrow);
    return (Simd<float>::T)vshll_n_u16(narrow, 16);
}
template <> CMSEI_INLINE Simd<float>::T load_wide<float, Float16>(const Float16* p) {
    float16x4_t narrow;
    __builtin_memcpy(&narrow, p, sizeof narrow);
    return (Simd<float>::T)vcvt_f32_f16(narrow);
}
#endif

// If a row of dst is shorter than W, a store writes past its end, and the next rows' stores overwrite that; the panel's
// last rows are stored at their own length. load(i, k): row i's W elements from k on, k a multiple of W. Returns the
// first k, in elements as wide as S, that is left to do.
template <class S, class Load>
CMSEI_INLINE long interleave_registers(long rows, long depth, S* dst, long ld, Load load) {
    using V = Simd<S>;
    constexpr int W = V::W;
    long k0 = 0;
    for (; k0 + W <= depth; k0 += W) {
        typename V::T a[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) a[i] = i < rows ? load(i, k0) : V::zero();
        transpose_registers<S>(a);
        S* out = dst + k0 * ld;
        if (ld >= W || (k0 + W - 1) * ld + W <= depth * ld) {
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) V::store(out + k * ld, a[k]);
        } else {
#pragma GCC unroll 16
            for (int k = 0; k < W; ++k) __builtin_memcpy(out + k * ld, &a[k], sizeof(S) * rows);
        }
    }
    return k0;
}

// dst[k * ld + i] = src row i, element k.
template <class S, class X>
inline void interleave(const X* src, long stride, long rows, long depth, S* dst, long ld) {
    constexpr long W = Simd<S>::W;
    for (long i = 0; i < rows; i += W) {
        const long n = rows - i < W ? rows - i : W;
        const X* from = src + i * stride;
        S* to = dst + i;
        long k0 = 0;
        if (i + W <= ld || i == 0)
            k0 = interleave_registers(n, depth, to, ld,
                                      [&](long r, long k) { return load_wide<S>(from + r * stride + k); });
        for (; k0 < depth; ++k0)
            for (long r = 0; r < n; ++r) to[k0 * ld + r] = widen<S>(from[r * stride + k0]);
    }
}

template <class S, class X> inline void pack_a_of(const X* src, long stride, long rows, long depth, S* dst) {
    for (long i = 0; i < rows; i += kMR) {
        const long m = rows - i < kMR ? rows - i : kMR;
        interleave(src + i * stride, stride, m, depth, dst + i * depth, m);
    }
}

template <class S, class X> inline void pack_b_of(const X* src, long stride, long cols, long depth, S* dst) {
    for (long j = 0; j < cols; j += kNR<S>) {
        const long n = cols - j < kNR<S> ? cols - j : kNR<S>;
        S* panel = dst + j * depth;
        if (n < kNR<S>) __builtin_memset(panel, 0, sizeof(S) * kNR<S> * depth);
        interleave(src + j * stride, stride, n, depth, panel, kNR<S>);
    }
}

template <class S, class X>
inline void pack_b_rows_of(const X* src, long stride, long rows, long depth, S* dst, long panel) {
    for (long d = 0; d < depth; d += kNR<S>, dst += panel) {
        const long n = depth - d < kNR<S> ? depth - d : kNR<S>;
        for (long i = 0; i < rows; ++i) {
            S* out = dst + i * kNR<S>;
            for (long k = 0; k < n; ++k) out[k] = widen<S>(src[i * stride + d + k]);
            for (long k = n; k < kNR<S>; ++k) out[k] = 0;
        }
    }
}

template <class Body> CMSEI_INLINE void with_storage(const Rows& src, Body body) {
    switch (src.storage) {
        case Storage::kFloat32: return body(static_cast<const float*>(src.data));
        case Storage::kFloat64: return body(static_cast<const double*>(src.data));
        case Storage::kBFloat16: return body(static_cast<const BFloat16*>(src.data));
        case Storage::kFloat16: return body(static_cast<const Float16*>(src.data));
    }
}

template <class S> void pack_a(Rows src, long rows, long depth, S* dst) {
    with_storage(src, [&](auto* p) { pack_a_of(p, src.stride, rows, depth, dst); });
}
template <class S> void pack_b(Rows src, long cols, long depth, S* dst) {
    with_storage(src, [&](auto* p) { pack_b_of(p, src.stride, cols, depth, dst); });
}
template <class S> void pack_b_rows(Rows src, long rows, long depth, S* dst, long panel) {
    with_storage(src, [&](auto* p) { pack_b_rows_of(p, src.stride, rows, depth, dst, panel); });
}

template <class S> long gram_size(long m, GramForms forms) {
    const long ld = round_up(m, Simd<S>::W);
    const long rows = forms == GramForms::kLengths ? 0 : Simd<S>::W + m * ld;
    return ld + rows + (forms == GramForms::kContext ? 2 * m * m : 0);
}

template <class S> Gram<S> gram_view(S* memory, long m, GramForms forms) {
    const long ld = round_up(m, Simd<S>::W);
    S* mean = forms == GramForms::kLengths ? nullptr : memory + ld;
    S* rows = mean ? mean + Simd<S>::W : nullptr;
    S* panels = forms == GramForms::kContext ? rows + m * ld : nullptr;
    return {rows, panels, panels ? panels + m * m : nullptr, memory, mean, m, ld};
}

template <class S> long gram_scratch(long m, long depth) {
    return round_up(m, Simd<S>::W) * depth + m * round_up(m, kNR<S>);
}

// The lengths of the rows and nothing else; zero in the lanes past the last.
template <class S> void lengths(Rows src, long depth, const Gram<S>& out) {
    using V = Simd<S>;
    constexpr int W = V::W, kSums = 4;
    for (long i = out.m; i < out.ld; ++i) out.length[i] = 0;
    with_storage(src, [&](auto* p) {
        for (long i = 0; i < out.m; ++i, p += src.stride) {
            typename V::T sum[kSums] = {};
            long k = 0;
            for (; k + kSums * W <= depth; k += kSums * W)
#pragma GCC unroll 4
                for (int n = 0; n < kSums; ++n) {
                    const typename V::T x = load_wide<S>(p + k + n * W);
                    sum[n] += x * x;
                }
            S squared = V::sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
            for (; k < depth; ++k) squared += widen<S>(p[k]) * widen<S>(p[k]);
            out.length[i] = PairMath<Plain<S>>::length(squared);
        }
    });
}

// The forms of a Gram matrix from the lower triangle of the product c of the rows with themselves.
template <class S> void gram_of_product(const S* c, long ldc, const Gram<S>& out) {
    const long m = out.m;
    const auto at = [&](long i, long j) { return i > j ? c[i * ldc + j] : c[j * ldc + i]; };
    for (long i = 0; i < m; ++i)
        for (long j = 0; j < out.ld; ++j) out.rows[i * out.ld + j] = j < m ? at(i, j) : 0;
    double total = 0;
    for (long i = 0; i < m; ++i) {
        total += c[i * ldc + i];
        for (long j = 0; j < i; ++j) total += 2 * static_cast<double>(c[i * ldc + j]);
    }
    *out.mean = PairMath<Plain<S>>::length(static_cast<S>(total / (static_cast<double>(m) * m)));
    for (long i = 0; i < out.ld; ++i) out.length[i] = i < m ? PairMath<Plain<S>>::length(at(i, i)) : 0;
    for (long i = 0; out.panels && i < m; i += kMR) {
        const long n = m - i < kMR ? m - i : kMR;
        for (long k = 0; k < m; ++k)
            for (long r = 0; r < n; ++r) {
                const S x = at(i + r, k);
                out.panels[i * m + k * n + r] = x;
                out.half[i * m + k * n + r] = k < i + r ? 2 * x : x;
            }
    }
}

// The length of the mean row, from the rows. The rounding errors of each sum are added up beside it; without them, rows
// that cancel out except for their own rounding would have sums of 0.
template <class S> S mean_length(Rows src, long rows, long depth) {
    using V = Simd<S>;
    constexpr int W = V::W;
    typename V::T squares = V::zero();
    S rest = 0;
    const auto squared_sum = [rows](auto zero, auto at) {
        auto sum = zero, lost = zero;
        for (long i = 0; i < rows; ++i) {
            const auto x = at(i), next = sum + x, taken = next - sum;
            lost += (sum - (next - taken)) + (x - taken);
            sum = next;
        }
        sum += lost;
        return sum * sum;
    };
    with_storage(src, [&](auto* p) {
        long k = 0;
        for (; k + W <= depth; k += W)
            squares += squared_sum(V::zero(), [&](long i) { return load_wide<S>(p + i * src.stride + k); });
        for (; k < depth; ++k) rest += squared_sum(S(0), [&](long i) { return widen<S>(p[i * src.stride + k]); });
    });
    return PairMath<Plain<S>>::length(V::sum(squares) + rest) / static_cast<S>(rows);
}

// If the rows cancel out, computes the length of the mean row again by `of_rows`: the sum of their inner products is
// then nothing but rounding errors, often negative, and a mean of length 0 has slopes of 1 / ε² where an inner product
// with it is 0.
template <class S, class OfRows> CMSEI_INLINE void mend_mean(const Gram<S>& out, OfRows of_rows) {
    S squares = 0;
    for (long i = 0; i < out.m; ++i) squares += out.length[i] * out.length[i];
    if (*out.mean * *out.mean * out.m < S(1e-3) * squares) *out.mean = of_rows();
}

// The rows are packed once and read as both sides.
template <class S> void gram(Rows src, long depth, const Gram<S>& out, S* scratch) {
    constexpr long W = Simd<S>::W;
    if (!out.rows) return lengths(src, depth, out);
    const long m = out.m, ld = round_up(m, W), ldc = round_up(m, kNR<S>);
    S* c = scratch + ld * depth;
    const long whole = depth / W * W;
    __builtin_memset(scratch + whole * ld, 0, sizeof(S) * (depth - whole) * ld);
    with_storage(src, [&](auto* p) { interleave(p, src.stride, m, depth, scratch, ld); });
    for (long i = 0; i < m; i += kMR) {
        const long rows = m - i < kMR ? m - i : kMR;
        gemm(Gemm<S>{scratch + i, kMR, ld, scratch, kNR<S>, ld, c + i * ldc, ldc, rows, i + rows, depth});
    }
    gram_of_product(c, ldc, out);
    mend_mean(out, [&] { return mean_length<S>(src, m, depth); });
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
