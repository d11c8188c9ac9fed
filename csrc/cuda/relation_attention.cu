// Relation attention forward on the GPU: instances of the kernel, the choice among them, and the launch.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "device.cuh"
#include "launch.h"
#include "relation_attention.cuh"
#include "relation_attention.h"
#include "relation_rows.cuh"

namespace cmsei::cuda {
namespace {

using namespace cmsei::relation;

// fp64 keeps a third of the rows a lane, so that its accumulators stay in registers; it is there for checks.
template <typename Acc>
constexpr int kRowsPerLane = sizeof(Acc) == 4 ? 3 : 1;

// Blocks that a multiprocessor should hold: as many as leave the accumulators in registers.
template <typename Acc, int kDim>
constexpr int kBlocks = sizeof(Acc) == 4 && kDim <= 128 ? 3 : 1;

template <typename T, typename Acc, int kDim>
__global__ void __launch_bounds__(kWarp* kMaxWarps, kBlocks<Acc, kDim>)
    relation_attention_kernel(const __grid_constant__ Arguments<T, Acc> a) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Thread thread{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
  Kernel<T, Acc, kDim, kRowsPerLane<Acc>>(a, shared, thread).run();
}

std::string explain(cudaError_t error, const char* during) {
  return cuda::explain("relation_attention", error, during);
}

template <typename T, typename Acc, int kDim>
std::string launch(const RelationAttention& call, int device, cudaStream_t stream) {
  int shared_limit = 0;
  cudaError_t error = cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return explain(error, "while asking for the device's shared memory");
  const Plan plan =
      make_plan(shape_of(call), kRowLanes * kRowsPerLane<Acc>, sizeof(Acc), static_cast<size_t>(shared_limit));
  if (plan.warps == 0)
    return "relation_attention: a block needs more shared memory than the " + std::to_string(shared_limit) +
           " bytes of this device";
  if (plan.tiles == 0) return {};
  const auto kernel = relation_attention_kernel<T, Acc, kDim>;
  error = allow_shared_memory(kernel, device);
  if (error != cudaSuccess) return explain(error, "while reserving shared memory");
  kernel<<<static_cast<unsigned>(plan.grid), plan.warps * kWarp, plan.shared_bytes, stream>>>(
      forward_arguments<T, Acc>(call, plan));
  return explain(cudaGetLastError(), "at the launch of the forward kernel");
}

template <typename T, typename Acc>
std::string choose(const RelationAttention& call, int device, cudaStream_t stream) {
  if (call.head_dim <= 64) return launch<T, Acc, 64>(call, device, stream);
  if (call.head_dim <= 128) return launch<T, Acc, 128>(call, device, stream);
  return launch<T, Acc, 256>(call, device, stream);
}

}  // namespace

std::string relation_attention_forward(const RelationAttention& call, int device, void* stream) {
  if (call.head_dim < 1 || call.head_dim > kMaxHeadDim)
    return "relation_attention: expected a head width from 1 to " + std::to_string(kMaxHeadDim) + ", got " +
           std::to_string(call.head_dim);
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return explain(guard.error, "while choosing the device");
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (call.type) {
    case Type::kFloat32: return choose<float, float>(call, device, queue);
    case Type::kFloat16: return choose<__half, float>(call, device, queue);
    case Type::kBFloat16: return choose<__nv_bfloat16, float>(call, device, queue);
    case Type::kFloat64: return choose<double, double>(call, device, queue);
  }
  return "relation_attention: unknown type";
}

int device_count(std::string& problem) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  problem = error == cudaSuccess ? "" : cudaGetErrorString(error);
  return error == cudaSuccess ? count : 0;
}

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace cmsei::cuda
