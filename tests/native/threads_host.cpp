// parallel_for on threads of its own, for which memory runs out: prints how many of 1000 tasks were done. The argument
// says how many allocations succeed: the first is the list of threads, then there is one for each of three threads.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "../../csrc/cpu/parallel.h"

static thread_local long left = -1; // below 0: no end

void* operator new(std::size_t size) {
  if (left == 0) throw std::bad_alloc();
  if (left > 0) --left;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

bool cmsei::run_on_torch_threads(int, void (*)(void*), void*) { return false; }

int main(int, char** arguments) {
  std::atomic<int> done{0};
  const std::function<void(long, int)> body = [&](long, int) { ++done; };
  left = std::atol(arguments[1]);
  cmsei::parallel_for(1000, 4, nullptr, body);
  left = -1;
  std::printf("%d", done.load());
}
