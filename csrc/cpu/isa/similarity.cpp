// SGRAF's similarity, for both widths of numbers.
#include "similarity.h"

namespace cmsei {
namespace CMSEI_ISA {

SimilarityKernels<float> similarity_kernels_f32() { return similarity_table<float>(); }
SimilarityKernels<double> similarity_kernels_f64() { return similarity_table<double>(); }

}  // namespace CMSEI_ISA
}  // namespace cmsei
