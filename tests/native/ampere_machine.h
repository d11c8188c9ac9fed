// What cp.async and ldmatrix do, as the PTX ISA documents them, for kernels that run as fibers. Stands in for
// csrc/cuda/ampere_device.cuh. Copies happen at once, or as late as waits allow: a kernel that is right gives the same.
#pragma once

#include "mma.h"

#include <deque>
#include <map>

namespace cmsei::device {

struct Copy {
  void* to;
  const void* from;
  bool inside;
};

struct Copier {
  bool late = false;
  std::map<int, std::vector<Copy>> open;
  std::map<int, std::deque<std::vector<Copy>>> groups;  // of each thread, committed
  const void* rows[128];
};
static Copier copier;

static void copy_now(const Copy& copy) {
  if (copy.inside)
    std::memcpy(copy.to, copy.from, 16);
  else
    std::memset(copy.to, 0, 16);
}

static void check_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) throw std::runtime_error("16 bytes that lie on no boundary of 16");
}

static void copy_async(void* to, const void* from, bool inside) {
  check_aligned(to);
  check_aligned(from);
  if (copier.late)
    copier.open[block->current].push_back({to, from, inside});
  else
    copy_now({to, from, inside});
}
static void commit_copies() {
  auto& open = copier.open[block->current];
  copier.groups[block->current].push_back(std::move(open));
  open.clear();
}
template <int kPending>
static void wait_copies() {
  auto& groups = copier.groups[block->current];
  for (; groups.size() > kPending; groups.pop_front())
    for (const Copy& copy : groups.front()) copy_now(copy);
}

// Register i of lane l: numbers 2 (l % 4) and the next of row l / 4 of matrix i, whose address lane 8 i + l / 4 gives.
template <int kCount>
static void load_matrices(uint32_t (&x)[kCount], const void* row) {
  const int self = block->current, lane = self % 32;
  check_aligned(row);
  copier.rows[self] = row;
  sync_warp(kLoadMatrices);
  for (int i = 0; i < kCount; ++i)
    std::memcpy(&x[i], static_cast<const char*>(copier.rows[self - lane + 8 * i + lane / 4]) + lane % 4 * 4, 4);
  sync_warp();
}

}  // namespace cmsei::device
