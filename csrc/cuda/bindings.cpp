// Python module cmsei_fast._cuda: raw pointers, sizes and strides in; every check of a tensor is made in Python before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "relation_attention.h"

namespace py = pybind11;

namespace {

using cmsei::cuda::Matrix;
using cmsei::cuda::Type;

Type parse_type(const std::string& name) {
  if (name == "float32") return Type::kFloat32;
  if (name == "float16") return Type::kFloat16;
  if (name == "bfloat16") return Type::kBFloat16;
  if (name == "float64") return Type::kFloat64;
  throw std::invalid_argument("type: expected float32, float16, bfloat16 or float64, got " + name);
}

using Strides = std::array<int64_t, 4>;

const void* pointer(uintptr_t address) { return reinterpret_cast<const void*>(address); }

void relation_attention(const std::string& type, std::array<int64_t, 4> shape, int64_t labels_count, uintptr_t q,
                        Strides q_strides, uintptr_t k, Strides k_strides, uintptr_t v, Strides v_strides,
                        uintptr_t labels, uintptr_t bias, uintptr_t value, uintptr_t confidence, uintptr_t out, int device,
                        uintptr_t stream) {
  const cmsei::cuda::RelationAttention call{parse_type(type),
                                            shape[0],
                                            shape[1],
                                            shape[2],
                                            shape[3],
                                            labels_count,
                                            Matrix{pointer(q), q_strides},
                                            Matrix{pointer(k), k_strides},
                                            Matrix{pointer(v), v_strides},
                                            static_cast<const int32_t*>(pointer(labels)),
                                            pointer(bias),
                                            pointer(value),
                                            pointer(confidence),
                                            reinterpret_cast<void*>(out)};
  std::string problem;
  {
    py::gil_scoped_release release;
    problem = cmsei::cuda::relation_attention_forward(call, device, reinterpret_cast<void*>(stream));
  }
  if (!problem.empty()) throw std::runtime_error(problem);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels of cmsei_fast. Importing needs neither a GPU nor a driver.";
  module.attr("architectures") = CMSEI_CUDA_ARCHS;
  module.attr("version") = CMSEI_VERSION;
  module.def("runtime_version", &cmsei::cuda::runtime_version, "Version of the CUDA runtime linked in, as 13000.");
  module.def(
      "device_count",
      [] {
        std::string problem;
        const int count = cmsei::cuda::device_count(problem);
        return py::make_tuple(count, problem);
      },
      "Number of GPUs, and why there are none.");
  module.def("relation_attention", &relation_attention, py::arg("type"), py::arg("shape"), py::arg("labels_count"),
             py::arg("q"), py::arg("q_strides"), py::arg("k"), py::arg("k_strides"), py::arg("v"), py::arg("v_strides"),
             py::arg("labels"), py::arg("bias"), py::arg("value"), py::arg("confidence"), py::arg("out"),
             py::arg("device"), py::arg("stream"),
             "Enqueues the forward kernel. Addresses are of device memory; 0 stands for a table not given.");
}
