// Gradients of pairs' inner products, Gram matrices and scalars.
#include "pair_launch.cuh"

namespace cmsei::cuda {

std::string pair_gradients(const PairCall& call, int device, void* stream) {
  return call.type == 0 ? launch_pairs<float, true>(call, device, stream)
                        : launch_pairs<double, true>(call, device, stream);
}

}  // namespace cmsei::cuda
