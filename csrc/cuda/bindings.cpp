// Python module cmsei_fast._cuda: raw pointers, sizes and strides in; every check of a tensor is made in Python before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "tile_scores.h"
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

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// A tensor: its address and its strides.
using Placed = std::pair<uintptr_t, Strides>;

Matrix matrix(const Placed& x) { return {pointer(x.first), x.second}; }

// (B, H, R, d), the tables' rows, q, k, v, and the addresses of labels, bias, value and confidence.
cmsei::cuda::RelationAttention relation_call(const std::string& type, const std::array<int64_t, 4>& shape,
                                             int64_t labels_count, const std::array<Placed, 3>& qkv,
                                             const std::array<uintptr_t, 4>& tables) {
  return {parse_type(type),
          shape[0],
          shape[1],
          shape[2],
          shape[3],
          labels_count,
          matrix(qkv[0]),
          matrix(qkv[1]),
          matrix(qkv[2]),
          static_cast<const int32_t*>(pointer(tables[0])),
          pointer(tables[1]),
          pointer(tables[2]),
          pointer(tables[3]),
          nullptr};
}

template <class Enqueue>
void enqueue(const Enqueue& launch) {
  std::string problem;
  {
    py::gil_scoped_release release;
    problem = launch();
  }
  if (!problem.empty()) throw std::runtime_error(problem);
}

void relation_attention(const std::string& type, std::array<int64_t, 4> shape, int64_t labels_count,
                        std::array<Placed, 3> qkv, std::array<uintptr_t, 4> tables, uintptr_t out, int device,
                        uintptr_t stream) {
  auto call = relation_call(type, shape, labels_count, qkv, tables);
  call.out = pointer(out);
  enqueue([&] { return cmsei::cuda::relation_attention_forward(call, device, pointer(stream)); });
}

void relation_attention_backward(const std::string& type, std::array<int64_t, 4> shape, int64_t labels_count,
                                 std::array<Placed, 3> qkv, std::array<uintptr_t, 4> tables, const Placed& grad,
                                 std::array<uintptr_t, 3> gradients, std::array<uintptr_t, 3> table_gradients,
                                 int device, uintptr_t stream) {
  const cmsei::cuda::RelationGradients call{relation_call(type, shape, labels_count, qkv, tables),
                                            matrix(grad),
                                            pointer(gradients[0]),
                                            pointer(gradients[1]),
                                            pointer(gradients[2]),
                                            pointer(table_gradients[0]),
                                            pointer(table_gradients[1]),
                                            pointer(table_gradients[2])};
  enqueue([&] { return cmsei::cuda::relation_attention_backward(call, device, pointer(stream)); });
}

int64_t relation_attention_groups(const std::string& type, std::array<int64_t, 4> shape, int64_t labels_count,
                                  bool value, int device) {
  // Only whether there is a table matters, not its address.
  const auto call = relation_call(type, shape, labels_count, {}, {0, 0, value ? 16u : 0u, 0});
  std::string problem;
  const int64_t groups = cmsei::cuda::relation_attention_groups(call, device, problem);
  if (!problem.empty()) throw std::runtime_error(problem);
  return groups;
}

// Sets every field by its name; an unknown name is an AttributeError.
template <class T>
T from_names(const py::kwargs& fields) {
  T out{};
  const py::object self = py::cast(&out, py::return_value_policy::reference);
  for (const auto& [name, value] : fields) py::setattr(self, name, value);
  return out;
}

template <class Call, std::string (*kEnqueue)(const Call&, int, void*)>
void pair_kernel(const Call& call, int device, uintptr_t stream) {
  enqueue([&] { return kEnqueue(call, device, pointer(stream)); });
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
      py::arg("call"), py::arg("backward"), py::arg("device"),
      "Bytes of device memory that a launch wants as scratch.");
  module.def("pair_scores", &pair_kernel<PairCall, cmsei::cuda::pair_scores>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel that writes scores.");
  module.def("pair_gradients", &pair_kernel<PairCall, cmsei::cuda::pair_gradients>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel that writes gradients.");
}

void bind_tiles(py::module_& module) {
  using cmsei::cuda::TileCall;
  using cmsei::cuda::TileRows;
  py::class_<TileRows>(module, "TileRows", "Packed rows: csrc/cuda/tile_scores.h.")
      .def(py::init(&from_names<TileRows>))
      .def_readwrite("data", &TileRows::data)
      .def_readwrite("stride", &TileRows::stride)
      .def_readwrite("rows", &TileRows::rows)
      .def_readwrite("scales", &TileRows::scales);
  py::class_<TileCall>(module, "TileCall", "A launch that multiplies and scores: csrc/cuda/tile_scores.h.")
      .def(py::init(&from_names<TileCall>))
      .def_readwrite("type", &TileCall::type)
      .def_readwrite("width", &TileCall::width)
      .def_readwrite("config", &TileCall::config)
      .def_readwrite("scalars", &TileCall::scalars)
      .def_readwrite("images", &TileCall::images)
      .def_readwrite("captions", &TileCall::captions)
      .def_readwrite("regions", &TileCall::regions)
      .def_readwrite("words", &TileCall::words)
      .def_readwrite("image_tiles", &TileCall::image_tiles)
      .def_readwrite("image_tile_count", &TileCall::image_tile_count)
      .def_readwrite("caption_tiles", &TileCall::caption_tiles)
      .def_readwrite("caption_tile_count", &TileCall::caption_tile_count)
      .def_readwrite("scores", &TileCall::scores)
      .def_readwrite("scores_stride", &TileCall::scores_stride);
  module.def("pair_tiles", &cmsei::cuda::pair_tiles, py::arg("config"), py::arg("hopper"), py::arg("images"),
             py::arg("captions"), "Tiles, seven numbers each, of images and of captions: csrc/cuda/tile_plan.h.");
  module.def("hopper_scores", &pair_kernel<TileCall, cmsei::cuda::hopper_scores>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel by TMA and wgmma, on compute capability 9.0 alone.");
  module.def("ampere_scores", &pair_kernel<TileCall, cmsei::cuda::ampere_scores>, py::arg("call"), py::arg("device"),
             py::arg("stream"), "Enqueues the kernel by mma.sync.");
  module.def("ampere_bytes", &cmsei::cuda::ampere_bytes,
             "Bytes of shared memory that a multiprocessor needs for two blocks of the kernel by mma.sync.");
}

void bind_relation_attention(py::module_& module) {
  module.def("relation_attention", &relation_attention, py::arg("type"), py::arg("shape"), py::arg("labels_count"),
             py::arg("qkv"), py::arg("tables"), py::arg("out"), py::arg("device"), py::arg("stream"),
             "Enqueues the forward kernel. Addresses are of device memory; 0 stands for a table not given.");
  module.def("relation_attention_backward", &relation_attention_backward, py::arg("type"), py::arg("shape"),
             py::arg("labels_count"), py::arg("qkv"), py::arg("tables"), py::arg("grad"), py::arg("gradients"),
             py::arg("table_gradients"), py::arg("device"), py::arg("stream"),
             "Enqueues the backward kernel: csrc/cuda/relation_attention.h.");
  module.def("relation_attention_groups", &relation_attention_groups, py::arg("type"), py::arg("shape"),
             py::arg("labels_count"), py::arg("value"), py::arg("device"),
             "Groups of images whose sums the backward kernel keeps apart; 0 if it does not take the problem.");
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
  bind_relation_attention(module);
  bind_pair_score(module);
  bind_tiles(module);
}
