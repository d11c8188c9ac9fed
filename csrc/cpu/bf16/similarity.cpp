// SGRAF's similarity with layers over bfloat16 pairs.
#include "../isa/similarity.h"

namespace cmsei {
namespace CMSEI_ISA {

#if defined(CMSEI_PAIRS)
SimilarityKernels<float> similarity_of_pairs() { return similarity_table<float>(); }
#endif

}  // namespace CMSEI_ISA
}  // namespace cmsei
