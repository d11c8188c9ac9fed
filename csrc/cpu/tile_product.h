// Products in tile registers, of numbers of any type that an instruction multiplies four bytes at a time. Included once
// per instruction set.
#pragma once

#include "pack.h"
#include "tile_registers.h"

namespace cmsei {
namespace CMSEI_ISA {

// A is packed tile by tile: 16 rows of 64 bytes, one tile after another along the depth. B keeps 32 columns of four
// bytes side by side, so that a tile of it is 16 rows of one half. Both end in zeros up to a whole tile. Behind a
// panel's tiles may lie what else the product needs of its rows.
constexpr long kColumns = 2 * kTileRows, kBRow = kColumns * 4, kElements = kTileBytes / 4;
static_assert(kNR<float> == kColumns, "the epilogue's panels are two tiles wide");

// Tiles that rows of `bytes` take.
inline long tiles_of(long bytes) { return divide_up(bytes, kTileBytes); }

// A panel of A: up to 16 rows of `bytes`, `stride` bytes apart.
inline void pack_a_tiles(const char* src, long stride, long rows, long bytes, uint32_t* dst) {
    char* out = reinterpret_cast<char*>(dst);
    for (long k = 0; k < bytes; k += kTileBytes)
        for (long r = 0; r < kTileRows; ++r, out += kTileBytes) {
            if (r < rows && k + kTileBytes <= bytes) {
                __builtin_memcpy(out, src + r * stride + k, kTileBytes);
                continue;
            }
            __builtin_memset(out, 0, kTileBytes);
            if (r < rows) __builtin_memcpy(out, src + r * stride + k, bytes - k);
        }
}

// Sixteen columns of B, 64 bytes each: what the columns' rows hold, transposed.
inline void pack_b_tile(const char* src, long stride, long cols, long bytes, uint32_t* dst) {
    alignas(64) float rows[kTileRows][kElements], columns[kElements][kTileRows];
    if (cols < kTileRows || bytes < kTileBytes) __builtin_memset(rows, 0, sizeof rows);
    for (long i = 0; i < kTileRows && i < cols; ++i) {
        if (bytes >= kTileBytes)
            __builtin_memcpy(rows[i], src + i * stride, kTileBytes);
        else
            __builtin_memcpy(rows[i], src + i * stride, bytes);
    }
    transpose(rows[0], kElements, kTileRows, kElements, columns[0], kTileRows);
    for (long k = 0; k < kElements; ++k) __builtin_memcpy(dst + k * kColumns, columns[k], kTileBytes);
}

// A panel of B: up to 32 columns.
inline void pack_b_tiles(const char* src, long stride, long cols, long bytes, uint32_t* dst) {
    for (long k = 0; k < bytes; k += kTileBytes)
        for (long h = 0; h < kColumns; h += kTileRows)
            pack_b_tile(src + h * stride + k, stride, cols - h, bytes - k, dst + k / 4 * kColumns + h);
}

// C (M × N tiles of float32 or int32, rows `bytes` apart) = or += A · B over `steps` tiles of depth; a_next: bytes to
// the next 16 rows of A.
template <TileNumbers numbers, int M, int N>
__attribute__((noinline)) void tile_block(long steps, const char* a, long a_next, const char* b, char* c, long bytes,
                                          bool accumulate) {
    char* const low = c + kTileRows * bytes;
    if (accumulate) {
        CMSEI_TILE_LOAD(0, c, bytes);
        if constexpr (N > 1) CMSEI_TILE_LOAD(1, c + kTileBytes, bytes);
        if constexpr (M > 1) CMSEI_TILE_LOAD(2, low, bytes);
        if constexpr (M > 1 && N > 1) CMSEI_TILE_LOAD(3, low + kTileBytes, bytes);
    } else {
        CMSEI_TILE_ZERO(0);
        CMSEI_TILE_ZERO(1);
        CMSEI_TILE_ZERO(2);
        CMSEI_TILE_ZERO(3);
    }
    for (; steps > 0; --steps, a += kTileSize, b += kTileRows * kBRow) {
        CMSEI_TILE_LOAD(6, b, kBRow);
        CMSEI_TILE_STREAM(4, a, kTileBytes);
        CMSEI_TILE_DOT(numbers, 0, 4, 6);
        if constexpr (N > 1) {
            CMSEI_TILE_LOAD(7, b + kTileBytes, kBRow);
            CMSEI_TILE_DOT(numbers, 1, 4, 7);
        }
        if constexpr (M > 1) {
            CMSEI_TILE_STREAM(5, a + a_next, kTileBytes);
            CMSEI_TILE_DOT(numbers, 2, 5, 6);
            if constexpr (N > 1) { CMSEI_TILE_DOT(numbers, 3, 5, 7); }
        }
    }
    CMSEI_TILE_STORE(0, c, bytes);
    if constexpr (N > 1) CMSEI_TILE_STORE(1, c + kTileBytes, bytes);
    if constexpr (M > 1) CMSEI_TILE_STORE(2, low, bytes);
    if constexpr (M > 1 && N > 1) CMSEI_TILE_STORE(3, low + kTileBytes, bytes);
}

// Tiles of depth in a pass over C: a panel of B stays in the first cache while A streams past it.
constexpr long kMostSteps = 16;

// Calls block(M, N as constants, first row, first column, accumulate, arguments of tile_block) for the blocks of C,
// pass by pass. `elements`: of a packed row of A or B, `tiles` tiles of depth and what lies behind them.
template <class Block>
inline void in_tile_blocks(const uint32_t* a, const uint32_t* b, long elements, long tiles, long rows, long cols,
                           Block block) {
    const auto one = std::integral_constant<int, 1>();
    const auto two = std::integral_constant<int, 2>();
    const long most = even_part(tiles, kMostSteps), a_next = kTileRows * elements * 4;
    configure_tiles();
    for (long s = 0; s < tiles; s += most) {
        const long steps = tiles - s < most ? tiles - s : most;
        for (long j = 0; j < cols; j += kColumns) {
            const char* panel = reinterpret_cast<const char*>(b + j * elements) + s * kTileRows * kBRow;
            const bool wide = cols - j > kTileRows;
            for (long i = 0; i < rows; i += 2 * kTileRows) {
                const char* x = reinterpret_cast<const char*>(a + i * elements) + s * kTileSize;
                const auto run = [&](auto m, auto n) { block(m, n, i, j, s > 0, steps, x, a_next, panel); };
                if (rows - i > kTileRows)
                    wide ? run(two, two) : run(two, one);
                else
                    wide ? run(one, two) : run(one, one);
            }
        }
    }
    release_tiles();
}

// The Gram matrix by the kernels of a type of numbers.
template <class Kind> long gram_scratch_of_tiles(long m, long depth) {
    const long rows = round_up(m, kTileRows), ldc = round_up(m, kColumns);
    return (rows + ldc) * Kind::elements(depth) + rows * ldc;
}

template <class Kind> void gram_of_tiles(Rows src, long depth, const Gram<float>& out, float* scratch) {
    if (!out.rows) return Kind::lengths(src, depth, out);
    const long m = out.m, elements = Kind::elements(depth), rows = round_up(m, kTileRows), ldc = round_up(m, kColumns);
    auto *a = reinterpret_cast<uint32_t*>(scratch), *b = a + rows * elements;
    float* c = scratch + (rows + ldc) * elements;
    Kind::pack_a(src, m, depth, a);
    Kind::pack_b(src, m, depth, b);
    Kind::gemm(a, b, c, ldc, m, m, depth);
    gram_of_product(c, ldc, out);
    mend_mean(out, [&] { return Kind::mean_length(src, m, depth); });
}

template <class Kind>
constexpr NarrowKernels kTileKernels{kTileRows,    kTileRows,  Kind::elements,      Kind::pack_a,
                                     Kind::pack_b, Kind::gemm, gram_of_tiles<Kind>, gram_scratch_of_tiles<Kind>};

}  // namespace CMSEI_ISA
}  // namespace cmsei
