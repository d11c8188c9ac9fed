// Products of rows in bfloat16, where the processor has them (AVX512-BF16, AMX-BF16).
//
// Compiled for the instructions alone; dispatch.cpp adds these kernels to those of AVX-512.
#include "../amx_compiled.h"
#include "../kernels.h"

#if defined(CMSEI_AMX_BF16) || defined(CMSEI_EMULATE_TILES)
#include "tiles.h"
#else
#include "pair_products.h"
#endif

namespace cmsei {
namespace CMSEI_ISA {

void add_bf16_kernels(TypedKernels<float>& table) {
    table.pair.bf16 = &kBf16Kernels;
    add_similarity(table.similarity);
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
