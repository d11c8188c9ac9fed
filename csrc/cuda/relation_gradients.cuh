// Relation attention backward: the body of the kernel, in terms of the primitives of device.cuh, which the includer has
// defined, so that the same text also runs on a host (tests/).
//
// A block has one head of a group of images. The weights are computed again; they and the gradients of the logits stay
// in shared memory, while rows of queries, keys, values and gradients pass through it a slice of their channels at a
// time. The tables' gradients are a sum for each group, added up by the caller: every order of summation is fixed.
#pragma once

#include "../include/team.h"
#include "relation_attention.cuh"

namespace cmsei::relation {

template <typename T, typename Acc>
struct GradientArguments {
  Rows<T> q, k, v, grad;
  const int32_t* labels;
  const Acc *bias, *value, *confidence;  // (labels, H), (labels, H, d), (B, R, R); null where not given
  T *d_q, *d_k, *d_v;                    // (B, H, R, d)
  Acc *d_bias, *d_value;                 // (groups, labels, H), (groups, labels, H, d)
  Acc* d_logits;                         // (B, H, R, R); null if not needed
  Shape shape;
  BackwardPlan plan;
};

// A block as a team.
struct BlockLanes {
  int index, count;
  CMSEI_DEVICE int lane() const { return index; }
  CMSEI_DEVICE int size() const { return count; }
};

template <typename T, typename Acc>
struct GradientKernel {
  const GradientArguments<T, Acc>& a;
  const BlockLanes team;
  const int warp, lane, warps, nodes, channels;
  const int64_t head, group;
  Acc *left, *right;       // (nodes, slice); right also (labels, slice) of the value table
  Acc *weights, *d_edges;  // (nodes, nodes): weights; their gradients, then those of the logits
  Acc* bins;               // (nodes, labels)
  int32_t* keep;           // (2, nodes): whether any edge starts at a node, whether any ends there

  CMSEI_DEVICE GradientKernel(const GradientArguments<T, Acc>& arguments, unsigned char* shared, const Thread& where)
      : a(arguments),
        team{where.index, where.count},
        warp(where.index / kWarp),
        lane(where.index % kWarp),
        warps(where.count / kWarp),
        nodes(static_cast<int>(a.shape.nodes)),
        channels(a.shape.head_dim),
        head(where.block % a.shape.heads),
        group(where.block / a.shape.heads) {
    left = reinterpret_cast<Acc*>(shared);
    right = reinterpret_cast<Acc*>(shared + a.plan.right_offset);
    weights = reinterpret_cast<Acc*>(shared + a.plan.weight_offset);
    d_edges = reinterpret_cast<Acc*>(shared + a.plan.gradient_offset);
    bins = reinterpret_cast<Acc*>(shared + a.plan.bin_offset);
    keep = reinterpret_cast<int32_t*>(shared + a.plan.keep_offset);
  }

  CMSEI_DEVICE int slice_width(int first) const { return channels - first < kSlice ? channels - first : kSlice; }

  // The rows of slices, edges or bins as operands, or transposed.
  CMSEI_DEVICE Grid<const Acc> rows(const Acc* x) const { return {x, a.plan.slice_stride, 1}; }
  CMSEI_DEVICE Grid<const Acc> columns(const Acc* x) const { return {x, 1, a.plan.slice_stride}; }
  CMSEI_DEVICE Grid<const Acc> edges(const Acc* x) const { return {x, a.plan.edge_stride, 1}; }
  CMSEI_DEVICE Grid<const Acc> turned(const Acc* x, int stride) const { return {x, 1, stride}; }

  // Channels [first, first + width) of all nodes, times `factor`. A node without an edge is loaded as 0: a weight of 0
  // times a number that is not finite would be NaN.
  CMSEI_DEVICE void load(const Rows<T>& from, int64_t image, int first, int width, const int32_t* wanted, Acc factor,
                         Acc* to) const {
    const T* const source = from.at(image, head, 0) + first * from.channel_stride;
    CMSEI_EACH(i, nodes * width) {
      const int row = i / width, c = i - row * width;
      to[row * a.plan.slice_stride + c] =
          wanted[row] ? static_cast<Acc>(source[row * from.node_stride + c * from.channel_stride]) * factor : Acc(0);
    }
  }

  CMSEI_DEVICE void load_value(int first, int width) const {
    CMSEI_EACH(i, static_cast<int>(a.shape.labels) * width) {
      const int row = i / width, c = i - row * width;
      right[row * a.plan.slice_stride + c] = a.value[(row * a.shape.heads + head) * channels + first + c];
    }
  }

  CMSEI_DEVICE bool outside(int32_t label) const {
    return a.shape.labels > 0 && (label < 0 || label >= a.shape.labels);
  }

  CMSEI_DEVICE void find_edges(const int32_t* labels) const {
    CMSEI_EACH(i, 2 * nodes) {
      const int node = i < nodes ? i : i - nodes, step = i < nodes ? 1 : nodes;
      const int32_t* const first = labels + static_cast<int64_t>(node) * (i < nodes ? nodes : 1);
      int32_t any = 0;
      for (int k = 0; k < nodes; ++k) any |= first[static_cast<int64_t>(k) * step];
      keep[i] = any;
    }
  }

  CMSEI_DEVICE Acc sum(Acc x) const {
#pragma unroll
    for (int mask = 1; mask < kWarp; mask *= 2) x += shuffle_xor(x, mask);
    return x;
  }

  // From logits to weights, a row a warp.
  CMSEI_DEVICE void attend(int64_t image, const int32_t* labels) const {
    for (int i = warp; i < nodes; i += warps) {
      Acc* const row = weights + i * a.plan.edge_stride;
      const int32_t* const own = labels + static_cast<int64_t>(i) * nodes;
      Acc highest = -static_cast<Acc>(INFINITY);
      for (int j = lane; j < nodes; j += kWarp) {
        const int32_t label = own[j];
        Acc x = row[j];
        if (label == 0) {
          x = -static_cast<Acc>(INFINITY);
        } else if (outside(label)) {
          x = static_cast<Acc>(NAN);  // the caller's error: as forward, its row becomes NaN
        } else {
          if (a.bias) x += a.bias[label * a.shape.heads + head];
          if (a.confidence) x += log_of(a.confidence[(image * nodes + i) * nodes + j]);
          const Acc seen = seen_logit(x);
          highest = seen > highest ? seen : highest;
        }
        row[j] = x;
      }
#pragma unroll
      for (int mask = 1; mask < kWarp; mask *= 2) {
        const Acc other = shuffle_xor(highest, mask);
        highest = other > highest ? other : highest;
      }
      const Acc base = softmax_base(highest);
      Acc total = 0;
      for (int j = lane; j < nodes; j += kWarp) {
        row[j] = exp_of(row[j] - base);
        total += row[j];
      }
      const Acc inverse = inverse_sum(sum(total), highest);
      for (int j = lane; j < nodes; j += kWarp) row[j] = own[j] == 0 ? Acc(0) : row[j] * inverse;
    }
  }

  // From gradients of the weights to those of the logits, a row a warp; the value table's part is in the bins.
  CMSEI_DEVICE void attend_vjp(int64_t image, const int32_t* labels) const {
    for (int i = warp; i < nodes; i += warps) {
      const Acc* const row = weights + i * a.plan.edge_stride;
      Acc* const d_row = d_edges + i * a.plan.edge_stride;
      const int32_t* const own = labels + static_cast<int64_t>(i) * nodes;
      Acc mean = 0;
      for (int j = lane; j < nodes; j += kWarp) {
        const int32_t label = own[j];
        if (label == 0) continue;
        if (a.value) d_row[j] += bins[i * a.plan.bin_stride + (outside(label) ? 0 : label)];
        mean += row[j] * d_row[j];
      }
      mean = sum(mean);
      Acc* const out = a.d_logits ? a.d_logits + ((image * a.shape.heads + head) * nodes + i) * nodes : nullptr;
      for (int j = lane; j < nodes; j += kWarp) {
        const Acc d = own[j] == 0 ? Acc(0) : logit_gradient(row[j], d_row[j], mean);
        d_row[j] = d;
        if (out) out[j] = d;
      }
    }
  }

  // Sums of each row's numbers by label; a lane has a row, so the order of the sums is fixed. Label 0 gets nothing.
  CMSEI_DEVICE void collect(const Acc* x, const int32_t* labels) const {
    CMSEI_EACH(i, nodes) {
      Acc* const own = bins + i * a.plan.bin_stride;
      for (int label = 0; label < a.shape.labels; ++label) own[label] = 0;
      for (int j = 0; j < nodes; ++j) {
        const int32_t label = labels[static_cast<int64_t>(i) * nodes + j];
        if (label != 0 && !outside(label)) own[label] += x[i * a.plan.edge_stride + j];
      }
    }
  }

  CMSEI_DEVICE void add_bias(bool first) const {
    CMSEI_EACH(label, static_cast<int>(a.shape.labels)) {
      Acc total = 0;
      for (int i = 0; i < nodes; ++i) total += bins[i * a.plan.bin_stride + label];
      Acc& out = a.d_bias[(group * a.shape.labels + label) * a.shape.heads + head];
      out = first ? total : out + total;
    }
  }

  // If `sum` is not finite, computes this sum over the nodes again along the edges alone: in the product, a weight of 0
  // times a number that is not finite was NaN. x, y and labels: of node 0, with the steps to the next.
  CMSEI_DEVICE Acc along_edges(Acc sum, const Acc* x, int x_step, const Acc* y, const int32_t* labels,
                               int label_step) const {
    if (finite(sum)) return sum;
    sum = 0;
#pragma unroll 1
    for (int k = 0; k < nodes; ++k)
      if (labels[static_cast<int64_t>(k) * label_step] != 0) sum += x[k * x_step] * y[k * a.plan.slice_stride];
    return sum;
  }

  CMSEI_DEVICE void run_image(int64_t image, bool first_image) const {
    const int32_t* const labels = a.labels + image * nodes * nodes;
    const int32_t *const asks = keep, *const answers = keep + nodes;
    const int label_count = static_cast<int>(a.shape.labels);
    const Acc scale = query_scale<Acc>(channels);
    find_edges(labels);
    sync_block();
#pragma unroll 1
    for (int first = 0; first < channels; first += kSlice) {
      const int width = slice_width(first);
      load(a.q, image, first, width, asks, scale, left);
      load(a.k, image, first, width, answers, Acc(1), right);
      sync_block();
      multiply<Acc>(team, rows(left), columns(right), Grid<Acc>{weights, a.plan.edge_stride, 1}, nodes, nodes, width,
                    first > 0);
      sync_block();
    }
    attend(image, labels);
#pragma unroll 1
    for (int first = 0; first < channels; first += kSlice) {
      const int width = slice_width(first);
      load(a.grad, image, first, width, asks, Acc(1), left);
      load(a.v, image, first, width, answers, Acc(1), right);
      sync_block();
      multiply<Acc>(team, rows(left), columns(right), Grid<Acc>{d_edges, a.plan.edge_stride, 1}, nodes, nodes, width,
                    first > 0);
      sync_block();
      if (!a.value) continue;
      load_value(first, width);
      sync_block();
      multiply<Acc>(team, rows(left), columns(right), Grid<Acc>{bins, a.plan.bin_stride, 1}, nodes, label_count, width,
                    first > 0);
      sync_block();
    }
    attend_vjp(image, labels);
    sync_block();
    if (a.bias) {
      collect(d_edges, labels);
      sync_block();
      add_bias(first_image);
      sync_block();
    }
    if (a.value) collect(weights, labels);
#pragma unroll 1
    for (int first = 0; first < channels; first += kSlice) {
      const int width = slice_width(first);
      const int64_t corner = (image * a.shape.heads + head) * nodes * channels + first;
      load(a.grad, image, first, width, asks, Acc(1), left);
      load(a.k, image, first, width, answers, scale, right);
      sync_block();
      contract<Acc>(team, turned(weights, a.plan.edge_stride), rows(left), nodes, width, nodes,
                    [&](int i, int c, Acc x) {
                      x = along_edges(x, weights + i, a.plan.edge_stride, left + c, labels + i, nodes);
                      a.d_v[corner + static_cast<int64_t>(i) * channels + c] = static_cast<T>(x);
                    });
      contract<Acc>(team, edges(d_edges), rows(right), nodes, width, nodes,
                    [&](int i, int c, Acc x) {
                      x = along_edges(x, d_edges + i * a.plan.edge_stride, 1, right + c,
                                      labels + static_cast<int64_t>(i) * nodes, 1);
                      a.d_q[corner + static_cast<int64_t>(i) * channels + c] = static_cast<T>(x);
                    });
      if (a.value) {
        Acc* const table = a.d_value + (group * a.shape.labels * a.shape.heads + head) * channels + first;
        contract<Acc>(team, turned(bins, a.plan.bin_stride), rows(left), label_count, width, nodes,
                      [&](int label, int c, Acc x) {
                        Acc& out = table[label * a.shape.heads * channels + c];
                        out = first_image ? x : out + x;
                      });
      }
      sync_block();
      load(a.q, image, first, width, asks, scale, left);
      sync_block();
      contract<Acc>(team, turned(d_edges, a.plan.edge_stride), rows(left), nodes, width, nodes,
                    [&](int i, int c, Acc x) {
                      x = along_edges(x, d_edges + i, a.plan.edge_stride, left + c, labels + i, nodes);
                      a.d_k[corner + static_cast<int64_t>(i) * channels + c] = static_cast<T>(x);
                    });
      sync_block();
    }
  }

  CMSEI_DEVICE void run() const {
    const int64_t first = group * a.plan.images;
    const int64_t end = first + a.plan.images < a.shape.batch ? first + a.plan.images : a.shape.batch;
#pragma unroll 1
    for (int64_t image = first; image < end; ++image) run_image(image, image == first);
  }
};

}  // namespace cmsei::relation
