// Runs a kernel's text on the host: every CUDA thread of a block is a fiber, barriers hand over to the next one. So
// indices, masks and the synchronisation are checked without a GPU. Stands in for csrc/cuda/device.cuh.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define CMSEI_DEVICE inline

namespace cmsei::device {

enum class At { kRunning, kWarp, kBlock, kPolling, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  At at = At::kRunning;
  int turn = 0;
  std::function<bool()> ready;  // of one that polls
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<double> exchanged[2];
  std::function<void(int)> body;
  std::function<bool()> stuck;  // where no thread can go on: does what is outstanding elsewhere; false if nothing is
  ucontext_t scheduler;
  int current = 0;
};

static Block* block = nullptr;

static void wait(At at) {
  Fiber& fiber = block->fibers[block->current];
  fiber.at = at;
  swapcontext(&fiber.context, &block->scheduler);
}

CMSEI_DEVICE void sync_block() { wait(At::kBlock); }
CMSEI_DEVICE void sync_warp() { wait(At::kWarp); }

[[maybe_unused]] static void poll(std::function<bool()> ready) {
  block->fibers[block->current].ready = std::move(ready);
  wait(At::kPolling);
}

// An exchange and the one after it take turns, so that one barrier keeps them apart.
template <typename T>
CMSEI_DEVICE T shuffle_xor(T x, int mask) {
  const int self = block->current;
  std::vector<double>& all = block->exchanged[block->fibers[self].turn ^= 1];
  all[self] = x;
  sync_warp();
  return static_cast<T>(all[self ^ mask]);
}

static void enter() {
  block->body(block->current);
  block->fibers[block->current].at = At::kDone;
}

// Runs body(thread) for all threads of a block; throws where CUDA would hang at a barrier.
// Between two barriers the threads run one after the other, in ascending or, `reversed`, in descending order.
static void run_block(int threads, bool reversed, std::function<void(int)> body,
                      std::function<bool()> stuck = [] { return false; }) {
  constexpr size_t kStack = 128 * 1024;
  Block now;
  block = &now;
  now.body = std::move(body);
  now.stuck = std::move(stuck);
  for (auto& all : now.exchanged) all.resize(threads);
  now.fibers.resize(threads);
  for (Fiber& fiber : now.fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &now.scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (;;) {
    bool ran = false;
    for (int n = 0; n < threads; ++n) {
      const int i = reversed ? threads - 1 - n : n;
      if (now.fibers[i].at != At::kRunning) continue;
      now.current = i;
      swapcontext(&now.scheduler, &now.fibers[i].context);
      ran = true;
    }
    const auto all = [&](int first, int last, At at) {
      return std::all_of(now.fibers.begin() + first, now.fibers.begin() + last, [at](auto& f) { return f.at == at; });
    };
    const auto release = [&](int first, int last) {
      for (int i = first; i < last; ++i) now.fibers[i].at = At::kRunning;
      ran = true;
    };
    if (all(0, threads, At::kDone)) return;
    if (all(0, threads, At::kBlock)) release(0, threads);
    for (int warp = 0; warp < threads; warp += 32)
      if (all(warp, warp + 32, At::kWarp)) release(warp, warp + 32);
    for (int i = 0; i < threads; ++i)
      if (now.fibers[i].at == At::kPolling && now.fibers[i].ready()) release(i, i + 1);
    if (!ran && !now.stuck()) throw std::runtime_error("threads wait at different barriers");
  }
}

}  // namespace cmsei::device
