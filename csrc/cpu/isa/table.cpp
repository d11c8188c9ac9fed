// The kernels of one instruction set, as one table.
#include "../kernels.h"
#include "../simd.h"

namespace cmsei {
namespace CMSEI_ISA {

PairKernels<float> pair_kernels_f32();
PairKernels<double> pair_kernels_f64();
RelationKernels<float> relation_kernels_f32();
RelationKernels<double> relation_kernels_f64();
SimilarityKernels<float> similarity_kernels_f32();
SimilarityKernels<double> similarity_kernels_f64();
double multiply_add_burst(long iterations, float* sink);

#define CMSEI_TEXT(x) #x
#define CMSEI_NAME(x) CMSEI_TEXT(x)

CpuKernels kernels() {
    return {CMSEI_NAME(CMSEI_ISA),
            {pair_kernels_f32(), relation_kernels_f32(), similarity_kernels_f32()},
            {pair_kernels_f64(), relation_kernels_f64(), similarity_kernels_f64()},
            multiply_add_burst};
}

}  // namespace CMSEI_ISA
}  // namespace cmsei
