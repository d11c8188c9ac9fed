// The pair score from inner products that a library has computed, and its gradient: the kernel's text, in terms of the
// primitives of device.cuh, which the includer has defined, so that it also runs on a host (tests/).
#pragma once

#include "pair_plan.h"

namespace cmsei::pair {

// A warp as a team.
struct WarpTeam {
  static constexpr bool kFragments = false;
  int index;
  CMSEI_DEVICE int lane() const { return index; }
  CMSEI_DEVICE int size() const { return kWarp; }
  CMSEI_DEVICE void sync() const { device::sync_warp(); }
  template <class T>
  CMSEI_DEVICE T sum(T x) const {
#pragma unroll
    for (int mask = 1; mask < kWarp; mask *= 2) x += device::shuffle_xor(x, mask);
    return x;
  }
  template <class T>
  CMSEI_DEVICE T largest(T x) const {
#pragma unroll
    for (int mask = 1; mask < kWarp; mask *= 2) {
      const T other = device::shuffle_xor(x, mask);
      x = other > x ? other : x;
    }
    return x;
  }
};

// A block of kBlockThreads as a team; its warps' sums meet in shared memory.
struct BlockTeam {
  static constexpr bool kFragments = false;
  int index;
  double* reduction;  // a number of each warp
  CMSEI_DEVICE int lane() const { return index; }
  CMSEI_DEVICE int size() const { return kBlockThreads; }
  CMSEI_DEVICE void sync() const { device::sync_block(); }
  template <class T>
  CMSEI_DEVICE T sum(T x) const {
    x = gather(WarpTeam{index % kWarp}.sum(x));
    for (int warp = 1; warp < kBlockThreads / kWarp; ++warp) x += static_cast<T>(reduction[warp]);
    sync();
    return x;
  }
  template <class T>
  CMSEI_DEVICE T largest(T x) const {
    x = gather(WarpTeam{index % kWarp}.largest(x));
    for (int warp = 1; warp < kBlockThreads / kWarp; ++warp) {
      const T other = static_cast<T>(reduction[warp]);
      x = other > x ? other : x;
    }
    sync();
    return x;
  }

 private:
  template <class T>
  CMSEI_DEVICE T gather(T x) const {
    if (index % kWarp == 0) reduction[index / kWarp] = x;
    sync();
    return static_cast<T>(reduction[0]);
  }
};

template <class S>
struct Items {
  const int64_t *items, *offsets, *gram_offsets;
  int64_t row, start;
  const S *lengths, *means, *grams;
};

template <class S>
struct Arguments {
  PairConfig config;
  const S* scalars;
  Items<S> images, captions;
  const S* products;
  int64_t products_stride;
  S* scores;
  int64_t scores_stride;
  S* d_products;
  S *d_image_grams, *d_caption_grams;
  int64_t d_image_grams_stride, d_caption_grams_stride;
  double* d_scalars;
  unsigned char* scratch;
  Plan plan;
};

template <class S>
CMSEI_DEVICE PairSide<S> side_of(const Items<S>& x, int64_t item) {
  const int64_t row = x.offsets[item];
  return {static_cast<int>(x.offsets[item + 1] - row), x.grams + x.gram_offsets[item], x.lengths + row, x.means[item]};
}

// One team's pairs. `memory` holds the plan's team_bytes.
template <class S, class Team, bool kBackward>
CMSEI_DEVICE void run_team(const Arguments<S>& a, const Team& team, int64_t index, unsigned char* memory) {
  const Place place = locate(a.plan, index);
  const int64_t image = a.images.items[place.image];
  const PairSide<S> regions = side_of(a.images, image);
  const int ld = row_stride(regions.n);
  double* const totals = reinterpret_cast<double*>(memory);
  S* const block = reinterpret_cast<S*>(totals + (kBackward ? kMaxScalars : 0));
  if (kBackward) {
    CMSEI_EACH(i, kMaxScalars) totals[i] = 0;
    team.sync();
  }
#pragma unroll 1
  for (int64_t c = place.first; c < place.last; ++c) {
    const int64_t caption = a.captions.items[c];
    const PairSide<S> words = side_of(a.captions, caption);
    const int64_t corner = (a.captions.offsets[caption] - a.captions.row) * a.products_stride +
                           a.images.offsets[image] - a.images.row;
    S* const score = a.scores + image * a.scores_stride + caption;
    const S d = kBackward ? *score : S(1);
    if (kBackward && d == 0) {  // the hardest-negative loss leaves most pairs without a gradient
      CMSEI_EACH(i, words.n * regions.n) {
        const int j = i / regions.n;
        a.d_products[corner + j * a.products_stride + (i - j * regions.n)] = 0;
      }
      continue;
    }
    CMSEI_EACH(i, words.n * regions.n) {
      const int j = i / regions.n, r = i - j * regions.n;
      block[j * ld + r] = a.products[corner + j * a.products_stride + r];
    }
    team.sync();
    const TeamPair<S, Team> pair{team, a.config, a.scalars, regions, words, block, ld, block + words.n * ld};
    if (kBackward) {
      pair.backward(d, {a.d_products + corner, a.products_stride,
                        a.d_image_grams + place.split * a.d_image_grams_stride + a.images.gram_offsets[image] -
                            a.images.start,
                        a.d_caption_grams + place.image * a.d_caption_grams_stride +
                            a.captions.gram_offsets[caption] - a.captions.start,
                        totals});
    } else {
      const S value = pair.forward();
      if (team.lane() == 0) *score = value;
    }
    team.sync();
  }
  if (kBackward) {
    CMSEI_EACH(i, kMaxScalars) a.d_scalars[index * kMaxScalars + i] = totals[i];
    team.sync();
  }
}

// What a thread of a block does.
template <class S, bool kWarps, bool kBackward>
CMSEI_DEVICE void run_thread(const Arguments<S>& a, unsigned char* shared, int64_t block, int thread) {
  const Plan& plan = a.plan;
  if (kWarps) {
    const int own = thread / kWarp;
    const WarpTeam team{thread % kWarp};
    for (int64_t t = block * plan.block_teams + own; t < plan.teams; t += plan.grid * plan.block_teams)
      run_team<S, WarpTeam, kBackward>(a, team, t, shared + own * plan.team_bytes);
  } else {
    const BlockTeam team{thread, reinterpret_cast<double*>(shared)};
    unsigned char* const memory = plan.scratch ? a.scratch + block * plan.team_bytes : shared + kReduction;
    for (int64_t t = block; t < plan.teams; t += plan.grid) run_team<S, BlockTeam, kBackward>(a, team, t, memory);
  }
}

}  // namespace cmsei::pair
