// Products of bfloat16 pairs by vectors' instructions (AVX512-BF16): twice the float32 rate, float32 sums. Included
// once per instruction set.
#pragma once

#include "../similarity_kernels.h"
#include "pairs.h"

namespace cmsei {
namespace CMSEI_ISA {

SimilarityKernels<float> similarity_of_pairs();

namespace {

using V = Simd<float>;

// The two depth-neighbours k, k + 1 of one row in one element; past the depth a zero.
CMSEI_INLINE uint32_t pair_at(const uint16_t* row, long k, long depth) {
    return row[k] | (k + 1 < depth ? static_cast<uint32_t>(row[k + 1]) << 16 : 0u);
}

void interleave_pairs(const uint16_t* src, long stride, long rows, long depth, uint32_t* dst, long ld) {
    for (long i = 0; i < rows; i += V::W) {
        const long n = rows - i < V::W ? rows - i : V::W, pairs = (depth + 1) / 2;
        const uint16_t* from = src + i * stride;
        long k = 0;
        // An odd depth's last pair is half a zero. A pair is moved as the float that has its bits.
        if (depth % 2 == 0 && (i + V::W <= ld || i == 0))
            k = interleave_registers(n, pairs, reinterpret_cast<float*>(dst) + i, ld, [&](long r, long at) {
                V::T v;
                __builtin_memcpy(&v, from + r * stride + 2 * at, sizeof v);
                return v;
            });
        for (; k < pairs; ++k)
            for (long r = 0; r < n; ++r) dst[k * ld + i + r] = pair_at(from + r * stride, 2 * k, depth);
    }
}

void pack_a_bf16(Rows src, long rows, long depth, uint32_t* dst) {
    const auto* p = static_cast<const uint16_t*>(src.data);
    const long pairs = (depth + 1) / 2;
    for (long i = 0; i < rows; i += kMR) {
        const long m = rows - i < kMR ? rows - i : kMR;
        interleave_pairs(p + i * src.stride, src.stride, m, depth, dst + i * pairs, m);
    }
}

void pack_b_bf16(Rows src, long cols, long depth, uint32_t* dst) {
    const auto* p = static_cast<const uint16_t*>(src.data);
    const long pairs = (depth + 1) / 2;
    for (long j = 0; j < cols; j += kNR<float>) {
        const long n = cols - j < kNR<float> ? cols - j : kNR<float>;
        uint32_t* panel = dst + j * pairs;
        if (n < kNR<float>) __builtin_memset(panel, 0, sizeof(uint32_t) * kNR<float> * pairs);
        interleave_pairs(p + j * src.stride, src.stride, n, depth, panel, kNR<float>);
    }
}

void multiply_pairs(const Gemm<uint32_t>& g, float* c) {
    in_tiles<float>(g, c, [](Place, auto... x) { micro_pairs_any(x...); });
}

long pairs_bf16(long depth) { return (depth + 1) / 2; }

void gemm_bf16(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
    const long pairs = pairs_bf16(depth);
    multiply_pairs({a, kMR * pairs, 0, b, kNR<float> * pairs, kNR<float>, nullptr, ldc, rows, cols, pairs}, c);
}

// Like gram() of pack.h, in the same scratch, which is more than pairs need.
void gram_pairs(Rows src, long depth, const Gram<float>& out, float* scratch) {
    if (!out.rows) return lengths(src, depth, out);
    const long m = out.m, ld = round_up(m, V::W), ldc = round_up(m, kNR<float>), pairs = pairs_bf16(depth);
    auto* packed = reinterpret_cast<uint32_t*>(scratch);
    float* c = scratch + ld * pairs;
    const long whole = depth % 2 == 0 ? pairs / V::W * V::W : 0;
    __builtin_memset(packed + whole * ld, 0, sizeof(uint32_t) * (pairs - whole) * ld);
    interleave_pairs(static_cast<const uint16_t*>(src.data), src.stride, m, depth, packed, ld);
    for (long i = 0; i < m; i += kMR) {
        const long rows = m - i < kMR ? m - i : kMR;
        multiply_pairs({packed + i, kMR, ld, packed, kNR<float>, ld, nullptr, ldc, rows, i + rows, pairs}, c + i * ldc);
    }
    gram_of_product(c, ldc, out);
    mend_mean(out, [&] { return mean_length<float>(src, m, depth); });
}

constexpr NarrowKernels kBf16Kernels{kMR,         1,         pairs_bf16, pack_a_bf16,
                                     pack_b_bf16, gemm_bf16, gram_pairs, gram_scratch<float>};

void add_similarity(SimilarityKernels<float>& table) { table = similarity_of_pairs(); }

}  // namespace
}  // namespace CMSEI_ISA
}  // namespace cmsei
