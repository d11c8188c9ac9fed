#include "torch_threads.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#endif

namespace cmsei {

#if defined(__linux__)
namespace {

// GNU's entry to a parallel region, which other OpenMP libraries on Linux have too.
using Parallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<bool> forked{false};
[[maybe_unused]] const int told = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// Looked up by way of torch's library, which finds the OpenMP library that it was linked with: a process may hold
// several.
Parallel find_parallel() {
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch ? reinterpret_cast<Parallel>(dlsym(torch, "GOMP_parallel")) : nullptr;
}

}  // namespace

bool run_on_torch_threads(int threads, void (*body)(void*), void* data) {
    static const Parallel parallel = find_parallel();
    if (!parallel || forked) return false;
    parallel(body, data, static_cast<unsigned>(threads), 0);
    return true;
}
#else
bool run_on_torch_threads(int, void (*)(void*), void*) { return false; }
#endif

}  // namespace cmsei
