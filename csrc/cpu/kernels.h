// The functions that exist once per instruction set, and the table through which the portable drivers call them.
#pragma once

#include <cstdint>

#include "pair_kernels.h"
#include "relation_kernels.h"
#include "similarity_kernels.h"

namespace cmsei {

template <class S> struct TypedKernels {
    PairKernels<S> pair;
    RelationKernels<S> relation;
    SimilarityKernels<S> similarity;
};

struct CpuKernels {
    const char* isa;
    TypedKernels<float> f32;
    TypedKernels<double> f64;
    double (*multiply_add_burst)(long iterations, float* sink);  // returns the operations done

    template <class S> const TypedKernels<S>& of() const {
        if constexpr (sizeof(S) == 4)
            return f32;
        else
            return f64;
    }
};

// The variants compiled in that this processor can run, slowest first; terminated by nullptr.
const CpuKernels* const* available_kernels();
// By name, or the fastest for nullptr; nullptr if there is none of that name.
const CpuKernels* find_kernels(const char* isa);

}  // namespace cmsei
