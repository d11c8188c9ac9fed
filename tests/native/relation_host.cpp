// Runs the body of the relation attention kernels on the host (fibers.h).
#include "fibers.h"

#include "../../csrc/cuda/relation_rows.cuh"

namespace {

using namespace cmsei::relation;
using cmsei::device::run_block;

struct Bfloat16 {
  uint16_t bits;
  Bfloat16() = default;
  explicit Bfloat16(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    bits = static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
};

#if defined(__FLT16_MANT_DIG__)
using Float16 = _Float16;
#else
using Float16 = void;  // the compiler has none
#endif

struct Options {
  int64_t shared_limit, grid, reversed;
};

using Shared = std::vector<Pack<float, 4>>;

template <typename T, typename Acc, int kDim, int kRowsPerLane>
int run(const cmsei::cuda::RelationAttention& call, const Options& options) {
  const Plan plan = make_plan(shape_of(call), kRowLanes * kRowsPerLane, sizeof(Acc), options.shared_limit);
  if (plan.warps == 0) return -1;
  const Arguments<T, Acc> arguments = forward_arguments<T, Acc>(call, plan);
  const int64_t blocks = std::min(plan.grid, options.grid);
  Shared shared((plan.shared_bytes + 15) / 16);
  for (int64_t index = 0; index < blocks; ++index) {
    std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * 16);  // NaN
    run_block(plan.warps * kWarp, options.reversed != 0, [&](int thread) {
      const Thread where{index, blocks, thread, plan.warps * kWarp};
      Kernel<T, Acc, kDim, kRowsPerLane>(arguments, reinterpret_cast<unsigned char*>(shared.data()), where).run();
    });
  }
  return plan.bins ? 1 : 0;
}

template <typename T, typename Acc>
int run_backward(const cmsei::cuda::RelationGradients& call, const Options& options) {
  const BackwardPlan plan = make_backward_plan(shape_of(call.inputs), sizeof(Acc), options.shared_limit);
  if (plan.threads == 0) return -1;
  const GradientArguments<T, Acc> arguments = gradient_arguments<T, Acc>(call, plan);
  for (int64_t index = 0; index < plan.grid; ++index) {
    Shared shared((plan.shared_bytes + 15) / 16);  // of exact size, so that a sanitizer sees whoever leaves it
    std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * 16);
    run_block(plan.threads, options.reversed != 0, [&](int thread) {
      const Thread where{index, plan.grid, thread, plan.threads};
      GradientKernel<T, Acc>(arguments, reinterpret_cast<unsigned char*>(shared.data()), where).run();
    });
  }
  return plan.threads;
}

template <typename T, typename Acc, int kRowsPerLane>
int choose(const cmsei::cuda::RelationAttention& call, const Options& options) {
  if (call.head_dim <= 64) return run<T, Acc, 64, kRowsPerLane>(call, options);
  if (call.head_dim <= 128) return run<T, Acc, 128, kRowsPerLane>(call, options);
  return run<T, Acc, 256, kRowsPerLane>(call, options);
}

template <typename T>
int choose_half(const T& call, const Options& options) {
  if constexpr (std::is_void_v<Float16>)
    return -4;
  else if constexpr (std::is_same_v<T, cmsei::cuda::RelationGradients>)
    return run_backward<Float16, float>(call, options);
  else
    return choose<Float16, float, 3>(call, options);
}

}  // namespace

// 1: labels were binned, 0: not, -1: no plan fits, -2: threads disagree about a barrier, -4: no float16 here.
extern "C" int relation_host(const cmsei::cuda::RelationAttention* call, const Options* options) {
  try {
    if (call->type == cmsei::cuda::Type::kFloat32) return choose<float, float, 3>(*call, *options);
    if (call->type == cmsei::cuda::Type::kFloat64) return choose<double, double, 1>(*call, *options);
    if (call->type == cmsei::cuda::Type::kFloat16) return choose_half(*call, *options);
    return choose<Bfloat16, float, 3>(*call, *options);
  } catch (const std::runtime_error&) {
    return -2;
  }
}

// Threads of a block, or as relation_host.
extern "C" int relation_host_backward(const cmsei::cuda::RelationGradients* call, const Options* options) {
  try {
    if (call->inputs.type == cmsei::cuda::Type::kFloat32) return run_backward<float, float>(*call, *options);
    if (call->inputs.type == cmsei::cuda::Type::kFloat64) return run_backward<double, double>(*call, *options);
    if (call->inputs.type == cmsei::cuda::Type::kFloat16) return choose_half(*call, *options);
    return run_backward<Bfloat16, float>(*call, *options);
  } catch (const std::runtime_error&) {
    return -2;
  }
}

extern "C" int64_t relation_host_groups(const cmsei::cuda::RelationAttention* call, const Options* options) {
  const size_t element = call->type == cmsei::cuda::Type::kFloat64 ? sizeof(double) : sizeof(float);
  const BackwardPlan plan = make_backward_plan(shape_of(*call), element, options->shared_limit);
  return plan.threads == 0 ? 0 : plan.groups;
}

// How often each of the batch * heads * nodes output rows is owned by a warp of the launch.
extern "C" int relation_cover(int rows_per_warp, int64_t element, const cmsei::cuda::RelationAttention* call,
                              int64_t shared_limit, int32_t* counts) {
  const Plan plan = make_plan(shape_of(*call), rows_per_warp, element, shared_limit);
  if (plan.warps == 0 || static_cast<int64_t>(plan.shared_bytes) > shared_limit) return -1;
  for (int64_t tile = 0; tile < plan.tiles; ++tile) {
    const Place place = locate(plan, call->heads, tile);
    for (int64_t row = place.first_row; row < place.first_row + plan.warps * plan.rows_per_warp; ++row)
      if (row < call->nodes) ++counts[(place.batch * call->heads + place.head) * call->nodes + row];
  }
  return plan.warps;
}

// How often each of the batch * heads graphs belongs to a block of the backward pass.
extern "C" int64_t relation_cover_backward(const cmsei::cuda::RelationAttention* call, int32_t* counts) {
  const BackwardPlan plan = make_backward_plan(shape_of(*call), sizeof(float), size_t(1) << 40);
  for (int64_t block = 0; block < plan.grid; ++block) {
    const int64_t first = block / call->heads * plan.images;
    for (int64_t image = first; image < std::min(first + plan.images, call->batch); ++image)
      ++counts[image * call->heads + block % call->heads];
  }
  return plan.groups;
}
