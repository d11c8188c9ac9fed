// The arithmetic and the launch geometry of relation attention, shared by the CUDA kernel and by host code that checks
// it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lowest_logit.h"

#if defined(__CUDACC__)
#define CMSEI_RELATION_FN __host__ __device__ __forceinline__
#else
#include <cmath>
#define CMSEI_RELATION_FN inline
#endif

namespace cmsei::relation {

constexpr int kWarp = 32;
// A warp's 32 lanes stand as 4 x 8 over (query rows, keys) while logits are made: 40 keys a tile leave 36 regions
// (the field's usual number) with 10 % of idle lanes, where a lane per key in tiles of 32 would leave 44 %.
constexpr int kRowLanes = 4;
constexpr int kKeyLanes = 8;
constexpr int kKeysPerLane = 5;
constexpr int kTileKeys = kKeyLanes * kKeysPerLane;
constexpr int kMaxWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int64_t kMaxBinnedLabels = 256;
constexpr int64_t kMaxGrid = 2147483647;

// exp of a logit less the largest, as a power of 2: one instruction on the GPU. The factor is applied to the
// difference: applied to the logits it would round each of them once more, an error of 0.06 for logits of 10^6.
CMSEI_RELATION_FN float exp_of(float x) { return exp2f(x * 1.44269504088896340736f); }
CMSEI_RELATION_FN double exp_of(double x) { return exp(x); }
CMSEI_RELATION_FN float log_of(float x) { return logf(x); }
CMSEI_RELATION_FN double log_of(double x) { return log(x); }

// Factor of the queries: 1 / sqrt(d).
template <typename Acc>
CMSEI_RELATION_FN Acc query_scale(int head_dim) {
  return Acc(1) / static_cast<Acc>(sqrt(static_cast<double>(head_dim)));
}

// What is subtracted from logits: the running maximum, or 0 while no edge was seen, so that -inf - -inf is never
// formed.
template <typename Acc>
CMSEI_RELATION_FN Acc softmax_base(Acc running_max) {
  return running_max == -static_cast<Acc>(INFINITY) ? Acc(0) : running_max;
}

// A logit for the running maximum: at least kLowestLogit, so that a maximum of -inf means that no edge was seen.
template <typename Acc>
CMSEI_RELATION_FN Acc seen_logit(Acc logit) {
  constexpr Acc lowest = kLowestLogit<Acc>;
  return logit > lowest ? logit : lowest;
}

// 1 / sum, and 0 for a node without an edge. If the sum is NaN, so are the products with it; also if the node's logits
// are all -inf, since weights and sum are then 0 and 0 · (1 / 0) is NaN.
template <typename Acc>
CMSEI_RELATION_FN Acc inverse_sum(Acc sum, Acc running_max) {
  return sum == Acc(0) && running_max == -static_cast<Acc>(INFINITY) ? Acc(0) : Acc(1) / sum;
}

// Gradient of a logit from its weight, the weight's gradient and the row's mean of those, Σ weight · d.
template <typename Acc>
CMSEI_RELATION_FN Acc logit_gradient(Acc weight, Acc d, Acc mean) {
  return weight * (d - mean);
}

// How one launch is cut up: a tile is `warps * rows_per_warp` query rows of one (batch, head).
struct Plan {
  int warps;
  int rows_per_warp;
  bool bins;             // weights summed per label first, then one product with the value table
  int row_stride;        // elements between two rows of a shared tile; in 16-byte units odd: free of bank conflicts
  int64_t query_tiles;   // tiles of one (batch, head)
  int64_t tiles;         // of the whole launch
  int64_t grid;          // blocks launched; each walks over tiles, so that no count is limited by the grid
  size_t key_offset, weight_offset, factor_offset, answer_offset, label_offset, bin_offset, shared_bytes;
};

struct Shape {
  int64_t batch, heads, nodes;
  int head_dim;
  int64_t labels;        // rows of the bias and value tables; 0 without tables
  bool value;
};

// Place of a tile: which (batch, head) and which first query row.
struct Place {
  int64_t batch, head, first_row;
};

CMSEI_RELATION_FN Place locate(const Plan& plan, int64_t heads, int64_t tile) {
  const int64_t pair = tile / plan.query_tiles;
  const int64_t rows = static_cast<int64_t>(plan.warps) * plan.rows_per_warp;
  return {pair / heads, pair % heads, (tile % plan.query_tiles) * rows};
}

inline Plan arrange(const Shape& shape, int warps, int rows_per_warp, bool bins, size_t element) {
  Plan plan{};
  plan.warps = warps;
  plan.rows_per_warp = rows_per_warp;
  plan.bins = bins;
  plan.row_stride = (((shape.head_dim + 3) / 4) | 1) * 4;
  const int64_t rows = static_cast<int64_t>(warps) * rows_per_warp;
  plan.query_tiles = (shape.nodes + rows - 1) / rows;
  plan.tiles = plan.query_tiles * shape.batch * shape.heads;
  plan.grid = plan.tiles < kMaxGrid ? plan.tiles : kMaxGrid;
  const auto aligned = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  plan.key_offset = aligned(element * rows * plan.row_stride);
  plan.weight_offset = plan.key_offset + aligned(element * kTileKeys * plan.row_stride);
  plan.factor_offset = plan.weight_offset + aligned(element * rows * kTileKeys);
  plan.answer_offset = plan.factor_offset + aligned(element * rows);
  plan.label_offset = plan.answer_offset + aligned(sizeof(int32_t) * (kTileKeys + 1));
  plan.bin_offset = plan.label_offset + (shape.value ? aligned(sizeof(int32_t) * rows * kTileKeys) : 0);
  plan.shared_bytes = plan.bin_offset + (bins ? aligned(element * rows * shape.labels) : 0);
  return plan;
}

// The most warps that the rows can use and the shared memory holds; labels are binned while their bins fit.
// `warps == 0` in the result: not even one warp fits.
inline Plan make_plan(const Shape& shape, int rows_per_warp, size_t element, size_t shared_limit) {
  const int64_t useful = (shape.nodes + rows_per_warp - 1) / rows_per_warp;
  const int most = static_cast<int>(useful < kMaxWarps ? (useful > 0 ? useful : 1) : kMaxWarps);
  for (const bool bins : {true, false}) {
    if (bins && (!shape.value || shape.labels > kMaxBinnedLabels)) continue;
    for (int warps = most; warps >= 1; --warps) {
      const Plan plan = arrange(shape, warps, rows_per_warp, bins, element);
      if (plan.shared_bytes <= shared_limit) return plan;
    }
  }
  return Plan{};
}

constexpr int kSlice = 64;                         // channels of a slice
constexpr int64_t kBackwardBlocks = 2048;          // enough to fill any GPU
constexpr int64_t kMostPartials = int64_t(1) << 24;  // numbers of the tables' gradients, one set for each group

// The backward pass: a block takes one head of a group of images; it has all edges of one image in shared memory, and
// of the rows a slice of the channels at a time. Only `threads` (0: it does not fit) depends on the device, so results
// do not.
struct BackwardPlan {
  int threads;
  int slice_stride, edge_stride, bin_stride;  // elements from row to row, odd: free of bank conflicts
  int64_t groups, images;                     // images of a group
  int64_t grid;
  size_t right_offset, weight_offset, gradient_offset, bin_offset, keep_offset, shared_bytes;
};

inline BackwardPlan make_backward_plan(const Shape& shape, size_t element, size_t shared_limit) {
  BackwardPlan plan{};
  const int64_t nodes = shape.nodes, numbers = shape.labels * shape.heads * (1 + (shape.value ? shape.head_dim : 0));
  const int64_t wanted = (kBackwardBlocks + shape.heads - 1) / shape.heads;
  const int64_t held = numbers > 0 && kMostPartials / numbers < wanted ? kMostPartials / numbers : wanted;
  const int64_t groups = shape.batch < held ? shape.batch : held;
  plan.images = groups > 0 ? (shape.batch + groups - 1) / groups : shape.batch;
  plan.groups = (shape.batch + plan.images - 1) / plan.images;
  plan.grid = plan.groups * shape.heads;
  plan.slice_stride = (shape.head_dim < kSlice ? shape.head_dim : kSlice) | 1;
  plan.edge_stride = static_cast<int>(nodes | 1);
  plan.bin_stride = static_cast<int>(shape.labels | 1);
  const auto aligned = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  const size_t rows = shape.value && shape.labels > nodes ? shape.labels : nodes;
  plan.right_offset = aligned(element * nodes * plan.slice_stride);
  plan.weight_offset = plan.right_offset + aligned(element * rows * plan.slice_stride);
  plan.gradient_offset = plan.weight_offset + aligned(element * nodes * plan.edge_stride);
  plan.bin_offset = plan.gradient_offset + aligned(element * nodes * plan.edge_stride);
  plan.keep_offset = plan.bin_offset + (shape.labels > 0 ? aligned(element * nodes * plan.bin_stride) : 0);
  plan.shared_bytes = plan.keep_offset + aligned(sizeof(int32_t) * 2 * nodes);
  const bool fits = shape.labels <= kMaxBinnedLabels && plan.shared_bytes <= shared_limit && plan.grid <= kMaxGrid;
  plan.threads = !fits ? 0 : nodes <= 48 ? 128 : 256;
  return plan;
}

}  // namespace cmsei::relation
