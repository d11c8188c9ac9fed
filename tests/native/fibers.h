// Runs a kernel's text on the host: every CUDA thread of a block is a fiber, barriers hand over to the next one. So
// indices, masks and the synchronisation are checked without a GPU. Stands in for csrc/cuda/device.cuh.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "device_numbers.h"

#define CMSEI_DEVICE inline

namespace cmsei::device {

enum class At { kRunning, kWarp, kBlock, kCluster, kPolling, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  At at = At::kRunning;
  int what = 0;                 // the instruction at which it waits for its warp
  int turn = 0;
  std::function<bool()> ready;  // of one that polls
};

struct Block {
  int rank = 0;  // in its cluster
  std::vector<Fiber> fibers;
  std::vector<double> exchanged[2];
  std::vector<int> asleep;        // of each warp, for how many rounds
  std::exception_ptr failure;     // of a thread
  std::function<void(int)> body;
  ucontext_t scheduler;
  int current = 0;
};

// How the blocks of a cluster take turns.
struct Schedule {
  bool reversed = false;                                     // threads, and blocks, in descending order
  unsigned seed = 0;                                         // else: warps and whole blocks fall asleep, as it draws
  std::function<bool()> stuck = [] { return false; };        // where no thread can go on: does what is outstanding
                                                             // elsewhere; false if nothing is
  std::function<void()> passed = [] {};                      // at each barrier of the whole cluster
  std::function<void()> round = [] {};                       // at any time
};

static Block* block = nullptr;

static void wait(At at, int what = 0) {
  Fiber& fiber = block->fibers[block->current];
  fiber.at = at;
  fiber.what = what;
  swapcontext(&fiber.context, &block->scheduler);
}

CMSEI_DEVICE void sync_block() { wait(At::kBlock); }
// Instructions of a whole warp.
enum Together { kSync, kExchange, kMultiply, kMultiplyTf32, kLoadMatrices, kWaitForProducts };
CMSEI_DEVICE void sync_warp(Together what = kSync) { wait(At::kWarp, what); }
[[maybe_unused]] static void sync_all_blocks() { wait(At::kCluster); }

[[maybe_unused]] static void poll(std::function<bool()> ready) {
  block->fibers[block->current].ready = std::move(ready);
  wait(At::kPolling);
}

// An exchange and the one after it take turns, so that one barrier keeps them apart.
template <typename T>
CMSEI_DEVICE T shuffle(T x, int lane) {
  const int self = block->current;
  if (lane < 0 || lane >= 32) throw std::runtime_error("a lane that no warp has");
  std::vector<double>& all = block->exchanged[block->fibers[self].turn ^= 1];
  all[self] = x;
  sync_warp(kExchange);
  return static_cast<T>(all[self - self % 32 + lane]);
}
template <typename T>
CMSEI_DEVICE T shuffle_xor(T x, int mask) {
  return shuffle(x, block->current % 32 ^ mask);
}
CMSEI_DEVICE bool all(bool yes) {
  int no = yes ? 0 : 1;
  for (int mask = 1; mask < 32; mask *= 2) no |= shuffle_xor(no, mask);
  return no == 0;
}

static void enter() {
  try {
    block->body(block->current);
  } catch (...) {
    block->failure = std::current_exception();
  }
  block->fibers[block->current].at = At::kDone;
}

static void prepare(Block& now, int threads, std::function<void(int)> body) {
  constexpr size_t kStack = 128 * 1024;
  now.body = std::move(body);
  for (auto& all : now.exchanged) all.resize(threads);
  now.asleep.resize(threads / 32);
  now.fibers.resize(threads);
  for (Fiber& fiber : now.fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &now.scheduler;
    makecontext(&fiber.context, enter, 0);
  }
}

static bool all_at(const Block& x, int first, int last, std::initializer_list<At> places) {
  return std::all_of(x.fibers.begin() + first, x.fibers.begin() + last, [&](const Fiber& f) {
    return std::find(places.begin(), places.end(), f.at) != places.end();
  });
}
static void release_fibers(Block& x, int first, int last) {
  for (int i = first; i < last; ++i)
    if (x.fibers[i].at != At::kDone) x.fibers[i].at = At::kRunning;
}

// Lets warps, and now and then all of a block, fall asleep for a while. Whether one sleeps that could go on.
static bool sleep(Block& x, std::minstd_rand& draw) {
  if (draw() % 32 == 0)
    for (int& warp : x.asleep) warp = draw() % 4 == 0 ? 0 : 40;
  bool could = false;
  for (size_t i = 0; i < x.asleep.size(); ++i) {
    int& warp = x.asleep[i];
    warp = warp > 0 ? warp - 1 : draw() % 16 == 0 ? draw() % 12 : 0;
    const auto first = x.fibers.begin() + 32 * i;
    could = could || (warp > 0 && std::any_of(first, first + 32, [](auto& f) { return f.at == At::kRunning; }));
  }
  return could;
}

// A round of a block: all of its threads that can go on do, up to the next barrier, one after the other. Whether any
// did.
static bool go_on(Block& now, bool reversed) {
  const int threads = static_cast<int>(now.fibers.size());
  bool ran = false;
  block = &now;
  for (int n = 0; n < threads; ++n) {
    const int i = reversed ? threads - 1 - n : n;
    if (now.fibers[i].at != At::kRunning || now.asleep[i / 32] > 0) continue;
    now.current = i;
    swapcontext(&now.scheduler, &now.fibers[i].context);
    if (now.failure) std::rethrow_exception(now.failure);
    ran = true;
  }
  const auto release = [&](int first, int last) {
    release_fibers(now, first, last);
    ran = true;
  };
  if (all_at(now, 0, threads, {At::kBlock})) release(0, threads);
  for (int warp = 0; warp < threads; warp += 32) {
    if (!all_at(now, warp, warp + 32, {At::kWarp})) continue;
    for (int i = warp; i < warp + 32; ++i)
      if (now.fibers[i].what != now.fibers[warp].what)
        throw std::runtime_error("a warp's threads at several instructions");
    release(warp, warp + 32);
  }
  for (int i = 0; i < threads; ++i)
    if (now.fibers[i].at == At::kPolling && now.fibers[i].ready()) release(i, i + 1);
  return ran;
}

// Runs body(thread) for all threads of all blocks of a cluster; throws where CUDA would hang at a barrier.
static void run_cluster(int count, int threads, const Schedule& schedule, const std::function<void(int)>& body) {
  std::vector<Block> blocks(count);
  std::minstd_rand draw(schedule.seed);
  for (int rank = 0; rank < count; ++rank) {
    blocks[rank].rank = rank;
    prepare(blocks[rank], threads, body);
  }
  for (;;) {
    bool ran = false;
    schedule.round();
    for (int n = 0; n < count; ++n) {
      Block& now = blocks[schedule.reversed ? count - 1 - n : n];
      if (schedule.seed != 0 && sleep(now, draw)) ran = true;
      if (go_on(now, schedule.reversed)) ran = true;
    }
    const auto all = [&](std::initializer_list<At> places) {
      return std::all_of(blocks.begin(), blocks.end(), [&](Block& x) { return all_at(x, 0, threads, places); });
    };
    if (all({At::kDone})) return;
    if (all({At::kCluster, At::kDone})) {
      for (Block& x : blocks) release_fibers(x, 0, threads);
      schedule.passed();
      ran = true;
    }
    if (!ran && !schedule.stuck()) throw std::runtime_error("threads wait at different barriers");
  }
}

// The same of one block.
[[maybe_unused]] static void run_block(int threads, bool reversed, const std::function<void(int)>& body) {
  Schedule schedule;
  schedule.reversed = reversed;
  run_cluster(1, threads, schedule, body);
}

}  // namespace cmsei::device
