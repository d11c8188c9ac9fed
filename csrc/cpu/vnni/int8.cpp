// Products of rows rounded to whole numbers of 8 bits, where the processor has them (AVX-VNNI, AVX512-VNNI): four times the
// float32 rate, sums in whole numbers. The instruction takes the left factor without a sign: A is stored 128 higher, and
// what that adds to a column's sums is taken back from them.
//
// Compiled for the instructions alone, whatever else a processor that has them lacks; dispatch.cpp adds these kernels to
// those of an instruction set with registers as wide.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../pack.h"

namespace cmsei {
namespace CMSEI_ISA {

namespace {

using V = Simd<float>;
typedef V::Mask Whole; // a register of int32
typedef uint32_t Quads __attribute__((vector_size(CMSEI_VECTOR_BYTES)));

constexpr float kLargest = 127;
constexpr uint32_t kRaised = 0x80808080u; // four times 128

// A panel of A: its quads, element k of row i at k * rows + i, then the rows' scales. One of B: the same of kNR columns,
// then, of each pass over the depth, what is taken back from the columns' sums. A pass is of 1,024 numbers at most, so
// that its sums, of 127² · 1,024 < 2²⁴ at most, are exact in float32.
long quads_of(long depth) { return (depth + 3) / 4; }
long pass_of(long depth) { return depth_block<float>(quads_of(depth)); }
long passes_of(long depth) { return (quads_of(depth) + pass_of(depth) - 1) / pass_of(depth); }
long elements_int8(long depth) { return quads_of(depth) + 1 + passes_of(depth); }

CMSEI_INLINE Whole dot_quads(Whole acc, Quads a, Quads b) {
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
    Quads x[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) __builtin_memcpy(&x[j], b + j * V::W, sizeof(Quads));
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
        const Quads y = Quads{} + a[i];
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] = dot_quads(acc[i][j], y, x[j]);
    }
}

// What a tile's sums become inner products with: scales of its rows and columns, and what its columns take back.
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
        Whole back;
        __builtin_memcpy(&back, finish.back + j * V::W, sizeof back);
        const V::T scale = V::load(finish.columns + j * V::W);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            // One scale after the other: both together may leave float32's range where the inner product does not.
            const V::T x = __builtin_convertvector(acc[i][j] - back, V::T) * finish.rows[i] * scale;
            float* p = c + i * ldc + j * V::W;
            V::store(p, accumulate ? V::load(p) + x : x);
        }
    }
}

template <int M, class... Rest> CMSEI_INLINE void micro_quads_row(int nv, Rest... rest) {
    if (nv == 1)
        micro_quads<M, 1>(rest...);
    else
        micro_quads<M, kNV>(rest...);
}

void gemm_int8(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
    const long quads = quads_of(depth), pass = pass_of(depth), size = elements_int8(depth);
    const Gemm<uint32_t> g{a, kMR * size, 0, b, kNR<float> * size, kNR<float>, nullptr, ldc, rows, cols, quads};
    in_tiles<float>(g, c, [&](Place at, int m, auto... rest) {
        const uint32_t* const row = a + at.row * size + quads * m;
        const uint32_t* const column = b + at.column * size + quads * kNR<float>;
        const uint32_t* const back = column + (1 + at.k / pass) * kNR<float>;
        const Finish finish{reinterpret_cast<const float*>(row), reinterpret_cast<const float*>(column),
                            reinterpret_cast<const int32_t*>(back)};
        with_rows(m, [&](auto tile) { micro_quads_row<tile.value>(rest..., finish); });
    });
}

// The row's whole numbers, the nearest with ties to even, and its scale: the least power of two at which none is beyond
// 127. NaN and zeros of a row with a number that is not finite. As engines/eight_bits.py.
template <class X> float quantise(const X* row, long depth, int8_t* out) {
    const Quads sign = Quads{} + 0x80000000u;
    Quads most = {};
    long k = 0;
    for (; k + V::W <= depth; k += V::W) {
        const Quads x = (Quads)load_wide<float>(row + k) & ~sign;
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

// visit(first row, rows, their numbers (rows, 4 · quads) with zeros past the depth, their scales) of panels of `most`.
template <class Visit> void each_panel(Rows src, long rows, long depth, long most, Visit visit) {
    const long width = 4 * quads_of(depth);
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

void store_quads(const int8_t* numbers, long rows, long quads, uint32_t* dst, long ld) {
    interleave(reinterpret_cast<const float*>(numbers), quads, rows, quads, reinterpret_cast<float*>(dst), ld);
}

void pack_a_int8(Rows src, long rows, long depth, uint32_t* dst) {
    const long quads = quads_of(depth), size = elements_int8(depth);
    each_panel(src, rows, depth, kMR, [&](long i, long n, const int8_t* numbers, const float* scales) {
        uint32_t* const panel = dst + i * size;
        store_quads(numbers, n, quads, panel, n);
        for (long k = 0; k < n * quads; ++k) panel[k] ^= kRaised;
        __builtin_memcpy(panel + quads * n, scales, sizeof(float) * n);
    });
}

void pack_b_int8(Rows src, long cols, long depth, uint32_t* dst) {
    constexpr long N = kNR<float>;
    const long quads = quads_of(depth), size = elements_int8(depth), pass = 4 * pass_of(depth);
    each_panel(src, cols, depth, N, [&](long j, long n, const int8_t* numbers, const float* scales) {
        uint32_t* const panel = dst + j * size;
        if (n < N) __builtin_memset(panel, 0, sizeof(uint32_t) * N * size);
        store_quads(numbers, n, quads, panel, N);
        __builtin_memcpy(panel + quads * N, scales, sizeof(float) * n);
        for (long i = 0; i < n; ++i)
            for (long k = 0, p = 1; k < depth; k += pass, ++p) {
                int32_t sum = 0;
                for (long m = k; m < k + pass && m < depth; ++m) sum += numbers[i * 4 * quads + m];
                panel[(quads + p) * N + i] = static_cast<uint32_t>(128 * sum);
            }
    });
}

void lengths_int8(Rows src, long depth, const Gram<float>& out) {
    const long width = 4 * quads_of(depth);
    for (long i = out.m; i < out.ld; ++i) out.length[i] = 0;
    each_panel(src, out.m, depth, kMR, [&](long first, long n, const int8_t* numbers, const float* scales) {
        for (long r = 0; r < n; ++r) {
            int64_t squared = 0;
            for (long k = 0; k < depth; ++k) squared += numbers[r * width + k] * numbers[r * width + k];
            out.length[first + r] = PairMath<Plain<float>>::length(static_cast<float>(squared) * scales[r] * scales[r]);
        }
    });
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
}

long gram_scratch_int8(long m, long depth) {
    const long ldc = round_up(m, kNR<float>);
    return (m + ldc) * elements_int8(depth) + m * ldc;
}

}  // namespace

void add_int8_kernels(PairKernels<float>& table) {
    static constexpr NarrowKernels kernels{kMR,         1,         elements_int8, pack_a_int8,
                                           pack_b_int8, gemm_int8, gram_int8,     gram_scratch_int8};
    table.int8 = &kernels;
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
