// Products of bfloat16 pairs in tile registers (AMX-BF16): sixteen times the float32 rate, float32 sums.
#pragma once

#include "../similarity_kernels.h"
#include "../tile_product.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace {

struct Pairs {
    static long elements(long depth) { return tiles_of(2 * depth) * kElements; }

    static void pack_a(Rows src, long rows, long depth, uint32_t* dst) {
        const auto* p = static_cast<const char*>(src.data);
        const long stride = 2 * src.stride, size = elements(depth);
        for (long i = 0; i < rows; i += kTileRows)
            pack_a_tiles(p + i * stride, stride, rows - i, 2 * depth, dst + i * size);
    }

    static void pack_b(Rows src, long cols, long depth, uint32_t* dst) {
        const auto* p = static_cast<const char*>(src.data);
        const long stride = 2 * src.stride, size = elements(depth);
        for (long j = 0; j < cols; j += kColumns)
            pack_b_tiles(p + j * stride, stride, cols - j, 2 * depth, dst + j * size);
    }

    static void gemm(const uint32_t* a, const uint32_t* b, float* c, long ldc, long rows, long cols, long depth) {
        const auto block = [&](auto m, auto n, long i, long j, bool accumulate, auto... x) {
            char* const out = reinterpret_cast<char*>(c + i * ldc + j);
            tile_block<TileNumbers::kPairs, m.value, n.value>(x..., out, 4 * ldc, accumulate);
        };
        in_tile_blocks(a, b, elements(depth), tiles_of(2 * depth), rows, cols, block);
    }

    static void lengths(Rows src, long depth, const Gram<float>& out) { CMSEI_ISA::lengths(src, depth, out); }
    static float mean_length(Rows src, long rows, long depth) {
        return CMSEI_ISA::mean_length<float>(src, rows, depth);
    }
};

constexpr const NarrowKernels& kBf16Kernels = kTileKernels<Pairs>;

// SGRAF's similarity stays that of the kernels to which these are added: pairs multiplied by vector instructions.
void add_similarity(SimilarityKernels<float>&) {}

}  // namespace
}  // namespace CMSEI_ISA
}  // namespace cmsei
