// Runs the body of the relation attention kernels on the host (fibers.h).
#include "fibers.h"

#include "../../csrc/cuda/relation_attention.cuh"

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

struct Call {
  int64_t batch, heads, nodes, head_dim, labels;
  const void *q, *k, *v;
  int64_t strides[4];  // the same of q, k, v
  const int32_t* label;
  const void *bias, *value, *confidence;
  void* out;
  int64_t shared_limit, grid, reversed;
};

Shape shape_of(const Call& call) {
  return {call.batch, call.heads, call.nodes, static_cast<int>(call.head_dim), call.labels, call.value != nullptr};
}

template <typename T, typename Acc, int kDim, int kRowsPerLane>
int run(const Call& call) {
  const Plan plan = make_plan(shape_of(call), kRowLanes * kRowsPerLane, sizeof(Acc), call.shared_limit);
  if (plan.warps == 0) return -1;
  const auto rows = [&](const void* data) {
    constexpr int64_t kEach = 16 / sizeof(T);
    const int64_t* s = call.strides;
    const bool vectorised = s[3] == 1 && call.head_dim % kEach == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
                            s[0] % kEach == 0 && s[1] % kEach == 0 && s[2] % kEach == 0;
    return Rows<T>{static_cast<const T*>(data), s[0], s[1], s[2], s[3], vectorised};
  };
  const Arguments<T, Acc> arguments{rows(call.q),
                                    rows(call.k),
                                    rows(call.v),
                                    call.label,
                                    static_cast<const Acc*>(call.bias),
                                    static_cast<const Acc*>(call.value),
                                    static_cast<const Acc*>(call.confidence),
                                    static_cast<T*>(call.out),
                                    shape_of(call),
                                    plan};
  const int64_t blocks = std::min(plan.grid, call.grid);
  std::vector<Pack<float, 4>> shared((plan.shared_bytes + 15) / 16);
  for (int64_t index = 0; index < blocks; ++index) {
    std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * 16);  // NaN
    run_block(plan.warps * kWarp, call.reversed != 0, [&](int thread) {
      const Thread where{index, blocks, thread, plan.warps * kWarp};
      Kernel<T, Acc, kDim, kRowsPerLane>(arguments, reinterpret_cast<unsigned char*>(shared.data()), where).run();
    });
  }
  return plan.bins ? 1 : 0;
}

template <typename T, typename Acc, int kRowsPerLane>
int choose(const Call& call) {
  if (call.head_dim <= 64) return run<T, Acc, 64, kRowsPerLane>(call);
  if (call.head_dim <= 128) return run<T, Acc, 128, kRowsPerLane>(call);
  return run<T, Acc, 256, kRowsPerLane>(call);
}

}  // namespace

// 1: labels were binned, 0: not, -1: no plan fits, -2: threads disagree about a barrier.
extern "C" int relation_host(int type, const Call* call) {
  try {
    if (type == 0) return choose<float, float, 3>(*call);
    if (type == 1) return choose<double, double, 1>(*call);
    return choose<Bfloat16, float, 3>(*call);
  } catch (const std::runtime_error&) {
    return -2;
  }
}

// How often each of the batch * heads * nodes output rows is owned by a warp of the launch.
extern "C" int relation_cover(int rows_per_warp, int64_t element, const Call* call, int32_t* counts) {
  const Plan plan = make_plan(shape_of(*call), rows_per_warp, element, call->shared_limit);
  if (plan.warps == 0 || static_cast<int64_t>(plan.shared_bytes) > call->shared_limit) return -1;
  for (int64_t tile = 0; tile < plan.tiles; ++tile) {
    const Place place = locate(plan, call->heads, tile);
    for (int64_t row = place.first_row; row < place.first_row + plan.warps * plan.rows_per_warp; ++row)
      if (row < call->nodes) ++counts[(place.batch * call->heads + place.head) * call->nodes + row];
  }
  return plan.warps;
}
