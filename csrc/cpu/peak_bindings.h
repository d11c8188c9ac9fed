// The processor's measured float32 multiply-add rate, for benchmarks to hold a product against.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "binding_helpers.h"

namespace cmsei::peak_bindings {

namespace py = pybind11;

inline double fma_peak(int threads, const std::string& isa) {
    const CpuKernels* k = kernels_by_name(isa);
    py::gil_scoped_release release;
    std::vector<double> operations(threads);
    auto run = [&](long iterations) {
        const auto start = std::chrono::steady_clock::now();
        parallel_for(threads, threads, nullptr, [&](long task, int) {
            float sink[4] = {1.0f, 0.999f, 1e-3f, 0.0f};
            operations[task] = k->multiply_add_burst(iterations, sink);
        });
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    run(1L << 20);
    const double seconds = run(1L << 24);
    double total = 0;
    for (double x : operations) total += x;
    return total / seconds / 1e9;
}

inline void bind(py::module_& m) {
    m.def("fma_peak", fma_peak, py::arg("threads"), py::arg("isa") = "",
          "Measured multiply-add rate in registers, GFLOP/s over all threads.");
}

}  // namespace cmsei::peak_bindings
