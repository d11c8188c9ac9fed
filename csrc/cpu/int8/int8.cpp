// Products of rows rounded to whole numbers of 8 bits, where the processor has them (AVX-VNNI, AVX512-VNNI, AMX-INT8).
//
// Compiled for the instructions alone, whatever else a processor that has them lacks; dispatch.cpp adds these kernels
// to those of an instruction set with registers as wide.
#include "../amx_compiled.h"

#if defined(CMSEI_AMX_INT8) || defined(CMSEI_EMULATE_TILES)
#include "tiles.h"
#else
#include "quads.h"
#endif

namespace cmsei {
namespace CMSEI_ISA {

void add_int8_kernels(PairKernels<float>& table) {
    static constexpr NarrowKernels kernels = [] {
        NarrowKernels own = kInt8Kernels;
        own.rounded_size = rounded_size;
        own.round = round_rows;
        return own;
    }();
    table.int8 = &kernels;
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
