// Relation attention forward: the body of the kernel, in terms of the primitives of device.cuh, which the includer has
// defined, so that the same text also runs on a host (tests/).
//
// A block takes a tile of query rows of one (batch, head) and walks over the keys in tiles of kTileKeys with an online
// softmax, so any number of nodes fits. K and V take turns in one shared buffer, which leaves room for more blocks.
#pragma once

#include "../include/relation_math.h"

namespace cmsei::relation {

using device::shuffle_xor;
using device::sync_block;
using device::sync_warp;

template <typename T>
struct Rows {  // of a (B, H, R, d) tensor
  const T* data;
  int64_t batch_stride, head_stride, node_stride, channel_stride;
  bool vectorised;  // 16-byte loads are aligned and stay inside a row

  CMSEI_DEVICE const T* at(int64_t batch, int64_t head, int64_t node) const {
    return data + batch * batch_stride + head * head_stride + node * node_stride;
  }
};

template <typename T, typename Acc>
struct Arguments {
  Rows<T> q, k, v;
  const int32_t* labels;
  const Acc* bias;
  const Acc* value;  // rows padded to a multiple of 4 channels
  const Acc* confidence;
  T* out;
  Shape shape;
  Plan plan;
};

struct Thread {
  int64_t block, blocks;
  int index, count;
};

template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount) Pack {
  Element x[kCount];
};

// kCount elements, aligned to as much of 16 bytes as they fill, in loads of up to 16 bytes.
template <int kCount, typename Acc>
CMSEI_DEVICE void read(const Acc* from, Acc* to) {
  constexpr int kMost = 16 / static_cast<int>(sizeof(Acc));
  constexpr int kEach = kCount < kMost ? kCount : kMost;
#pragma unroll
  for (int first = 0; first < kCount; first += kEach) {
    const auto pack = *reinterpret_cast<const Pack<Acc, kEach>*>(from + first);
#pragma unroll
    for (int e = 0; e < kEach; ++e) to[first + e] = pack.x[e];
  }
}

template <typename Acc>
CMSEI_DEVICE bool finite(Acc x) {
  return x - x == Acc(0);
}

// Rows [first, first + rows) of one (batch, head), times `factor`, into shared memory; what lies between the last row
// and `padded` rows, and between the last channel and the next multiple of 4, becomes 0, and so do rows for which
// `wanted`, if given, is 0. `spoilt`, if given, becomes 1 if any other row has a number that is not finite.
template <typename T, typename Acc>
CMSEI_DEVICE void load_rows(const Rows<T>& from, const Place& place, int64_t first, int rows, int padded, int channels,
                            Acc factor, Acc* to, int stride, const Thread& thread, const int32_t* wanted = nullptr,
                            int32_t* spoilt = nullptr) {
  constexpr int kEach = 16 / sizeof(T);
  const T* source = from.at(place.batch, place.head, first);
  const int width = (channels + 3) / 4 * 4;
  if (from.vectorised) {
    const int packs = channels / kEach;
    for (int i = thread.index; i < rows * packs; i += thread.count) {
      const int row = i / packs, c = (i - row * packs) * kEach;
      const auto pack = *reinterpret_cast<const Pack<T, kEach>*>(source + row * from.node_stride + c);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        const Acc x = wanted && wanted[row] == 0 ? Acc(0) : static_cast<Acc>(pack.x[e]) * factor;
        to[row * stride + c + e] = x;
        if (spoilt && !finite(x)) *spoilt = 1;
      }
    }
  } else {
    for (int i = thread.index; i < rows * width; i += thread.count) {
      const int row = i / width, c = i - row * width;
      const Acc x = c < channels && !(wanted && wanted[row] == 0)
                        ? static_cast<Acc>(source[row * from.node_stride + c * from.channel_stride]) * factor
                        : Acc(0);
      to[row * stride + c] = x;
      if (spoilt && !finite(x)) *spoilt = 1;
    }
  }
  for (int i = rows * width + thread.index; i < padded * width; i += thread.count) {
    const int row = i / width;
    to[row * stride + (i - row * width)] = Acc(0);
  }
  if (from.vectorised && width != channels) {
    for (int row = thread.index; row < rows; row += thread.count)
      for (int c = channels; c < width; ++c) to[row * stride + c] = Acc(0);
  }
}

// kDim: channels rounded up to 64, 128 or 256; a lane owns kDim / 32 of them. kRowsPerLane: query rows a lane holds
// while logits are made (a warp owns 4 times as many).
template <typename T, typename Acc, int kDim, int kRowsPerLane>
struct Kernel {
  static constexpr int kRows = kRowLanes * kRowsPerLane;
  static constexpr int kColumns = kDim / kWarp;
  static constexpr int kVector = kColumns < 4 ? kColumns : 4;
  static constexpr int kVectors = kColumns / kVector;

  const Arguments<T, Acc>& a;
  const Thread& thread;
  const int warp, lane;
  Acc* queries;      // (kRows, row_stride) of this warp
  Acc* keys;         // (kTileKeys, row_stride), keys and values in turn
  Acc* weights;      // (kRows, kTileKeys) of this warp
  Acc* factors;      // (kRows) of this warp
  int32_t* answers;  // (kTileKeys): whether a query of the block has an edge to a key
  int32_t* spoilt;   // (): whether the value of such a key has a number that is not finite
  int32_t* classes;  // (kRows, kTileKeys) labels of this warp, where a value table is given
  Acc* bins;         // (kRows, labels) of this warp
  Acc out[kRows][kColumns];
  Acc row_max[kRowsPerLane], row_sum[kRowsPerLane];

  CMSEI_DEVICE Kernel(const Arguments<T, Acc>& arguments, unsigned char* shared, const Thread& where)
      : a(arguments), thread(where), warp(where.index / kWarp), lane(where.index % kWarp) {
    const Plan& plan = a.plan;
    const int64_t row = static_cast<int64_t>(warp) * kRows;
    queries = reinterpret_cast<Acc*>(shared) + row * plan.row_stride;
    keys = reinterpret_cast<Acc*>(shared + plan.key_offset);
    weights = reinterpret_cast<Acc*>(shared + plan.weight_offset) + row * kTileKeys;
    factors = reinterpret_cast<Acc*>(shared + plan.factor_offset) + row;
    answers = reinterpret_cast<int32_t*>(shared + plan.answer_offset);
    spoilt = answers + kTileKeys;
    classes = reinterpret_cast<int32_t*>(shared + plan.label_offset) + row * kTileKeys;
    bins = reinterpret_cast<Acc*>(shared + plan.bin_offset) + row * a.shape.labels;
  }

  CMSEI_DEVICE int column(int vector) const { return (vector * kWarp + lane) * kVector; }

  // Logits of this warp's rows against the key tile -> weights, and the factor by which older sums shrink.
  CMSEI_DEVICE void attend(const Place& place, int64_t first_row, int64_t first_key, int key_count) {
    const int row_lane = lane / kKeyLanes, key_lane = lane % kKeyLanes;
    const int64_t nodes = a.shape.nodes;
    int32_t label[kRowsPerLane][kKeysPerLane];
    Acc logit[kRowsPerLane][kKeysPerLane];
#pragma unroll
    for (int i = 0; i < kRowsPerLane; ++i) {
      const int64_t row = first_row + row_lane + i * kRowLanes;
      const int32_t* labels = a.labels + (place.batch * nodes + row) * nodes + first_key;
#pragma unroll
      for (int j = 0; j < kKeysPerLane; ++j) {
        const int key = key_lane + j * kKeyLanes;
        label[i][j] = row < nodes && key < key_count ? labels[key] : 0;
        logit[i][j] = Acc(0);
      }
    }
    const int stride = a.plan.row_stride;
#pragma unroll 1
    for (int c = 0; c < a.shape.head_dim; c += 4) {
      Acc q[kRowsPerLane][4], k[4];
#pragma unroll
      for (int i = 0; i < kRowsPerLane; ++i) read<4>(queries + (row_lane + i * kRowLanes) * stride + c, q[i]);
#pragma unroll
      for (int j = 0; j < kKeysPerLane; ++j) {
        read<4>(keys + (key_lane + j * kKeyLanes) * stride + c, k);
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) logit[i][j] += q[i][e] * k[e];
      }
    }
    const Acc none = -static_cast<Acc>(INFINITY);
#pragma unroll
    for (int i = 0; i < kRowsPerLane; ++i) {
      const int row = row_lane + i * kRowLanes;
      const int64_t edge = (place.batch * nodes + first_row + row) * nodes + first_key;
      Acc highest = none;
#pragma unroll
      for (int j = 0; j < kKeysPerLane; ++j) {
        const int key = key_lane + j * kKeyLanes;
        if (label[i][j] == 0) {
          logit[i][j] = none;
          continue;
        }
        if (a.shape.labels > 0 && (label[i][j] < 0 || label[i][j] >= a.shape.labels)) {
          // A label outside the tables is the caller's error: its row becomes NaN, nothing outside them is read.
          logit[i][j] = static_cast<Acc>(NAN);
          label[i][j] = 0;
          continue;
        }
        answers[key] = 1;
        if (a.bias) logit[i][j] += a.bias[label[i][j] * a.shape.heads + place.head];
        if (a.confidence) logit[i][j] += log_of(a.confidence[edge + key]);
        const Acc seen = seen_logit(logit[i][j]);
        highest = seen > highest ? seen : highest;
      }
#pragma unroll
      for (int mask = 1; mask < kKeyLanes; mask *= 2) {
        const Acc other = shuffle_xor(highest, mask);
        highest = other > highest ? other : highest;
      }
      highest = row_max[i] > highest ? row_max[i] : highest;
      const Acc base = softmax_base(highest);
      const Acc factor = exp_of(row_max[i] - base);
      row_max[i] = highest;
      row_sum[i] *= factor;
      if (key_lane == 0) factors[row] = factor;
#pragma unroll
      for (int j = 0; j < kKeysPerLane; ++j) {
        const Acc weight = exp_of(logit[i][j] - base);
        row_sum[i] += weight;
        weights[row * kTileKeys + key_lane + j * kKeyLanes] = weight;
        if (a.value) classes[row * kTileKeys + key_lane + j * kKeyLanes] = label[i][j];
      }
    }
    sync_warp();
  }

  // Adds the tile's weights to the bins of their labels; a lane per row, so the order of the sums is fixed.
  CMSEI_DEVICE void collect(bool first, int key_count) {
    const int labels = static_cast<int>(a.shape.labels);
    for (int i = lane; i < kRows * labels; i += kWarp) bins[i] = first ? Acc(0) : bins[i] * factors[i / labels];
    sync_warp();
    if (lane < kRows) {
      for (int key = 0; key < key_count; ++key)
        bins[lane * labels + classes[lane * kTileKeys + key]] += weights[lane * kTileKeys + key];
    }
    sync_warp();
  }

  CMSEI_DEVICE void fade() {
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[row][c] *= factors[row];
  }

  // out += weights · values along the edges alone: 0, the weight without an edge, times a number that is not finite
  // would be NaN.
  CMSEI_DEVICE void accumulate_edges(const Place& place, int64_t first_row, int64_t first_key, int key_count) {
    const int64_t nodes = a.shape.nodes;
    const int32_t* const labels = a.labels + (place.batch * nodes + first_row) * nodes + first_key;
#pragma unroll 1
    for (int key = 0; key < key_count; ++key) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        if (first_row + row >= nodes || labels[row * nodes + key] == 0) continue;
        const Acc weight = weights[row * kTileKeys + key];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int at = column(c / kVector) + c % kVector;
          out[row][c] += weight * keys[key * a.plan.row_stride + (at < a.plan.row_stride ? at : 0)];
        }
      }
    }
  }

  // out += weights · values, a lane's columns of every row of the warp.
  CMSEI_DEVICE void accumulate(int key_count) {
#pragma unroll 1
    for (int key = 0; key < key_count; key += 4) {
      Acc values[4][kColumns];
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int vector = 0; vector < kVectors; ++vector) {
          // Columns past the end of a shared row are read from its start: never written out, so only in bounds matters.
          const int c = column(vector) < a.plan.row_stride ? column(vector) : 0;
          read<kVector>(keys + (key + k) * a.plan.row_stride + c, values[k] + vector * kVector);
        }
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        Acc weight[4];
        read<4>(weights + row * kTileKeys + key, weight);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int c = 0; c < kColumns; ++c) out[row][c] += weight[k] * values[k][c];
      }
    }
  }

  // This lane's columns of one row of the value table.
  CMSEI_DEVICE void read_value(int64_t label, const Place& place, Acc* value) const {
    const int width = (a.shape.head_dim + 3) / 4 * 4;
    const Acc* from = a.value + (label * a.shape.heads + place.head) * width;
#pragma unroll
    for (int vector = 0; vector < kVectors; ++vector)
      read<kVector>(from + (column(vector) < width ? column(vector) : 0), value + vector * kVector);
  }

  // Adds the value table's part if there are too many labels for bins: one row of the table for each edge.
  CMSEI_DEVICE void gather(const Place& place, int key_count) {
#pragma unroll 1
    for (int key = 0; key < key_count; ++key) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const int32_t label = classes[row * kTileKeys + key];
        if (label == 0) continue;
        const Acc weight = weights[row * kTileKeys + key];
        Acc value[kColumns];
        read_value(label, place, value);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) out[row][c] += weight * value[c];
      }
    }
  }

  CMSEI_DEVICE void finish(const Place& place, int64_t first_row) {
#pragma unroll
    for (int i = 0; i < kRowsPerLane; ++i) {
#pragma unroll
      for (int mask = 1; mask < kKeyLanes; mask *= 2) row_sum[i] += shuffle_xor(row_sum[i], mask);
      if (lane % kKeyLanes == 0) factors[lane / kKeyLanes + i * kRowLanes] = inverse_sum(row_sum[i], row_max[i]);
    }
    sync_warp();
    if (a.plan.bins) {
#pragma unroll 1
      for (int64_t label = 1; label < a.shape.labels; ++label) {
        Acc value[kColumns];
        read_value(label, place, value);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const Acc weight = bins[row * a.shape.labels + label];
#pragma unroll
          for (int c = 0; c < kColumns; ++c) out[row][c] += weight * value[c];
        }
      }
    }
    const int channels = a.shape.head_dim;
    const int64_t nodes = a.shape.nodes;
    T* to = a.out + ((place.batch * a.shape.heads + place.head) * nodes + first_row) * channels;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (first_row + row >= nodes) continue;
      const Acc factor = factors[row];
#pragma unroll
      for (int vector = 0; vector < kVectors; ++vector) {
        const int c = column(vector);
        if (channels % kVector == 0) {
          if (c >= channels) continue;
          Pack<T, kVector> pack;
#pragma unroll
          for (int e = 0; e < kVector; ++e) pack.x[e] = static_cast<T>(out[row][vector * kVector + e] * factor);
          *reinterpret_cast<Pack<T, kVector>*>(to + static_cast<int64_t>(row) * channels + c) = pack;
        } else {
#pragma unroll
          for (int e = 0; e < kVector; ++e)
            if (c + e < channels)
              to[static_cast<int64_t>(row) * channels + c + e] =
                  static_cast<T>(out[row][vector * kVector + e] * factor);
        }
      }
    }
    sync_warp();
  }

  CMSEI_DEVICE void run() {
    const Plan& plan = a.plan;
    const int64_t nodes = a.shape.nodes;
    const int channels = a.shape.head_dim, stride = plan.row_stride;
    const int tile_rows = plan.warps * kRows;
    for (int64_t tile = thread.block; tile < plan.tiles; tile += thread.blocks) {
      const Place place = locate(plan, a.shape.heads, tile);
      const int64_t first_row = place.first_row + warp * kRows;
      const bool active = first_row < nodes;
      const int rows = static_cast<int>(nodes - place.first_row < tile_rows ? nodes - place.first_row : tile_rows);
      load_rows(a.q, place, place.first_row, rows, rows, channels, query_scale<Acc>(channels),
                queries - static_cast<int64_t>(warp) * kRows * stride, stride, thread);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) out[row][c] = Acc(0);
#pragma unroll
      for (int i = 0; i < kRowsPerLane; ++i) {
        row_max[i] = -static_cast<Acc>(INFINITY);
        row_sum[i] = Acc(0);
      }
#pragma unroll 1
      for (int64_t key = 0; key < nodes; key += kTileKeys) {
        const int count = static_cast<int>(nodes - key < kTileKeys ? nodes - key : kTileKeys);
        load_rows(a.k, place, key, count, count, channels, Acc(1), keys, stride, thread);
        for (int i = thread.index; i < kTileKeys + 1; i += thread.count) answers[i] = 0;
        sync_block();
        if (active) attend(place, first_row, key, count);
        sync_block();
        // Keys to which no query of the block has an edge are loaded as 0: a weight of 0 times a number that is not
        // finite would be NaN.
        load_rows(a.v, place, key, count, (count + 3) / 4 * 4, channels, Acc(1), keys, stride, thread, answers,
                  spoilt);
        sync_block();
        if (active) {
          if (plan.bins) collect(key == 0, count);
          if (key > 0) fade();
          if (*spoilt == 0)
            accumulate(count);
          else
            accumulate_edges(place, first_row, key, count);
          if (a.value && !plan.bins) gather(place, count);
        }
        sync_block();
      }
      if (active) finish(place, first_row);
    }
  }
};

}  // namespace cmsei::relation
