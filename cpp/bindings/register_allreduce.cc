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
using Shapes = std::vector<std::vector<std::int64_t>>;

template <typename Sizes>
std::string ShapeText(const Sizes* shape, std::size_t rank) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < rank; ++axis)
    text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
  return text + ")";
}

// An arena with the shapes that its gradients have in Python. Calls from several threads run one
// after the other; a call waits without the GIL, so that other Python threads go on.
template <typename T>
class PyFusionArena {
 public:
  explicit PyFusionArena(Shapes shapes)
      : shapes_(std::move(shapes)), arena_(ValueOrThrow(FusionPlan::Create(shapes_, sizeof(T)))) {}

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

  void Accumulate(const std::vector<CArray<T>>& gradients, int threads) {
    RequireThreads(threads);
    if (gradients.size() != shapes_.size())
      throw py::value_error(std::to_string(gradients.size()) + " gradients for an arena of " +
                            std::to_string(shapes_.size()));
    std::vector<const T*> pointers;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const CArray<T>& gradient = gradients[i];
      const std::vector<std::int64_t>& shape = shapes_[i];
      if (!std::equal(gradient.shape(), gradient.shape() + gradient.ndim(), shape.begin(),
                      shape.end()))
        throw py::value_error(
            "gradients[" + std::to_string(i) + "] has shape " +
            ShapeText(gradient.shape(), static_cast<std::size_t>(gradient.ndim())) + "; slot " +
            std::to_string(i) + " has " + ShapeText(shape.data(), shape.size()));
      RequireAligned(("gradients[" + std::to_string(i) + "]").c_str(), gradient);
      pointers.push_back(gradient.data());
    }
    const py::gil_scoped_release nogil;
    const std::lock_guard lock(mutex_);
    arena_.Accumulate({pointers.data(), static_cast<std::int64_t>(pointers.size())}, threads);
  }

  std::vector<CArray<T>> Unpack(T scale, int threads) const {
    RequireThreads(threads);
    std::vector<CArray<T>> gradients;
    std::vector<T*> pointers;
    for (const auto& shape : shapes_) {
      gradients.emplace_back(shape);
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

  Shapes shapes_;
  mutable std::mutex mutex_;  // of arena_
  FusionArena<T> arena_;
};

template <typename T>
void RegisterFusionArena(py::module_& m, const char* name) {
  using Arena = PyFusionArena<T>;
  py::class_<Arena>(m, name)
      .def(py::init<Shapes>(), py::arg("shapes"))
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
  RegisterFusionArena<float>(m, "FusionArenaFloat32");
  RegisterFusionArena<double>(m, "FusionArenaFloat64");
}

}  // namespace feedfast::bindings
