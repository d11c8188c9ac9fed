// Work sharing: torch's threads, or threads that live for one call (no second OpenMP library, safe across fork); tasks
// are taken from a counter, and results never depend on which thread ran a task.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "torch_threads.h"

namespace cmsei {

// Runs work() on `threads` threads, the calling one included, or on fewer if there is no room or memory for more.
template <class Work> void run_on_own_threads(int threads, Work& work) {
    std::vector<std::thread> pool;
    pool.reserve(threads - 1);
    for (int t = 1; t < threads; ++t) {
        try {
            pool.emplace_back([&work] { work(); });
        } catch (const std::exception&) {
            break;
        }
    }
    work();
    for (auto& thread : pool) thread.join();
}

// Called from the calling thread between tasks, at most every 100 ms; returning true abandons the rest.
using Interrupted = std::function<bool()>;

// Runs body(task, thread) for task = 0..tasks-1, thread < threads. False if interrupted. Rethrows the first exception
// of a task.
inline bool parallel_for(long tasks, int threads, const Interrupted& interrupted,
                         const std::function<void(long, int)>& body) {
    std::atomic<long> next{0};
    std::atomic<int> arrived{0};
    std::atomic<bool> stop{false};
    std::exception_ptr error;
    std::mutex guard;
    const auto caller = std::this_thread::get_id();
    auto work = [&] {
        const int thread = arrived.fetch_add(1);
        const bool polls = interrupted && std::this_thread::get_id() == caller;
        auto last = std::chrono::steady_clock::now();
        try {
            for (long task; !stop && (task = next.fetch_add(1)) < tasks;) {
                body(task, thread);
                if (!polls) continue;
                const auto now = std::chrono::steady_clock::now();
                if (now - last < std::chrono::milliseconds(100)) continue;
                last = now;
                if (interrupted()) stop = true;
            }
        } catch (...) {
            std::lock_guard<std::mutex> hold(guard);
            if (!error) error = std::current_exception();
            stop = true;
        }
    };
    const auto run = [](void* own) { (*static_cast<decltype(work)*>(own))(); };
    if (tasks < 2 || threads < 2)
        work();
    else if (!run_on_torch_threads(threads, run, &work))
        run_on_own_threads(static_cast<int>(std::min<long>(threads, tasks)), work);
    if (error) std::rethrow_exception(error);
    return !stop;
}

}  // namespace cmsei
