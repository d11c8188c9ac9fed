// Work sharing: threads live for one call (safe across fork, no second OpenMP runtime), tasks are taken from a
// counter, and results never depend on which thread ran a task.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cmsei {

// Called from the calling thread between tasks, at most every 100 ms; returning true abandons the rest.
using Interrupted = std::function<bool()>;

// Runs body(task, thread) for task = 0..tasks-1. False if interrupted. Rethrows the first exception of a task.
inline bool parallel_for(long tasks, int threads, const Interrupted& interrupted,
                         const std::function<void(long, int)>& body) {
    std::atomic<long> next{0};
    std::atomic<bool> stop{false};
    std::exception_ptr error;
    std::mutex guard;
    auto work = [&](int thread, bool polls) {
        auto last = std::chrono::steady_clock::now();
        try {
            for (long task; !stop && (task = next.fetch_add(1)) < tasks;) {
                body(task, thread);
                if (!polls || !interrupted) continue;
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
    if (threads > tasks) threads = static_cast<int>(tasks);
    std::vector<std::thread> pool;
    pool.reserve(threads > 1 ? threads - 1 : 0);
    for (int t = 1; t < threads; ++t) {
        try {
            pool.emplace_back(work, t, false);
        } catch (const std::system_error&) {
            break;  // no room for another thread: those that run take its tasks
        }
    }
    work(0, true);
    for (auto& thread : pool) thread.join();
    if (error) std::rethrow_exception(error);
    return !stop;
}

}  // namespace cmsei
