// The extension module cmsei_fast._native: plain C++ on raw pointers, independent of torch. All that binds to Python is
// in this one object, because most of the time that it takes to compile is pybind11's own.
#include <pybind11/stl.h>

#include "cpu/pair_bindings.h"
#include "cpu/peak_bindings.h"
#include "cpu/relation_bindings.h"
#include "cpu/similarity_bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "CPU kernels of cmsei_fast.";
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (auto k = cmsei::available_kernels(); *k; ++k) names.emplace_back((*k)->isa);
            return names;
        },
        "Instruction-set variants that this processor and build have, slowest first.");
    cmsei::pair_bindings::bind(m);
    cmsei::peak_bindings::bind(m);
    cmsei::relation_bindings::bind(m);
    cmsei::similarity_bindings::bind(m);
}
