// Products of whole numbers in tile registers (AMX-INT8): twice the rate of bfloat16's, of half as many bytes. The
// instruction takes both factors with their signs.
#pragma once

#include "../tile_product.h"
#include "whole_numbers.h"

namespace cmsei {
namespace CMSEI_ISA {

// A panel of A or B: its tiles, then its rows' scales. The rows are rounded.
struct Quads {
    static long elements(long depth) { return tiles_of(depth) * kElements + 1; }

    template <class Pack> static void pack(Rows src, long rows, long depth, long most, uint32_t* dst, Pack pack_tiles) {
        const long width = 4 * src.stride, size = elements(depth);
        for (long i = 0; i < rows; i += most) {
            const long n = rows - i < most ? rows - i : most;
            uint32_t* const panel = dst + i * size;
            pack_tiles(reinterpret_cast<const char*>(row_of(src, i)), width, n, width, panel);
            float* const scales = reinterpret_cast<float*>(panel + most * (size - 1));
            for (long r = 0; r < most; ++r) scales[r] = r < n ? src.scales[i + r] : 0;
        }
    }
    static void pack_a(Rows src, long rows, long depth, uint32_t* dst) {
        pack(src, rows, depth, kTileRows, dst, pack_a_tiles);
    }
    static void pack_b(Rows src, long cols, long depth, uint32_t* dst) {
        pack(src, cols, depth, kColumns, dst, pack_b_tiles);
    }

    static void gemm(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
        static_assert(kMostSteps * kTileBytes == kMostOfPass, "the sums of a pass are exact in float32");
        const long size = elements(depth);
        const auto block = [&](auto m, auto n, long i, long j, bool accumulate, auto... x) {
            alignas(64) int32_t sums[m.value * kTileRows][kColumns];
            auto* const out = reinterpret_cast<char*>(sums);
            tile_block<TileNumbers::kQuads, m.value, n.value>(x..., out, sizeof sums[0], false);
            const auto* const columns = reinterpret_cast<const float*>(b + j * size + kColumns * (size - 1));
            for (int h = 0; h < m.value; ++h) {
                const long first = h * kTileRows, row = i + first;
                const auto* const own = reinterpret_cast<const float*>(a + row * size + kTileRows * (size - 1));
                for (long r = 0; r < kTileRows; ++r)
                    for (long v = 0; v < n.value * kTileRows; v += Simd<float>::W)
                        store_product(load_whole(sums[first + r] + v), own[r], Simd<float>::load(columns + v),
                                      c + (row + r) * ldc + j + v, accumulate);
            }
        };
        in_tile_blocks(a, b, size, tiles_of(depth), rows, cols, block);
    }

    static void lengths(Rows src, long depth, const Gram<float>& out) { lengths_int8(src, depth, out); }
    static float mean_length(Rows src, long rows, long depth) { return mean_length_int8(src, rows, depth); }
};

constexpr const NarrowKernels& kInt8Kernels = kTileKernels<Quads>;

}  // namespace CMSEI_ISA
}  // namespace cmsei
