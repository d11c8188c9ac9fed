// Relation attention backward on the GPU: instances of the kernel and its launch.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "device.cuh"
#include "launch.h"
#include "relation_attention.h"
#include "relation_gradients.cuh"
#include "relation_rows.cuh"

namespace cmsei::cuda {
namespace {

using namespace cmsei::relation;

constexpr int kMostThreads = 256;

template <typename T, typename Acc>
__global__ void __launch_bounds__(kMostThreads, sizeof(Acc) == 4 ? 2 : 1)
    relation_gradient_kernel(const __grid_constant__ GradientArguments<T, Acc> a) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Thread thread{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  GradientKernel<T, Acc>(a, shared, thread).run();
}

std::string explain(cudaError_t error, const char* during) {
  return cuda::explain("relation_attention", error, during);
}

size_t accumulator_bytes(Type type) { return type == Type::kFloat64 ? sizeof(double) : sizeof(float); }

cudaError_t plan_for(const RelationAttention& call, int device, BackwardPlan& plan) {
  int limit = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    plan = make_backward_plan(shape_of(call), accumulator_bytes(call.type), static_cast<size_t>(limit));
  return error;
}

template <typename T, typename Acc>
std::string launch(const RelationGradients& call, const BackwardPlan& plan, int device, cudaStream_t stream) {
  const auto kernel = relation_gradient_kernel<T, Acc>;
  const cudaError_t error = allow_shared_memory(kernel, device);
  if (error != cudaSuccess) return explain(error, "while reserving shared memory");
  kernel<<<static_cast<unsigned>(plan.grid), plan.threads, plan.shared_bytes, stream>>>(
      gradient_arguments<T, Acc>(call, plan));
  return explain(cudaGetLastError(), "at the launch of the backward kernel");
}

}  // namespace

int64_t relation_attention_groups(const RelationAttention& call, int device, std::string& problem) {
  BackwardPlan plan{};
  problem = explain(plan_for(call, device, plan), "while asking for the device's shared memory");
  return plan.threads == 0 ? 0 : plan.groups;
}

std::string relation_attention_backward(const RelationGradients& call, int device, void* stream) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return explain(guard.error, "while choosing the device");
  BackwardPlan plan{};
  const cudaError_t error = plan_for(call.inputs, device, plan);
  if (error != cudaSuccess) return explain(error, "while asking for the device's shared memory");
  if (plan.threads == 0) return "relation_attention: the edges of one graph do not fit the shared memory of a block";
  if (plan.grid == 0 || call.inputs.nodes == 0) return {};
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (call.inputs.type) {
    case Type::kFloat32: return launch<float, float>(call, plan, device, queue);
    case Type::kFloat16: return launch<__half, float>(call, plan, device, queue);
    case Type::kBFloat16: return launch<__nv_bfloat16, float>(call, plan, device, queue);
    case Type::kFloat64: return launch<double, double>(call, plan, device, queue);
  }
  return "relation_attention: unknown type";
}

}  // namespace cmsei::cuda
