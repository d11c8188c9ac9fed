// Products of whole numbers by instructions that add up four at a time (AVX-VNNI, AVX512-VNNI): four times the float32
// rate, sums in whole numbers. The instruction's left factor has no sign: A is stored 128 higher, and what that adds to
// a column's sums is subtracted again.
#pragma once

#include "whole_numbers.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace {

constexpr uint32_t kRaised = 0x80808080u; // four times 128

// A panel of A: its quads, element k of row i at k * rows + i, then the rows' scales. A panel of B: the same for kNR
// columns, then, for each pass over the depth, what is subtracted from the columns' sums.
long quads_of(long depth) { return divide_up(depth, 4); }
long passes_of(long depth) { return divide_up(depth, pass_of(depth)); }
long elements_int8(long depth) { return quads_of(depth) + 1 + passes_of(depth); }

CMSEI_INLINE Whole dot_quads(Whole acc, Bits a, Bits b) {
#if defined(__AVX512VNNI__)
    return (Whole)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
    return (Whole)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)a, (__m256i)b);
#else
    for (int n = 0; n < 4; ++n) acc += (Whole)(a >> 8 * n & 255u) * ((Whole)(b << (24 - 8 * n)) >> 24);
    return acc;
#endif
}

template <int M, int NV>
CMSEI_INLINE void multiply_add_quads(const uint32_t* a, const uint32_t* b, Whole (&acc)[M][NV]) {
    Bits x[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) __builtin_memcpy(&x[j], b + j * V::W, sizeof(Bits));
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
        const Bits y = Bits{} + bits_at(a + i);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = dot_quads(acc[i][j], y, x[j]);
    }
}

// What turns a tile's sums into inner products: the scales of its rows and columns, and what is subtracted from its
// columns.
struct Finish {
    const float *rows, *columns;
    const int32_t* back;
};

template <int M, int NV>
__attribute__((noinline)) void micro_quads(long k, const uint32_t* a, long lda, const uint32_t* b, long ldb, float* c,
                                           long ldc, bool accumulate, Ahead ahead, Finish finish) {
    Whole acc[M][NV];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = Whole{};
    for (; k >= Ahead::kStride; k -= Ahead::kStride) {
        ahead.step();
#pragma GCC unroll 16
        for (int u = 0; u < Ahead::kStride; ++u, a += lda, b += ldb) multiply_add_quads(a, b, acc);
    }
    for (; k > 0; --k, a += lda, b += ldb) multiply_add_quads(a, b, acc);
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
        const Whole back = load_whole(finish.back + j * V::W);
        const V::T scale = V::load(finish.columns + j * V::W);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i)
            store_product(acc[i][j] - back, finish.rows[i], scale, c + i * ldc + j * V::W, accumulate);
    }
}

template <int M, class... Rest> CMSEI_INLINE void micro_quads_row(int nv, Rest... rest) {
    if (nv == 1)
        micro_quads<M, 1>(rest...);
    else
        micro_quads<M, kNV>(rest...);
}

void gemm_int8(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
    const long quads = quads_of(depth), pass = pass_of(depth) / 4, size = elements_int8(depth);
    const Gemm<uint32_t> g{a, kMR * size, 0, b, kNR<float> * size, kNR<float>, nullptr, ldc, rows, cols, quads};
    in_tiles<float>(g, c, pass, [&](Place at, int m, auto... rest) {
        const uint32_t* const row = a + at.row * size + quads * m;
        const uint32_t* const column = b + at.column * size + quads * kNR<float>;
        const uint32_t* const back = column + (1 + at.k / pass) * kNR<float>;
        const Finish finish{reinterpret_cast<const float*>(row), reinterpret_cast<const float*>(column),
                            reinterpret_cast<const int32_t*>(back)};
        with_rows(m, [&](auto tile) { micro_quads_row<tile.value>(rest..., finish); });
    });
}

void store_quads(const Rows& src, long first, long rows, long quads, uint32_t* dst, long ld) {
    interleave(row_of(src, first), src.stride, rows, quads, reinterpret_cast<float*>(dst), ld);
}

// The rows of all of these are rounded.
void pack_a_int8(Rows src, long rows, long depth, uint32_t* dst) {
    const long quads = quads_of(depth), size = elements_int8(depth);
    for (long i = 0; i < rows; i += kMR) {
        const long n = rows - i < kMR ? rows - i : kMR;
        uint32_t* const panel = dst + i * size;
        store_quads(src, i, n, quads, panel, n);
        for (long k = 0; k < n * quads; ++k) panel[k] = bits_at(panel + k) ^ kRaised;
        __builtin_memcpy(panel + quads * n, src.scales + i, sizeof(float) * n);
    }
}

void pack_b_int8(Rows src, long cols, long depth, uint32_t* dst) {
    constexpr long N = kNR<float>;
    const long quads = quads_of(depth), size = elements_int8(depth), pass = pass_of(depth);
    for (long j = 0; j < cols; j += N) {
        const long n = cols - j < N ? cols - j : N;
        uint32_t* const panel = dst + j * size;
        if (n < N) __builtin_memset(panel, 0, sizeof(uint32_t) * N * size);
        store_quads(src, j, n, quads, panel, N);
        __builtin_memcpy(panel + quads * N, src.scales + j, sizeof(float) * n);
        for (long i = 0; i < n; ++i) {
            const auto* const numbers = reinterpret_cast<const int8_t*>(row_of(src, j + i));
            for (long k = 0, p = 1; k < depth; k += pass, ++p) {
                const long end = std::min(k + pass, depth);
                int32_t sum = 0;
                for (long m = k; m < end; ++m) sum += numbers[m];
                panel[(quads + p) * N + i] = static_cast<uint32_t>(128 * sum);
            }
        }
    }
}

void gram_int8(Rows src, long depth, const Gram<float>& out, float* scratch) {
    if (!out.rows) return lengths_int8(src, depth, out);
    const long m = out.m, size = elements_int8(depth), ldc = round_up(m, kNR<float>);
    auto *a = reinterpret_cast<uint32_t*>(scratch), *b = a + m * size;
    float* c = scratch + (m + ldc) * size;
    pack_a_int8(src, m, depth, a);
    pack_b_int8(src, m, depth, b);
    for (long i = 0; i < m; i += kMR) {
        const long rows = m - i < kMR ? m - i : kMR;
        gemm_int8(a + i * size, b, c + i * ldc, ldc, rows, i + rows, depth);
    }
    gram_of_product(c, ldc, out);
    mend_mean(out, [&] { return mean_length_int8(src, m, depth); });
}

long gram_scratch_int8(long m, long depth) {
    const long ldc = round_up(m, kNR<float>);
    return (m + ldc) * elements_int8(depth) + m * ldc;
}

constexpr NarrowKernels kInt8Kernels{kMR,         1,         elements_int8, pack_a_int8,
                                     pack_b_int8, gemm_int8, gram_int8,     gram_scratch_int8};

}  // namespace
}  // namespace CMSEI_ISA
}  // namespace cmsei
