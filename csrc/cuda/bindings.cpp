// Python module cmsei_fast._cuda: raw pointers, sizes and strides in; every check of a tensor is made in Python before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "pair_score.h"
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

// Every field by its name; a name that is none is an AttributeError.
template <class T>
T from_names(const py::kwargs& fields) {
  T out{};
  const py::object self = py::cast(&out, py::return_value_policy::reference);
  for (const auto& [name, value] : fields) py::setattr(self, name, value);
  return out;
}

using Enqueue = std::string (*)(const cmsei::cuda::PairCall&, int, void*);

template <Enqueue kEnqueue>
void pair_kernel(const cmsei::cuda::PairCall& call, int device, uintptr_t stream) {
  std::string problem;
  {
    py::gil_scoped_release release;
    problem = kEnqueue(call, device, reinterpret_cast<void*>(stream));
  }
  if (!problem.empty()) throw std::runtime_error(problem);
}

void bind_pair_score(py::module_& module) {
  using cmsei::cuda::PairCall;
  using cmsei::cuda::PairItems;
  py::class_<PairItems>(module, "PairItems", "Images or captions of a launch: csrc/cuda/pair_score.h.")
      .def(py::init(&from_names<PairItems>))
      .def_readwrite("items", &PairItems::items)
      .def_readwrite("count", &PairItems::count)
      .def_readwrite("longest", &PairItems::longest)
      .def_readwrite("row", &PairItems::row)
      .def_readwrite("start", &PairItems::start)
      .def_readwrite("offsets", &PairItems::offsets)
      .def_readwrite("gram_offsets", &PairItems::gram_offsets)
      .def_readwrite("lengths", &PairItems::lengths)
      .def_readwrite("means", &PairItems::means)
      .def_readwrite("grams", &PairItems::grams);
  py::class_<PairCall>(module, "PairCall", "A launch of the pair score: csrc/cuda/pair_score.h.")
      .def(py::init(&from_names<PairCall>))
      .def_readwrite("type", &PairCall::type)
      .def_readwrite("config", &PairCall::config)
      .def_readwrite("scalars", &PairCall::scalars)
      .def_readwrite("images", &PairCall::images)
      .def_readwrite("captions", &PairCall::captions)
      .def_readwrite("products", &PairCall::products)
      .def_readwrite("products_stride", &PairCall::products_stride)
      .def_readwrite("scores", &PairCall::scores)
      .def_readwrite("scores_stride", &PairCall::scores_stride)
      .def_readwrite("splits", &PairCall::splits)
      .def_readwrite("scratch", &PairCall::scratch)
      .def_readwrite("d_products", &PairCall::d_products)
      .def_readwrite("d_image_grams", &PairCall::d_image_grams)
      .def_readwrite("d_image_grams_stride", &PairCall::d_image_grams_stride)
      .def_readwrite("d_caption_grams", &PairCall::d_caption_grams)
      .def_readwrite("d_caption_grams_stride", &PairCall::d_caption_grams_stride)
      .def_readwrite("d_scalars", &PairCall::d_scalars);
  module.def(
      "pair_scratch",
      [](const PairCall& call, bool backward, int device) {
        std::string problem;
        const int64_t bytes = cmsei::cuda::pair_scratch(call, backward, device, problem);
        if (!problem.empty()) throw std::runtime_error(problem);
        return bytes;
      },
      py::arg("call"), py::arg("backward"), py::arg("device"), "Bytes of device memory that a launch wants as scratch.");
  module.def("pair_scores", &pair_kernel<cmsei::cuda::pair_scores>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel that writes scores.");
  module.def("pair_gradients", &pair_kernel<cmsei::cuda::pair_gradients>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel that writes gradients.");
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
  bind_pair_score(module);
}
