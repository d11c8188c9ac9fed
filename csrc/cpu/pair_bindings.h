// Python's entry points to the pair score on the CPU. Addresses, sizes and types have been checked by the caller.
#pragma once

#include <pybind11/stl.h>

#include "binding_helpers.h"
#include "pair_score.h"

namespace cmsei::pair_bindings {

namespace py = pybind11;

// (address, storage, row stride, address of the offsets, number of items)
using ItemsTuple = std::tuple<std::uintptr_t, int, long, std::uintptr_t, long>;

inline Items items_of(const ItemsTuple& t) {
    const int storage = std::get<1>(t);
    if (storage < 0 || storage > 3) throw std::invalid_argument("storage: expected 0..3");
    return {{pointer<void>(std::get<0>(t)), static_cast<Storage>(storage), std::get<2>(t)},
            pointer<int64_t>(std::get<3>(t)), std::get<4>(t)};
}

template <class S>
void forward(const ItemsTuple& images, const ItemsTuple& captions, long depth, std::vector<int64_t> config,
             std::vector<double> scalars, std::uintptr_t scores, long stride, int threads, const std::string& isa,
             bool int8) {
    const Run run{kernels_by_name(isa), threads, signal_pending, int8};
    without_gil([&] {
        return pair_score<S>(items_of(images), items_of(captions), depth, {std::move(config), std::move(scalars)},
                             pointer<S>(scores), stride, run);
    });
}

template <class S>
void listed(const ItemsTuple& images, const ItemsTuple& captions, long depth, std::vector<int64_t> config,
            std::vector<double> scalars, std::uintptr_t first, std::uintptr_t captions_of, std::uintptr_t scores,
            int threads, const std::string& isa, bool int8) {
    const Run run{kernels_by_name(isa), threads, signal_pending, int8};
    without_gil([&] {
        return pair_score_listed<S>(items_of(images), items_of(captions), depth,
                                    {std::move(config), std::move(scalars)}, pointer<int64_t>(first),
                                    pointer<int64_t>(captions_of), pointer<S>(scores), run);
    });
}

template <class S>
void backward(const ItemsTuple& images, const ItemsTuple& captions, long depth, std::vector<int64_t> config,
              std::vector<double> scalars, std::uintptr_t d_scores, long stride, std::uintptr_t d_regions,
              std::uintptr_t d_words, std::uintptr_t d_scalars, int threads, const std::string& isa) {
    const Run run{kernels_by_name(isa), threads, signal_pending};
    without_gil([&] {
        return pair_score_backward<S>(items_of(images), items_of(captions), depth,
                                      {std::move(config), std::move(scalars)}, pointer<const S>(d_scores), stride,
                                      pointer<S>(d_regions), pointer<S>(d_words), pointer<double>(d_scalars), run);
    });
}

inline void bind(py::module_& m) {
    m.def("multiplies_int8", [](const std::string& isa) { return kernels_by_name(isa)->f32.pair.int8 != nullptr; });
    m.def("pair_score_f32", forward<float>);
    m.def("pair_score_f64", forward<double>);
    m.def("pair_score_listed_f32", listed<float>);
    m.def("pair_score_listed_f64", listed<double>);
    m.def("pair_score_backward_f32", backward<float>);
    m.def("pair_score_backward_f64", backward<double>);
}

}  // namespace cmsei::pair_bindings
