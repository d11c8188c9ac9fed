// Python's entry points to SGRAF's similarity on the CPU. The caller has checked addresses, sizes and types.
#pragma once

#include <pybind11/stl.h>

#include <array>

#include "binding_helpers.h"
#include "similarity.h"

namespace cmsei::similarity_bindings {

namespace py = pybind11;

using Address = std::uintptr_t;

// sizes: images, regions, depth, width, captions. features: regions, words, offsets, image vectors, sentence vectors.
// layers: weight and bias of each. head: gate or 0, evaluation. numbers: temperature, the gate's scale and shift, the
// evaluation's bias.
template <class S>
void forward(const std::array<long, 5>& sizes, const std::array<Address, 5>& features,
             const std::vector<std::array<Address, 2>>& layers, const std::array<Address, 2>& head,
             const std::array<double, 4>& numbers, bool rounded, Address scores, int threads, const std::string& isa) {
    const CpuKernels* kernels = kernels_by_name(isa);
    SimilarityProblem<S> p{};
    p.images = sizes[0], p.regions = sizes[1], p.depth = sizes[2], p.width = sizes[3], p.captions = sizes[4];
    p.rows = pointer<const S>(features[0]);
    p.words = pointer<const S>(features[1]);
    p.offsets = pointer<const int64_t>(features[2]);
    p.image_vectors = pointer<const S>(features[3]);
    p.sentence_vectors = pointer<const S>(features[4]);
    for (const auto& layer : layers) p.layers.push_back({pointer<const S>(layer[0]), pointer<const S>(layer[1])});
    p.gate = pointer<const S>(head[0]);
    p.evaluate = pointer<const S>(head[1]);
    p.temperature = static_cast<S>(numbers[0]);
    p.rounded = rounded;
    p.gate_scale = static_cast<S>(numbers[1]);
    p.gate_shift = static_cast<S>(numbers[2]);
    p.evaluate_bias = static_cast<S>(numbers[3]);
    without_gil([&] { return similarity<S>(*kernels, p, pointer<S>(scores), threads, signal_pending); });
}

inline void bind(py::module_& m) {
    m.def("similarity_f32", forward<float>);
    m.def("similarity_f64", forward<double>);
}

}  // namespace cmsei::similarity_bindings
