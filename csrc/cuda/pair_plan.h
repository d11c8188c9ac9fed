// How a launch of the pair score's kernel is cut up: plain functions that the host's tests enumerate.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../include/team_pair.h"

namespace cmsei::pair {

constexpr int kWarp = 32;
constexpr int kMostTeams = 8;               // warps of a block where each is a team
constexpr int kBlockThreads = 256;          // of a block that is one team
constexpr int64_t kScratchBlocks = 512;     // blocks that have a place in global memory
constexpr int64_t kMostNumbers = 1 << 27;   // of one pair's workspace: places in it are 32 bits
constexpr int64_t kMaxGrid = 2147483647;
constexpr size_t kReduction = kBlockThreads / kWarp * sizeof(double);

// A team walks over a share of one image's captions; teams of a block are warps, or the block is one team.
struct Plan {
  int team_threads, block_teams;  // block_teams == 0: a pair is too large
  int64_t splits, teams, grid;
  int64_t images, captions;
  size_t team_bytes;     // of a team's workspace
  bool scratch;          // workspaces lie in global memory
  size_t shared_bytes, scratch_bytes;
};

// A team's image and its captions [first, last), as indices into the launch's lists.
struct Place {
  int64_t image, split, first, last;
};

CMSEI_FORMULA Place locate(const Plan& plan, int64_t team) {
  const int64_t split = team % plan.splits, per = (plan.captions + plan.splits - 1) / plan.splits;
  const int64_t first = split * per < plan.captions ? split * per : plan.captions;
  return {team / plan.splits, split, first, first + per < plan.captions ? first + per : plan.captions};
}

CMSEI_FORMULA int row_stride(int64_t regions) { return static_cast<int>(regions | 1); }

inline PairConfig parse(const int64_t* x) {
  PairConfig config{};
  for (int d = 0; d < 2; ++d) {
    config.active[d] = static_cast<int>(x[4 * d]);
    config.norm[d] = static_cast<int>(x[4 * d + 1]);
    config.aggregate[d] = static_cast<int>(x[4 * d + 2]);
    config.steps[d] = static_cast<int>(x[4 * d + 3]);
    config.attend[d] = static_cast<int>(x[11 + 2 * d]);
    config.relevance[d] = static_cast<int>(x[12 + 2 * d]);
  }
  config.object_sentence = static_cast<int>(x[8]);
  config.word_image = static_cast<int>(x[9]);
  config.alignment = static_cast<int>(x[10]);
  config.derive();
  return config;
}

// Numbers of the workspace of a pair of these sizes: the gradients' totals, the inner products, and the team's own.
template <class S>
int64_t team_numbers(const PairConfig& config, int64_t regions, int64_t words, bool backward) {
  const int64_t ld = row_stride(regions), totals = backward ? kMaxScalars * (sizeof(double) / sizeof(S)) : 0;
  return totals + words * ld + TeamPair<S, Alone>::size(config, regions, words, ld, backward);
}

// Each warp is a team if four fit a block's shared memory; else a block is one, in global memory if its workspace does
// not fit the shared one.
template <class S>
Plan make_plan(const PairConfig& config, int64_t regions, int64_t words, int64_t images, int64_t captions,
               int64_t splits, bool backward, size_t shared_limit) {
  Plan plan{};
  const int64_t numbers = team_numbers<S>(config, regions, words, backward);
  if (numbers > kMostNumbers) return plan;
  plan.images = images;
  plan.captions = captions;
  plan.splits = splits;
  plan.teams = images * splits;
  plan.team_bytes = (static_cast<size_t>(numbers) * sizeof(S) + 15) / 16 * 16;
  if (plan.team_bytes * 4 <= shared_limit) {
    const size_t fit = shared_limit / plan.team_bytes;
    plan.team_threads = kWarp;
    plan.block_teams = fit < kMostTeams ? static_cast<int>(fit) : kMostTeams;
    plan.shared_bytes = plan.block_teams * plan.team_bytes;
  } else {
    plan.team_threads = kBlockThreads;
    plan.block_teams = 1;
    plan.scratch = plan.team_bytes + kReduction > shared_limit;
    plan.shared_bytes = kReduction + (plan.scratch ? 0 : plan.team_bytes);
  }
  const int64_t blocks = (plan.teams + plan.block_teams - 1) / plan.block_teams;
  const int64_t most = plan.scratch ? kScratchBlocks : kMaxGrid;
  plan.grid = blocks < most ? blocks : most;
  plan.scratch_bytes = plan.scratch ? plan.grid * plan.team_bytes : 0;
  return plan;
}

}  // namespace cmsei::pair
