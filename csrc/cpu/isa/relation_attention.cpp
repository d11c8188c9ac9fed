// The kernels of relation-aware attention of one instruction set.
#include "relation_backward.h"
#include "relation_forward.h"

namespace cmsei {
namespace CMSEI_ISA {
namespace relation {

template <class S> RelationKernels<S> kernels() {
    return {Simd<S>::W, forward_bytes<S>, backward_bytes<S>, relation_forward<S>, relation_backward<S>};
}

}  // namespace relation

RelationKernels<float> relation_kernels_f32() { return relation::kernels<float>(); }
RelationKernels<double> relation_kernels_f64() { return relation::kernels<double>(); }

}  // namespace CMSEI_ISA
}  // namespace cmsei
