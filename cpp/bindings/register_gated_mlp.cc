#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/gated_mlp/cross_network.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/peak_probe.h"
#include "cpp/gated_mlp/precision.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using Matrix = CArray<float>;

// An array of weights in any precision, and the scales of int8.
struct WeightArrays {
  py::array values;
  std::optional<Matrix> scales;
};

struct LayerArrays {
  WeightArrays weight;
  Matrix bias;
  std::optional<WeightArrays> gate_down;
  std::optional<WeightArrays> gate_weight;
  std::optional<Matrix> gate_bias;
  std::string gate;
  std::string activation;
};

std::optional<WeightArrays> OptionalWeights(std::optional<py::array> values,
                                            std::optional<Matrix> scales) {
  if (!values.has_value()) return std::nullopt;
  return WeightArrays{*std::move(values), std::move(scales)};
}

WeightView AsWeights(const char* name, const WeightArrays& arrays) {
  const py::array& values = arrays.values;
  RequireRank(name, values, 2);
  if (values.shape(1) == 0) throw py::value_error(std::string(name) + " has 0 columns");
  if (py::isinstance<CArray<float>>(values))
    return AsSpan(name, py::reinterpret_borrow<CArray<float>>(values));
  if (py::isinstance<CArray<std::uint16_t>>(values))
    return WeightView::Bf16(AsSpan(name, py::reinterpret_borrow<CArray<std::uint16_t>>(values)));
  if (py::isinstance<CArray<std::int8_t>>(values)) {
    if (!arrays.scales.has_value())
      throw py::value_error(std::string(name) + " holds int8; its scales are missing");
    return WeightView::Int8(AsSpan(name, py::reinterpret_borrow<CArray<std::int8_t>>(values)),
                            AsSpan("scales", *arrays.scales));
  }
  throw py::type_error(std::string(name) +
                       " must be C-contiguous and hold float32, uint16 (bf16) or int8");
}

GatedLayer AsLayer(const LayerArrays& arrays) {
  GatedLayer layer;
  layer.weight = AsWeights("weight", arrays.weight);
  layer.in = arrays.weight.values.shape(0);
  layer.out = arrays.weight.values.shape(1);
  layer.activation = ValueOrThrow(ParseActivation(arrays.activation));
  layer.gate = ValueOrThrow(ParseGate(arrays.gate));
  layer.bias = AsSpan("bias", arrays.bias);
  if (arrays.gate_down.has_value()) {
    layer.gate_down = AsWeights("gate_down", *arrays.gate_down);
    layer.gate_rank = arrays.gate_down->values.shape(1);
  }
  if (arrays.gate_weight.has_value())
    layer.gate_weight = AsWeights("gate_weight", *arrays.gate_weight);
  if (arrays.gate_bias.has_value()) layer.gate_bias = AsSpan("gate_bias", *arrays.gate_bias);
  return layer;
}

std::unique_ptr<GatedMlp> MakeGatedMlp(const std::vector<LayerArrays>& arrays,
                                       std::int64_t num_shared) {
  std::vector<GatedLayer> layers;
  layers.reserve(arrays.size());
  for (const LayerArrays& layer : arrays) layers.push_back(AsLayer(layer));
  return std::make_unique<GatedMlp>(ValueOrThrow(GatedMlp::Create(layers, num_shared)));
}

CArray<std::uint16_t> RoundArray(const Matrix& values) {
  CArray<std::uint16_t> bits(
      std::vector<py::ssize_t>(values.shape(), values.shape() + values.ndim()));
  RoundToBf16(AsSpan("values", values), AsMutableSpan(bits));
  return bits;
}

// (values int8 [in, out], scales [out])
py::tuple QuantizeArray(const Matrix& matrix) {
  RequireRank("matrix", matrix, 2);
  CArray<std::int8_t> values({matrix.shape(0), matrix.shape(1)});
  Matrix scales(matrix.shape(1));
  ThrowIfError(
      QuantizeColumns(AsSpan("matrix", matrix), AsMutableSpan(values), AsMutableSpan(scales)));
  return py::make_tuple(std::move(values), std::move(scales));
}

// The rows of x through a stack of either kind; `inputs` are the columns that x has to have.
template <typename Workspace, typename Stack>
Matrix RunStack(const Stack& stack, const Matrix& x, int threads, std::int64_t inputs,
                std::int64_t outputs, const char* who) {
  RequireRank("x", x, 2);
  if (x.shape(1) != inputs)
    throw py::value_error("x has " + std::to_string(x.shape(1)) + " columns; " + who +
                          std::to_string(inputs));
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
  const std::int64_t num_rows = x.shape(0);
  Matrix out({num_rows, static_cast<py::ssize_t>(outputs)});
  const float* source = x.data();
  float* target = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    Workspace workspace(stack, num_rows, threads);
    stack.Forward(source, num_rows, inputs, target, outputs, workspace);
  }
  return out;
}

Matrix Forward(const GatedMlp& mlp, const Matrix& x, int threads) {
  return RunStack<GatedMlpWorkspace>(mlp, x, threads, mlp.num_inputs(), mlp.num_outputs(),
                                     "the first layer takes ");
}

struct CrossArrays {
  WeightArrays weight;
  Matrix bias;
  std::optional<WeightArrays> down;
};

std::unique_ptr<CrossNetwork> MakeCrossNetwork(const std::vector<CrossArrays>& arrays) {
  std::vector<CrossLayer> layers;
  layers.reserve(arrays.size());
  for (const CrossArrays& from : arrays) {
    CrossLayer layer;
    layer.weight = AsWeights("weight", from.weight);
    layer.size = from.weight.values.shape(1);
    layer.bias = AsSpan("bias", from.bias);
    if (from.down.has_value()) {
      layer.down = AsWeights("down", *from.down);
      layer.rank = from.down->values.shape(1);
    }
    layers.push_back(layer);
  }
  return std::make_unique<CrossNetwork>(ValueOrThrow(CrossNetwork::Create(layers)));
}

}  // namespace

void RegisterGatedMlp(py::module_& m) {
  py::class_<LayerArrays>(m, "GatedLayer")
      .def(
          py::init([](py::array weight, Matrix bias, std::optional<Matrix> weight_scale,
                      std::optional<py::array> gate_down, std::optional<Matrix> gate_down_scale,
                      std::optional<py::array> gate_weight, std::optional<Matrix> gate_weight_scale,
                      std::optional<Matrix> gate_bias, std::string gate, std::string activation) {
            return LayerArrays{
                {std::move(weight), std::move(weight_scale)},
                std::move(bias),
                OptionalWeights(std::move(gate_down), std::move(gate_down_scale)),
                OptionalWeights(std::move(gate_weight), std::move(gate_weight_scale)),
                std::move(gate_bias),
                std::move(gate),
                std::move(activation)};
          }),
          py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::kw_only(),
          py::arg("weight_scale").noconvert() = py::none(), py::arg("gate_down").noconvert(),
          py::arg("gate_down_scale").noconvert() = py::none(), py::arg("gate_weight").noconvert(),
          py::arg("gate_weight_scale").noconvert() = py::none(), py::arg("gate_bias").noconvert(),
          py::arg("gate"), py::arg("activation"));
  py::class_<GatedMlp>(m, "GatedMlp")
      .def(py::init(&MakeGatedMlp), py::arg("layers"), py::kw_only(), py::arg("num_shared") = 0)
      .def("forward", &Forward, py::arg("x").noconvert(), py::kw_only(), py::arg("threads") = 1)
      .def_property_readonly("num_inputs", &GatedMlp::num_inputs)
      .def_property_readonly("num_outputs", &GatedMlp::num_outputs)
      .def_property_readonly("num_shared", &GatedMlp::num_shared)
      .def_property_readonly("nbytes", &GatedMlp::nbytes);
  py::class_<CrossArrays>(m, "CrossLayer")
      .def(py::init([](py::array weight, Matrix bias, std::optional<Matrix> weight_scale,
                       std::optional<py::array> down, std::optional<Matrix> down_scale) {
             return CrossArrays{{std::move(weight), std::move(weight_scale)},
                                std::move(bias),
                                OptionalWeights(std::move(down), std::move(down_scale))};
           }),
           py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::kw_only(),
           py::arg("weight_scale").noconvert() = py::none(),
           py::arg("down").noconvert() = py::none(),
           py::arg("down_scale").noconvert() = py::none());
  py::class_<CrossNetwork>(m, "CrossNetwork")
      .def(py::init(&MakeCrossNetwork), py::arg("layers"))
      .def(
          "forward",
          [](const CrossNetwork& network, const Matrix& x, int threads) {
            return RunStack<CrossWorkspace>(network, x, threads, network.size(), network.size(),
                                            "the network takes ");
          },
          py::arg("x").noconvert(), py::kw_only(), py::arg("threads") = 1)
      .def_property_readonly("size", &CrossNetwork::size)
      .def_property_readonly("nbytes", &CrossNetwork::nbytes);
  m.def("round_to_bf16", &RoundArray, py::arg("values").noconvert());
  m.def("quantize_columns", &QuantizeArray, py::arg("matrix").noconvert());
  m.def(
      "peak_probe",
      [](std::string_view precision, std::int64_t steps) {
        const Precision parsed = ValueOrThrow(ParsePrecision(precision));
        if (steps < 0) throw py::value_error("steps must not be negative");
        const py::gil_scoped_release nogil;
        return PeakProbe(parsed, steps);
      },
      py::arg("precision"), py::arg("steps"));
}

}  // namespace feedfast::bindings
