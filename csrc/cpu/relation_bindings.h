// Python's entry points to the relation attention on the CPU. The caller has checked addresses, sizes and types.
#pragma once

#include <pybind11/stl.h>

#include <array>

#include "binding_helpers.h"
#include "relation_attention.h"

namespace cmsei::relation_bindings {

namespace py = pybind11;

using Address = std::uintptr_t;
// (address, stride of an image, of a head, of a row) of a (B, H, R, d) tensor.
using TensorTuple = std::tuple<Address, long, long, long>;
using Sizes = std::array<long, 5>;  // B, H, R, d, n_labels

template <class T> RelationTensor<T> tensor(const TensorTuple& t) {
    return {pointer<T>(std::get<0>(t)), std::get<1>(t), std::get<2>(t), std::get<3>(t)};
}

template <class T>
RelationProblem<T> problem(const Sizes& sizes, const std::array<TensorTuple, 3>& qkv, Address labels,
                           const std::array<Address, 3>& tables) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
            tensor<const T>(qkv[0]), tensor<const T>(qkv[1]), tensor<const T>(qkv[2]),
            pointer<const int32_t>(labels),
            pointer<const T>(tables[0]), pointer<const T>(tables[1]), pointer<const T>(tables[2])};
}

template <class T>
void forward(const Sizes& sizes, const std::array<TensorTuple, 3>& qkv, Address labels,
             const std::array<Address, 3>& tables, const TensorTuple& out, int threads, const std::string& isa) {
    const CpuKernels* kernels = kernels_by_name(isa);
    without_gil([&] {
        return relation_attention_forward<T>(*kernels, problem<T>(sizes, qkv, labels, tables), tensor<T>(out), threads,
                                             signal_pending);
    });
}

template <class T>
void backward(const Sizes& sizes, const std::array<TensorTuple, 3>& qkv, Address labels,
              const std::array<Address, 3>& tables, const TensorTuple& grad, const std::array<TensorTuple, 3>& d_qkv,
              const std::array<Address, 3>& d_tables, int threads, const std::string& isa) {
    const CpuKernels* kernels = kernels_by_name(isa);
    const RelationResults<T> results{tensor<T>(d_qkv[0]),    tensor<T>(d_qkv[1]),    tensor<T>(d_qkv[2]),
                                     pointer<T>(d_tables[0]), pointer<T>(d_tables[1]), pointer<T>(d_tables[2])};
    without_gil([&] {
        return relation_attention_backward<T>(*kernels, problem<T>(sizes, qkv, labels, tables), tensor<const T>(grad),
                                              results, threads, signal_pending);
    });
}

inline void bind(py::module_& m) {
    m.def("relation_attention_f32", forward<float>);
    m.def("relation_attention_f64", forward<double>);
    m.def("relation_attention_backward_f32", backward<float>);
    m.def("relation_attention_backward_f64", backward<double>);
}

}  // namespace cmsei::relation_bindings
