#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cpp/allreduce/fusion.h"
#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using allreduce::FusionArena;
using allreduce::FusionPlan;
using allreduce::ItemFormat;
using Shapes = std::vector<std::vector<std::int64_t>>;

template <typename Sizes>
std::string ShapeText(const Sizes* shape, std::size_t rank) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < rank; ++axis)
    text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + ")";
}

// What arrays of the gradients of an arena of T hold; bfloat16, which numpy lacks, is uint16.
template <typename T>
const char* ItemText(ItemFormat format) {
  if (format == ItemFormat::kFloat16) return "float16";
  if (format == ItemFormat::kBfloat16) return "bfloat16 as uint16";
  return sizeof(T) == sizeof(float) ? "float32" : "float64";
}

constexpr int kNumpyHalf = 23;  // NPY_HALF

template <typename T>
bool HasItems(const py::array& array, ItemFormat format) {
  if (format == ItemFormat::kFloat16) return array.dtype().num() == kNumpyHalf;
  if (format == ItemFormat::kBfloat16) return py::isinstance<py::array_t<std::uint16_t>>(array);
  return py::isinstance<py::array_t<T>>(array);
}

template <typename T>
py::array NewArray(const std::vector<std::int64_t>& shape, ItemFormat format) {
  if (format == ItemFormat::kFloat16) return py::array(py::dtype(kNumpyHalf), shape);
  if (format == ItemFormat::kBfloat16) return CArray<std::uint16_t>(shape);
  return CArray<T>(shape);
}

std::vector<ItemFormat> ParseFormats(const std::vector<std::string>& names) {
  std::vector<ItemFormat> formats;
  for (const std::string& name : names) {
    if (name == "float32")
      formats.push_back(ItemFormat::kFused);
    else if (name == "float16")
      formats.push_back(ItemFormat::kFloat16);
    else if (name == "bfloat16")
      formats.push_back(ItemFormat::kBfloat16);
    else
      throw py::value_error("formats[" + std::to_string(formats.size()) + "] = '" + name +
                            "'; must be one of 'float32', 'float16', 'bfloat16'");
  }
  return formats;
}

// An arena with the shapes that its gradients have in Python. Calls from several threads run one
// after the other; a call waits without the GIL, so that other Python threads go on.
template <typename T>
class PyFusionArena {
 public:
  // No formats: all gradients are of T.
  explicit PyFusionArena(Shapes shapes, const std::vector<std::string>& formats = {})
      : shapes_(std::move(shapes)),
        arena_(ValueOrThrow(FusionPlan::Create(shapes_, sizeof(T), ParseFormats(formats)))) {}

  std::vector<std::int64_t> offsets() const {
    std::vector<std::int64_t> offsets;
    for (const auto& slot : arena_.plan().slots()) offsets.push_back(slot.offset);
    return offsets;
  }
  std::int64_t num_accumulated() const {
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    return arena_.num_accumulated();
  }
  void StartWindow() {
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    arena_.StartWindow();
  }

  // A view; `self` keeps the memory alive.
  static py::array_t<T> Fused(const py::object& self) {
    const Span<T> fused = py::cast<PyFusionArena&>(self).arena_.fused();
    return py::array_t<T>(fused.size(), fused.data(), self);
  }

  void Accumulate(const std::vector<py::array>& gradients, int threads) {
    RequireThreads(threads);
    if (gradients.size() != shapes_.size())
      throw py::value_error(std::to_string(gradients.size()) + " gradients for an arena of " +
                            std::to_string(shapes_.size()));
    std::vector<const void*> pointers;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const py::array& gradient = gradients[i];
      const std::vector<std::int64_t>& shape = shapes_[i];
      const std::string name = "gradients[" + std::to_string(i) + "]";
      if (!HasItems<T>(gradient, FormatOf(i)))
        throw py::type_error(name + " is " + std::string(py::str(gradient.dtype())) + "; slot " +
                             std::to_string(i) + " has " + ItemText<T>(FormatOf(i)));
      if ((gradient.flags() & py::array::c_style) == 0)
        throw py::value_error(name + " must be C-contiguous");
      if (!std::equal(gradient.shape(), gradient.shape() + gradient.ndim(), shape.begin(),
                      shape.end()))
        throw py::value_error(
            name + " has shape " +
            ShapeText(gradient.shape(), static_cast<std::size_t>(gradient.ndim())) + "; slot " +
            std::to_string(i) + " has " + ShapeText(shape.data(), shape.size()));
      RequireAligned(name.c_str(), gradient);
      pointers.push_back(gradient.data());
    }
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    arena_.Accumulate({pointers.data(), static_cast<std::int64_t>(pointers.size())}, threads);
  }

  std::vector<py::array> Unpack(T scale, int threads) const {
    RequireThreads(threads);
    std::vector<py::array> gradients;
    std::vector<void*> pointers;
    for (std::size_t i = 0; i < shapes_.size(); ++i) {
      gradients.push_back(NewArray<T>(shapes_[i], FormatOf(i)));
      pointers.push_back(gradients.back().mutable_data());
    }
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    arena_.Unpack(scale, {pointers.data(), static_cast<std::int64_t>(pointers.size())}, threads);
    return gradients;
  }

 private:
  static void RequireThreads(int threads) {
    if (threads < 1) throw py::value_error("threads must be >= 1; got " + std::to_string(threads));
  }

  ItemFormat FormatOf(std::size_t i) const {
    return arena_.plan().slots()[static_cast<std::int64_t>(i)].format;
  }

  Shapes shapes_;
  mutable std::mutex mutex_;  // of arena_
  FusionArena<T> arena_;
};

template <typename T>
py::class_<PyFusionArena<T>> RegisterFusionArena(py::module_& m, const char* name) {
  using Arena = PyFusionArena<T>;
  return py::class_<Arena>(m, name)
      .def_property_readonly("offsets", &Arena::offsets)
      .def_property_readonly("num_accumulated", &Arena::num_accumulated)
      .def_property_readonly("fused", &Arena::Fused)
      .def("start_window", &Arena::StartWindow)
      .def("accumulate", &Arena::Accumulate, py::arg("gradients").noconvert(), py::kw_only(),
           py::arg("threads") = 1)
      .def("unpack", &Arena::Unpack, py::kw_only(), py::arg("scale"), py::arg("threads") = 1);
}

}  // namespace

void RegisterAllreduce(py::module_& m) {
  RegisterFusionArena<float>(m, "FusionArenaFloat32")
      .def(py::init<Shapes, std::vector<std::string>>(), py::arg("shapes"), py::kw_only(),
           py::arg("formats") = std::vector<std::string>());
  RegisterFusionArena<double>(m, "FusionArenaFloat64").def(py::init<Shapes>(), py::arg("shapes"));
}

}  // namespace feedfast::bindings
