// The pair score by mma.sync: its kernel and the launch.
#include "ampere_device.cuh"

#include "ampere_pair.cuh"
#include "launch.h"
#include "tile_arguments.h"

namespace cmsei::cuda {
namespace {

using namespace cmsei::ampere;

__global__ void __launch_bounds__(kThreads, 2)
    ampere_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Rows words,
                  const __grid_constant__ Rows regions) {
  extern __shared__ __align__(16) unsigned char shared[];
  run_thread(a, words, regions, shared, blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x));
}

std::string explain(cudaError_t error, const char* during) { return cuda::explain("pair_score", error, during); }

}  // namespace

std::string ampere_scores(const TileCall& call, int device, void* stream) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return explain(guard.error, "while choosing the device");
  if (tile::bytes_of(static_cast<int>(call.type)) == 1)
    return "pair_score: the kernel by mma.sync does not multiply numbers of 8 bits";
  if (call.image_tile_count == 0 || call.caption_tile_count == 0) return {};
  int processors = 0;
  cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return explain(error, "while asking what the device is");
  for (const auto& [attribute, value] : {std::pair{cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes},
                                         std::pair{cudaFuncAttributePreferredSharedMemoryCarveout, 100}}) {
    error = cudaFuncSetAttribute(ampere_kernel, attribute, value);
    if (error != cudaSuccess) return explain(error, "while reserving shared memory");
  }
  const int64_t meetings = call.image_tile_count * call.caption_tile_count, most = 2 * static_cast<int64_t>(processors);
  ampere_kernel<<<static_cast<unsigned>(meetings < most ? meetings : most), kThreads, kSharedBytes,
                  static_cast<cudaStream_t>(stream)>>>(tile::arguments(call), tile::rows(call.words, call.width),
                                                       tile::rows(call.regions, call.width));
  return explain(cudaGetLastError(), "at the launch of the kernel by mma.sync");
}

}  // namespace cmsei::cuda
