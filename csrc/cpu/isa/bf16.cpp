// Products of bfloat16 pairs, where the processor has them (AVX512-BF16): twice the float32 rate, float32 sums.
#include "../pack.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace cmsei {
namespace CMSEI_ISA {

#if defined(__AVX512BF16__) || defined(CMSEI_EMULATE_512)
namespace {

using V = Simd<float>;
typedef uint32_t Pairs __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

CMSEI_INLINE V::T dot_pairs(V::T acc, Pairs a, Pairs b) {
#if defined(__AVX512BF16__)
    return (V::T)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    const Pairs high = Pairs{} + 0xffff0000u;
    return acc + (V::T)(a & high) * (V::T)(b & high) + (V::T)(a << 16) * (V::T)(b << 16);
#endif
}

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

template <int M, int NV> CMSEI_INLINE void multiply_add(const uint32_t* a, const uint32_t* b, V::T (&acc)[M][NV]) {
    Pairs x[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) __builtin_memcpy(&x[j], b + j * V::W, sizeof(Pairs));
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
        const Pairs y = Pairs{} + a[i];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = dot_pairs(acc[i][j], y, x[j]);
    }
}

template <int M, int NV>
__attribute__((noinline)) void micro_pairs(long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                                           long ldc, bool accumulate, Ahead ahead) {
    V::T acc[M][NV];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = V::zero();
    for (; k >= Ahead::kStride; k -= Ahead::kStride) {
        ahead.step();
#pragma GCC unroll 16
        for (int u = 0; u < Ahead::kStride; ++u, a += lda, b += ldb) multiply_add(a, b, acc);
    }
    for (; k > 0; --k, a += lda, b += ldb) multiply_add(a, b, acc);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) {
            float* p = c + i * ldc + j * V::W;
            V::store(p, accumulate ? V::load(p) + acc[i][j] : acc[i][j]);
        }
}

template <int M>
CMSEI_INLINE void micro_pairs_row(int nv, long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                                  long ldc, bool acc, Ahead ahead) {
    if (nv == 1)
        micro_pairs<M, 1>(k, a, lda, b, ldb, c, ldc, acc, ahead);
    else
        micro_pairs<M, 2>(k, a, lda, b, ldb, c, ldc, acc, ahead);
}

void micro_pairs_any(int m, int nv, long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c, long ldc,
                     bool acc, Ahead ahead) {
    switch (m) {
#define CMSEI_ROWS(M) \
    case M: \
        if constexpr (M <= kMR) micro_pairs_row<M>(nv, k, a, lda, b, ldb, c, ldc, acc, ahead); \
        break;
        CMSEI_ROWS(1) CMSEI_ROWS(2) CMSEI_ROWS(3) CMSEI_ROWS(4) CMSEI_ROWS(5) CMSEI_ROWS(6) CMSEI_ROWS(7)
        CMSEI_ROWS(8) CMSEI_ROWS(9) CMSEI_ROWS(10) CMSEI_ROWS(11) CMSEI_ROWS(12) CMSEI_ROWS(13) CMSEI_ROWS(14)
#undef CMSEI_ROWS
    }
}

void multiply_pairs(const Gemm<uint32_t>& g, float* c) {
    in_tiles<float>(g, c, [](auto... x) { micro_pairs_any(x...); });
}

void gemm_bf16(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long pairs) {
    multiply_pairs({a, kMR * pairs, 0, b, kNR<float> * pairs, kNR<float>, nullptr, ldc, rows, cols, pairs}, c);
}

long pairs_bf16(long depth) { return (depth + 1) / 2; }

// As gram of pack.h; its scratch is more than pairs take.
void gram_pairs(Rows src, long depth, const Gram<float>& out, float* scratch) {
    if (src.storage != Storage::kBFloat16 || !out.rows) return gram<float>(src, depth, out, scratch);
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
}

}  // namespace

void add_bf16_kernels(PairKernels<float>& table) {
    table.mr_bf16 = kMR;
    table.rows_bf16 = 1;
    table.pairs_bf16 = pairs_bf16;
    table.pack_a_bf16 = pack_a_bf16;
    table.pack_b_bf16 = pack_b_bf16;
    table.gemm_bf16 = gemm_bf16;
    table.gram = gram_pairs;
}
#else
void add_bf16_kernels(PairKernels<float>&) {}
#endif

}  // namespace CMSEI_ISA
}  // namespace cmsei
