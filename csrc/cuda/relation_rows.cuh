// From a call in plain pointers to the relation kernels' typed arguments, on a GPU and on a host (tests/).
#pragma once

#include "relation_attention.h"
#include "relation_gradients.cuh"

namespace cmsei::relation {

inline Shape shape_of(const cuda::RelationAttention& call) {
  return {call.batch,        call.heads, call.nodes, static_cast<int>(call.head_dim), call.labels_count,
          call.value != nullptr};
}

template <typename T>
Rows<T> rows_of(const cuda::Matrix& matrix, int64_t channels) {
  constexpr int64_t kEach = 16 / sizeof(T);
  const auto& s = matrix.strides;
  const bool vectorised = s[3] == 1 && channels % kEach == 0 && reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&
                          s[0] % kEach == 0 && s[1] % kEach == 0 && s[2] % kEach == 0;
  return {static_cast<const T*>(matrix.data), s[0], s[1], s[2], s[3], vectorised};
}

template <typename T, typename Acc>
Arguments<T, Acc> forward_arguments(const cuda::RelationAttention& call, const Plan& plan) {
  return {rows_of<T>(call.q, call.head_dim),
          rows_of<T>(call.k, call.head_dim),
          rows_of<T>(call.v, call.head_dim),
          call.labels,
          static_cast<const Acc*>(call.bias),
          static_cast<const Acc*>(call.value),
          static_cast<const Acc*>(call.confidence),
          static_cast<T*>(call.out),
          shape_of(call),
          plan};
}

template <typename T, typename Acc>
GradientArguments<T, Acc> gradient_arguments(const cuda::RelationGradients& call, const BackwardPlan& plan) {
  const cuda::RelationAttention& inputs = call.inputs;
  return {rows_of<T>(inputs.q, inputs.head_dim),
          rows_of<T>(inputs.k, inputs.head_dim),
          rows_of<T>(inputs.v, inputs.head_dim),
          rows_of<T>(call.grad, inputs.head_dim),
          inputs.labels,
          static_cast<const Acc*>(inputs.bias),
          static_cast<const Acc*>(inputs.value),
          static_cast<const Acc*>(inputs.confidence),
          static_cast<T*>(call.d_q),
          static_cast<T*>(call.d_k),
          static_cast<T*>(call.d_v),
          static_cast<Acc*>(call.d_bias),
          static_cast<Acc*>(call.d_value),
          static_cast<Acc*>(call.d_logits),
          shape_of(inputs),
          plan};
}

}  // namespace cmsei::relation
