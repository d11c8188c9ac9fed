// What every operator's launch needs: the right device, and errors in words.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace cmsei::cuda {

inline std::string explain(const char* operation, cudaError_t error, const char* during) {
  if (error == cudaSuccess) return {};
  return std::string(operation) + ": CUDA error " + std::to_string(static_cast<int>(error)) + " (" +
         cudaGetErrorString(error) + ") " + during;
}

// Raises a kernel's limit of dynamic shared memory to all that a block can have beside the kernel's static memory. The
// limit belongs to the kernel, not to a launch: were it set to what one launch needs, another thread could set its own
// between this thread's setting and its launch.
template <class... Arguments>
cudaError_t allow_shared_memory(void (*kernel)(Arguments...), int device) {
  int most = 0;
  cudaFuncAttributes own{};
  cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&own, kernel);
  if (error != cudaSuccess) return error;
  const int bytes = most - static_cast<int>(own.sharedSizeBytes);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// Makes a device current and gives the caller's back at the end.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error = cudaGetDevice(&previous_);
    if (error == cudaSuccess && previous_ != device) error = cudaSetDevice(device);
    changed_ = error == cudaSuccess && previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace cmsei::cuda
