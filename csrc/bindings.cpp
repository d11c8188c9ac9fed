// The extension module cmsei_fast._native: plain C++ on raw pointers, independent of torch.
#include <pybind11/stl.h>

#include "cpu/binding_helpers.h"

namespace cmsei {
void bind_pair_score(pybind11::module_& m);
void bind_peak(pybind11::module_& m);
void bind_relation_attention(pybind11::module_& m);
void bind_similarity(pybind11::module_& m);
}  // namespace cmsei

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
    cmsei::bind_pair_score(m);
    cmsei::bind_peak(m);
    cmsei::bind_relation_attention(m);
    cmsei::bind_similarity(m);
}
