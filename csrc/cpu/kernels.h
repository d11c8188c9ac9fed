// The functions that exist once per instruction set, and the table through which the portable drivers call them.
#pragma once

#include <cstdint>

#include "pair_kernels.h"
#include "relation_kernels.h"
#include "similarity_kernels.h"

namespace cmsei {

struct CpuKernels {
    const char* isa;
    PairKernels<float> pair_f32;
    PairKernels<double> pair_f64;
    RelationKernels<float> relation_f32;
    RelationKernels<double> relation_f64;
    SimilarityKernels<float> similarity_f32;
    SimilarityKernels<double> similarity_f64;
    double (*multiply_add_burst)(long iterations, float* sink);  // returns the operations done
};

// The variants compiled in that this processor can run, slowest first; terminated by nullptr.
const CpuKernels* const* available_kernels();
// By name, or the fastest for nullptr; nullptr if there is none of that name.
const CpuKernels* find_kernels(const char* isa);

}  // namespace cmsei
