// Entry points of the CUDA module in plain C++: no CUDA header is needed to call them.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace cmsei::cuda {

enum class Type { kFloat32, kFloat16, kBFloat16, kFloat64 };

struct Matrix {
  const void* data;
  std::array<int64_t, 4> strides;  // of (batch, head, node, channel), in elements
};

// q, k, v: (B, H, R, d), any strides. Tables in fp32 (fp64 with fp64 inputs), contiguous; null where not given.
struct RelationAttention {
  Type type;
  int64_t batch, heads, nodes, head_dim, labels_count;
  Matrix q, k, v;
  const int32_t* labels;   // (B, R, R)
  const void* bias;        // (labels_count, H)
  const void* value;       // (labels_count, H, d rounded up to a multiple of 4), 16-byte aligned
  const void* confidence;  // (B, R, R)
  void* out;               // (B, H, R, d), contiguous
};

// Gradients of all that was given. `inputs.out` is not read; the value table is (labels_count, H, d) as it is.
struct RelationGradients {
  RelationAttention inputs;
  Matrix grad;           // (B, H, R, d), any strides
  void *d_q, *d_k, *d_v;  // (B, H, R, d), contiguous, in the inputs' type
  void* d_bias;          // (groups, labels_count, H), a sum of each group's; as the tables in fp32 or fp64
  void* d_value;         // (groups, labels_count, H, d)
  void* d_logits;        // (B, H, R, R), or null
};

// Groups of images whose sums the backward kernel keeps apart; 0 if a graph's edges do not fit a block's shared memory.
// Of the call, only the sizes and whether there is a value table are read.
int64_t relation_attention_groups(const RelationAttention& call, int device, std::string& problem);

// Enqueues the backward kernel on `stream` (a cudaStream_t) of `device`. Empty string, or what went wrong.
std::string relation_attention_backward(const RelationGradients& call, int device, void* stream);

// Enqueues the forward kernel on `stream` (a cudaStream_t) of `device`. Empty string, or what went wrong.
std::string relation_attention_forward(const RelationAttention& call, int device, void* stream);

// Number of GPUs that this module's CUDA runtime sees; 0 with the runtime's own words in `problem`.
int device_count(std::string& problem);

int runtime_version();

}  // namespace cmsei::cuda
