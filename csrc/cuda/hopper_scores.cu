// The Hopper pair score: its kernel, which has code for sm_90a alone, the maps that TMA reads by, and the launch.
#include <cudaTypedefs.h>

#include "hopper_device.cuh"

#include "hopper_pair.cuh"
#include "launch.h"
#include "tile_arguments.h"

namespace cmsei::cuda {
namespace {

using namespace cmsei::hopper;

// Registers for two blocks on a multiprocessor.
__global__ void __launch_bounds__(kThreads, 2)
    hopper_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Rectangles rectangles,
                  const __grid_constant__ CUtensorMap words, const __grid_constant__ CUtensorMap regions) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  run_thread(a, rectangles, words, regions, shared, static_cast<int>(threadIdx.x));
#else
  __trap();  // never launched: hopper_scores() refuses other devices
#endif
}

using EncodeTiled = PFN_cuTensorMapEncodeTiled_v12000;

// The driver's function, found at run time: the module links with no driver and is importable without one.
cudaError_t find_encode(EncodeTiled& encode) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
  encode = reinterpret_cast<EncodeTiled>(found);
  if (error != cudaSuccess) return error;
  return result == cudaDriverEntryPointSuccess && found ? cudaSuccess : cudaErrorSymbolNotFound;
}

// The map of tensor_map() in the driver's form.
std::string make_map(EncodeTiled encode, const TileRows& rows, const TileCall& call, int box_rows,
                     CUtensorMap& map) {
  const int type = static_cast<int>(call.type);
  const TensorMap plan =
      tensor_map(static_cast<uint64_t>(rows.data), rows.stride, rows.rows, call.width, type, box_rows);
  const cuuint64_t sizes[2] = {plan.sizes[0], plan.sizes[1]}, strides[1] = {plan.strides[0]};
  const auto numbers = plan.bytes == 1  ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                       : type == kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                          : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult result =
      encode(&map, numbers, 2, pair::address<void>(rows.data), sizes, strides, plan.box, plan.steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return "pair_score: CUDA driver error " + std::to_string(static_cast<int>(result)) + " while describing (" +
         std::to_string(rows.rows) + ", " + std::to_string(call.width) + ") features to TMA";
}

std::string explain(cudaError_t error, const char* during) { return cuda::explain("pair_score", error, during); }

// How the kernel is launched with clusters of a shape; the number of clusters is 1 until it is set.
struct Launch {
  Cluster cluster;
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config;

  Launch(const Cluster& shape, void* stream) : cluster(shape), attributes{}, config{} {
    const unsigned blocks = blocks_of(cluster);
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = blocks;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    // Blocks of a cluster keep step. Of the two on a multiprocessor one is to multiply while the other scores pairs.
    attributes[1].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[1].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicySpread;
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kSharedBytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
};

}  // namespace

std::string hopper_scores(const TileCall& call, int device, void* stream) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return explain(guard.error, "while choosing the device");
  if (call.image_tile_count == 0 || call.caption_tile_count == 0) return {};
  if (call.image_tile_count > kMostImageTiles)
    return "pair_score: the Hopper kernel takes at most " + std::to_string(kMostImageTiles) + " tiles of images, not " +
           std::to_string(call.image_tile_count);
  int major = 0, minor = 0;
  for (const auto& [attribute, value] : {std::pair{cudaDevAttrComputeCapabilityMajor, &major},
                                         std::pair{cudaDevAttrComputeCapabilityMinor, &minor}}) {
    const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device);
    if (error != cudaSuccess) return explain(error, "while asking what the device is");
  }
  if (major != 9 || minor != 0) return "pair_score: the Hopper kernel runs on compute capability 9.0 alone";
  // The consumers take the registers that the producers give back. If the code begins with fewer registers, they would
  // wait for ever: so does code that is not for sm_90a, which a driver loads that is told to compile all code anew.
  // Code to which a tool has added its own may begin with more.
  cudaFuncAttributes loaded{};
  cudaError_t error = cudaFuncGetAttributes(&loaded, hopper_kernel);
  if (error != cudaSuccess) return explain(error, "while asking for the Hopper kernel's registers");
  if (2 * loaded.numRegs < kProducerRegisters + kConsumerRegisters || loaded.numRegs > kConsumerRegisters)
    return "pair_score: the Hopper kernel was loaded with " + std::to_string(loaded.numRegs) +
           " registers a thread, not as compiled for the architecture 90a";
  EncodeTiled encode = nullptr;
  error = find_encode(encode);
  if (error != cudaSuccess) return explain(error, "while looking for cuTensorMapEncodeTiled in the driver");
  for (const auto& [attribute, value] : {std::pair{cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes},
                                         std::pair{cudaFuncAttributePreferredSharedMemoryCarveout, 100}}) {
    error = cudaFuncSetAttribute(hopper_kernel, attribute, value);
    if (error != cudaSuccess) return explain(error, "while reserving shared memory");
  }
  const Cluster cluster = cluster_of(fitting(call.caption_tile_count, kClusterCaptions),
                                     fitting(call.image_tile_count, kClusterImages));
  Launch launch(cluster, stream);
  int resident = 0;
  error = cudaOccupancyMaxActiveClusters(&resident, hopper_kernel, &launch.config);
  if (error != cudaSuccess) return explain(error, "while asking how many clusters of blocks run at a time");
  if (resident == 0)
    return "pair_score: a cluster of " + std::to_string(blocks_of(cluster)) + " blocks of " +
           std::to_string(kSharedBytes) + " bytes of shared memory does not fit this device";
  CUtensorMap words, regions;
  std::string problem = make_map(encode, call.words, call, kRows / cluster.images, words);
  if (problem.empty()) problem = make_map(encode, call.regions, call, kColumns / cluster.region_shares, regions);
  if (!problem.empty()) return problem;
  const Rectangles rectangles = rectangles_of(cluster, call.image_tile_count, call.caption_tile_count);
  const int64_t most = count_of(rectangles);
  launch.config.gridDim.x *= static_cast<unsigned>(most < resident ? most : resident);
  error = cudaLaunchKernelEx(&launch.config, hopper_kernel, arguments(call), rectangles, words, regions);
  return explain(error == cudaSuccess ? cudaGetLastError() : error, "at the launch of the Hopper kernel");
}

}  // namespace cmsei::cuda
