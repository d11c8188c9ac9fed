// Launches of the pair score's kernel, forward or backward.
#pragma once

#include "device.cuh"
#include "launch.h"
#include "pair_arguments.h"

namespace cmsei::cuda {

// All the registers that a full block can have: with half of them the forward pass spills.
template <class S, bool kWarps, bool kBackward>
__global__ void __launch_bounds__(pair::kBlockThreads, 1)
    pair_kernel(const __grid_constant__ pair::Arguments<S> a) {
  extern __shared__ __align__(16) unsigned char shared[];
  pair::run_thread<S, kWarps, kBackward>(a, shared, blockIdx.x, static_cast<int>(threadIdx.x));
}

inline cudaError_t shared_limit(int device, size_t& limit) {
  int bytes = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  limit = static_cast<size_t>(bytes);
  return error;
}

constexpr const char* kTooLarge = "pair_score: the inner products of one pair are more than the kernel's 2^27 numbers";

template <class S, bool kWarps, bool kBackward>
std::string enqueue(const PairCall& call, const pair::Plan& plan, int device, cudaStream_t stream) {
  const auto kernel = pair_kernel<S, kWarps, kBackward>;
  const cudaError_t error = allow_shared_memory(kernel, device);
  if (error != cudaSuccess) return explain("pair_score", error, "while reserving shared memory");
  kernel<<<static_cast<unsigned>(plan.grid), plan.team_threads * plan.block_teams, plan.shared_bytes, stream>>>(
      pair::arguments<S>(call, plan));
  return explain("pair_score", cudaGetLastError(), kBackward ? "at the launch of the gradients' kernel"
                                                             : "at the launch of the scores' kernel");
}

template <class S, bool kBackward>
std::string launch_pairs(const PairCall& call, int device, void* stream) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return explain("pair_score", guard.error, "while choosing the device");
  size_t limit = 0;
  const cudaError_t error = shared_limit(device, limit);
  if (error != cudaSuccess) return explain("pair_score", error, "while asking for the device's shared memory");
  const pair::Plan plan = pair::plan_of<S>(call, kBackward, limit);
  if (plan.block_teams == 0) return kTooLarge;
  if (plan.teams == 0 || call.captions.count == 0) return {};
  const auto queue = static_cast<cudaStream_t>(stream);
  return plan.team_threads == pair::kWarp ? enqueue<S, true, kBackward>(call, plan, device, queue)
                                          : enqueue<S, false, kBackward>(call, plan, device, queue);
}

}  // namespace cmsei::cuda
