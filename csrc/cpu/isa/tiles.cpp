// Products of bfloat16 pairs in tile registers, where the processor has them (AMX): sixteen times the float32 rate,
// float32 sums.
#include "../pack.h"

#if defined(__AMX_BF16__) || defined(CMSEI_EMULATE_TILES)
#include "tiles.h"
#endif

namespace cmsei {
namespace CMSEI_ISA {

#if defined(__AMX_BF16__) || defined(CMSEI_EMULATE_TILES)
namespace {

// A is packed tile by tile: 16 rows of 32 numbers, one tile after another along the depth. B keeps 32 columns of pairs
// side by side, so that a tile of it is 16 rows of one half. Both end in zeros up to a whole tile.
constexpr long kDepth = kTileBytes / 2, kColumns = 2 * kTileRows, kBRow = kColumns * 4;
static_assert(kNR<float> == kColumns, "the epilogue's panels are two tiles wide");

long pairs_bf16(long depth) { return round_up(depth, kDepth) / 2; }

void pack_a_bf16(Rows src, long rows, long depth, uint32_t* dst) {
    const auto* p = static_cast<const uint16_t*>(src.data);
    auto* out = reinterpret_cast<uint16_t*>(dst);
    for (long i = 0; i < rows; i += kTileRows)
        for (long k = 0; k < depth; k += kDepth)
            for (long r = i; r < i + kTileRows; ++r, out += kDepth) {
                if (r < rows && k + kDepth <= depth) {
                    __builtin_memcpy(out, p + r * src.stride + k, kTileBytes);
                    continue;
                }
                __builtin_memset(out, 0, kTileBytes);
                if (r < rows) __builtin_memcpy(out, p + r * src.stride + k, (depth - k) * 2);
            }
}

// Sixteen columns of B, sixteen pairs each: what the columns' rows hold, transposed.
void pack_b_tile(const uint16_t* src, long stride, long cols, long depth, uint32_t* dst) {
    alignas(64) float rows[kTileRows][kTileRows], columns[kTileRows][kTileRows];
    if (cols < kTileRows || depth < kDepth) __builtin_memset(rows, 0, sizeof rows);
    for (long i = 0; i < kTileRows && i < cols; ++i) {
        if (depth >= kDepth)
            __builtin_memcpy(rows[i], src + i * stride, kTileBytes);
        else
            __builtin_memcpy(rows[i], src + i * stride, depth * 2);
    }
    transpose(rows[0], kTileRows, kTileRows, kTileRows, columns[0], kTileRows);
    for (long k = 0; k < kTileRows; ++k) __builtin_memcpy(dst + k * kColumns, columns[k], kTileBytes);
}

void pack_b_bf16(Rows src, long cols, long depth, uint32_t* dst) {
    const auto* p = static_cast<const uint16_t*>(src.data);
    const long pairs = pairs_bf16(depth);
    for (long j = 0; j < cols; j += kColumns)
        for (long k = 0; k < depth; k += kDepth)
            for (long h = 0; h < kColumns; h += kTileRows)
                pack_b_tile(p + (j + h) * src.stride + k, src.stride, cols - j - h, depth - k,
                            dst + j * pairs + k / 2 * kColumns + h);
}

// C (M × N tiles) = or += A · B over `steps` tiles of depth; a_next: bytes to the next 16 rows of A.
template <int M, int N>
__attribute__((noinline)) void tile_block(long steps, const char* a, long a_next, const char* b, float* c, long ldc,
                                          bool accumulate) {
    const long bytes = ldc * static_cast<long>(sizeof(float));
    float* const low = c + kTileRows * ldc;
    if (accumulate) {
        CMSEI_TILE_LOAD(0, c, bytes);
        if constexpr (N > 1) CMSEI_TILE_LOAD(1, c + kTileRows, bytes);
        if constexpr (M > 1) CMSEI_TILE_LOAD(2, low, bytes);
        if constexpr (M > 1 && N > 1) CMSEI_TILE_LOAD(3, low + kTileRows, bytes);
    } else {
        CMSEI_TILE_ZERO(0);
        CMSEI_TILE_ZERO(1);
        CMSEI_TILE_ZERO(2);
        CMSEI_TILE_ZERO(3);
    }
    for (; steps > 0; --steps, a += kTileSize, b += kTileRows * kBRow) {
        CMSEI_TILE_LOAD(6, b, kBRow);
        CMSEI_TILE_STREAM(4, a, kTileBytes);
        CMSEI_TILE_DOT(0, 4, 6);
        if constexpr (N > 1) {
            CMSEI_TILE_LOAD(7, b + kTileBytes, kBRow);
            CMSEI_TILE_DOT(1, 4, 7);
        }
        if constexpr (M > 1) {
            CMSEI_TILE_STREAM(5, a + a_next, kTileBytes);
            CMSEI_TILE_DOT(2, 5, 6);
            if constexpr (N > 1) CMSEI_TILE_DOT(3, 5, 7);
        }
    }
    CMSEI_TILE_STORE(0, c, bytes);
    if constexpr (N > 1) CMSEI_TILE_STORE(1, c + kTileRows, bytes);
    if constexpr (M > 1) CMSEI_TILE_STORE(2, low, bytes);
    if constexpr (M > 1 && N > 1) CMSEI_TILE_STORE(3, low + kTileRows, bytes);
}

// Tiles of depth in a pass over C: a panel of B stays in the first cache while A streams past it.
constexpr long kSteps = 16;

void gemm_bf16(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
    configure_tiles();
    const long pairs = pairs_bf16(depth), all = pairs / kTileRows, passes = (all + kSteps - 1) / kSteps, a_next = all * kTileSize;
    for (long pass = 0, s0 = 0; pass < passes; ++pass) {
        const long s1 = all * (pass + 1) / passes, steps = s1 - s0;
        for (long j = 0; j < cols; j += kColumns) {
            const char* panel = reinterpret_cast<const char*>(b + j * pairs) + s0 * kTileRows * kBRow;
            const bool wide = cols - j > kTileRows;
            for (long i = 0; i < rows; i += 2 * kTileRows) {
                const char* x = reinterpret_cast<const char*>(a) + i / kTileRows * a_next + s0 * kTileSize;
                float* out = c + i * ldc + j;
                if (rows - i > kTileRows)
                    (wide ? tile_block<2, 2> : tile_block<2, 1>)(steps, x, a_next, panel, out, ldc, pass > 0);
                else
                    (wide ? tile_block<1, 2> : tile_block<1, 1>)(steps, x, a_next, panel, out, ldc, pass > 0);
            }
        }
        s0 = s1;
    }
    release_tiles();
}

long gram_scratch_tiles(long m, long depth) {
    const long rows = round_up(m, kTileRows), ldc = round_up(m, kColumns);
    return (rows + ldc) * pairs_bf16(depth) + rows * ldc;
}

void gram_tiles(Rows src, long depth, const Gram<float>& out, float* scratch) {
    if (!out.rows) return lengths(src, depth, out);
    const long m = out.m, pairs = pairs_bf16(depth), rows = round_up(m, kTileRows), ldc = round_up(m, kColumns);
    auto *a = reinterpret_cast<uint32_t*>(scratch), *b = a + rows * pairs;
    float* c = scratch + (rows + ldc) * pairs;
    pack_a_bf16(src, m, depth, a);
    pack_b_bf16(src, m, depth, b);
    gemm_bf16(a, b, c, ldc, m, m, depth);
    gram_of_product(c, ldc, out);
}

}  // namespace

void add_tile_kernels(PairKernels<float>& table) {
    static constexpr NarrowKernels kernels{kTileRows,   kTileRows, pairs_bf16, pack_a_bf16,
                                           pack_b_bf16, gemm_bf16, gram_tiles, gram_scratch_tiles};
    table.bf16 = &kernels;
}
#else
void add_tile_kernels(PairKernels<float>&) {}
#endif

}  // namespace CMSEI_ISA
}  // namespace cmsei
