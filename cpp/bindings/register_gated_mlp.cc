#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/peak_fma.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using Matrix = CArray<float>;

struct LayerArrays {
  Matrix weight;
  Matrix bias;
  std::optional<Matrix> gate_down;
  std::optional<Matrix> gate_weight;
  std::optional<Matrix> gate_bias;
  std::string gate;
  std::string activation;
};

Span<const float> OptionalSpan(const char* name, const std::optional<Matrix>& array) {
  return array.has_value() ? AsSpan(name, *array) : Span<const float>();
}

GatedLayer AsLayer(const LayerArrays& arrays) {
  GatedLayer layer;
  RequireRank("weight", arrays.weight, 2);
  layer.in = arrays.weight.shape(0);
  layer.out = arrays.weight.shape(1);
  layer.activation = ValueOrThrow(ParseActivation(arrays.activation));
  layer.gate = ValueOrThrow(ParseGate(arrays.gate));
  layer.weight = AsSpan("weight", arrays.weight);
  layer.bias = AsSpan("bias", arrays.bias);
  if (arrays.gate_down.has_value()) {
    RequireRank("gate_down", *arrays.gate_down, 2);
    layer.gate_rank = arrays.gate_down->shape(1);
    // Rank 0 would read as full rank.
    if (layer.gate_rank == 0) throw py::value_error("gate_down has 0 columns");
  }
  layer.gate_down = OptionalSpan("gate_down", arrays.gate_down);
  layer.gate_weight = OptionalSpan("gate_weight", arrays.gate_weight);
  layer.gate_bias = OptionalSpan("gate_bias", arrays.gate_bias);
  return layer;
}

std::unique_ptr<GatedMlp> MakeGatedMlp(const std::vector<LayerArrays>& arrays) {
  std::vector<GatedLayer> layers;
  layers.reserve(arrays.size());
  for (const LayerArrays& layer : arrays) layers.push_back(AsLayer(layer));
  return std::make_unique<GatedMlp>(ValueOrThrow(GatedMlp::Create(layers)));
}

Matrix Forward(const GatedMlp& mlp, const Matrix& x, int threads) {
  RequireRank("x", x, 2);
  if (x.shape(1) != mlp.num_inputs())
    throw py::value_error("x has " + std::to_string(x.shape(1)) + " columns; the first layer has " +
                          std::to_string(mlp.num_inputs()) + " inputs");
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
  const std::int64_t num_rows = x.shape(0);
  Matrix out({num_rows, static_cast<py::ssize_t>(mlp.num_outputs())});
  const float* source = x.data();
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    GatedMlpWorkspace workspace(mlp, num_rows, threads);
    mlp.Forward(source, num_rows, mlp.num_inputs(), target, mlp.num_outputs(), workspace);
  }
  return out;
}

}  // namespace

void RegisterGatedMlp(py::module_& m) {
  py::class_<LayerArrays>(m, "GatedLayer")
      .def(py::init([](Matrix weight, Matrix bias, std::optional<Matrix> gate_down,
                       std::optional<Matrix> gate_weight, std::optional<Matrix> gate_bias,
                       std::string gate, std::string activation) {
             return LayerArrays{std::move(weight),      std::move(bias),      std::move(gate_down),
                                std::move(gate_weight), std::move(gate_bias), std::move(gate),
                                std::move(activation)};
           }),
           py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::kw_only(),
           py::arg("gate_down").noconvert(), py::arg("gate_weight").noconvert(),
           py::arg("gate_bias").noconvert(), py::arg("gate"), py::arg("activation"));
  py::class_<GatedMlp>(m, "GatedMlp")
      .def(py::init(&MakeGatedMlp), py::arg("layers"))
      .def("forward", &Forward, py::arg("x").noconvert(), py::kw_only(), py::arg("threads") = 1)
      .def_property_readonly("num_inputs", &GatedMlp::num_inputs)
      .def_property_readonly("num_outputs", &GatedMlp::num_outputs)
      .def_property_readonly("nbytes", &GatedMlp::nbytes);
  m.def(
      "peak_fma",
      [](std::int64_t steps) {
        if (steps < 0) throw py::value_error("steps must not be negative");
        const py::gil_scoped_release nogil;
        return PeakFma(steps);
      },
      py::arg("steps"));
}

}  // namespace feedfast::bindings
