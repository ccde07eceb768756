#ifndef FEEDFAST_CPP_GATED_MLP_REFERENCE_H_
#define FEEDFAST_CPP_GATED_MLP_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "cpp/gated_mlp/cross_network.h"
#include "cpp/gated_mlp/gated_mlp.h"

// Naive double-precision oracle, for tests and benchmarks only.
namespace feedfast::reference {

inline double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// The value of a weight; `column` is i modulo the columns.
inline double Weight(const WeightView& weights, std::int64_t i, std::int64_t column) {
  switch (weights.precision()) {
    case Precision::kFp32:
      return weights.floats()[i];
    case Precision::kBf16: {
      const std::uint32_t bits = std::uint32_t{weights.bf16()[i]} << 16U;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
    }
    case Precision::kInt8:
      break;
  }
  return static_cast<double>(weights.int8()[i]) * weights.scales()[column];
}

// Inputs [begin, end) as an int8 layer reads them: 256 steps over the range of the values and zero.
inline void RoundToSteps(std::vector<double>& x, std::size_t begin, std::size_t end) {
  double low = 0;
  double high = 0;
  for (std::size_t i = begin; i < end; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  if (high - low < 1e-30) {
    std::fill(x.begin() + static_cast<std::ptrdiff_t>(begin),
              x.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
    return;
  }
  // In float32, so that a value between two steps goes where the kernel's goes.
  const float width = static_cast<float>(high) - static_cast<float>(low);
  const float inverse = 255.0F / width;
  const float zero = std::floor(-static_cast<float>(low) * inverse + 0.5F);
  for (std::size_t i = begin; i < end; ++i) {
    const float q = std::nearbyint(static_cast<float>(x[i]) * inverse) + zero;
    x[i] = double{width / 255.0F} * (std::clamp(q, 0.0F, 255.0F) - zero);
  }
}

// Inputs as a layer of this precision reads them.
inline std::vector<double> Rounded(std::vector<double> x, Precision precision,
                                   std::size_t num_shared) {
  if (precision == Precision::kInt8) {
    RoundToSteps(x, 0, num_shared);
    RoundToSteps(x, num_shared, x.size());
  } else if (precision == Precision::kBf16) {
    for (double& value : x) {
      int exponent;
      std::frexp(value, &exponent);
      value = std::ldexp(std::nearbyint(std::ldexp(value, 8 - exponent)), exponent - 8);
    }
  }
  return x;
}

// x weights + bias, x rounded to the precision of the weights; an empty bias is zero.
inline std::vector<double> Affine(std::vector<double> x, const WeightView& weights,
                                  Span<const float> bias, std::int64_t out,
                                  std::size_t num_shared = 0) {
  x = Rounded(std::move(x), weights.precision(), num_shared);
  std::vector<double> y(static_cast<std::size_t>(out), 0.0);
  for (std::int64_t j = 0; j < out; ++j) {
    double sum = bias.empty() ? 0.0 : bias[j];
    for (std::size_t k = 0; k < x.size(); ++k)
      sum += x[k] * Weight(weights, static_cast<std::int64_t>(k) * out + j, j);
    y[static_cast<std::size_t>(j)] = sum;
  }
  return y;
}

// One row through one layer: the formula of GatedLayer.
inline std::vector<double> Forward(const GatedLayer& layer, const std::vector<double>& x,
                                   std::size_t num_shared = 0) {
  std::vector<double> h = Affine(x, layer.weight, layer.bias, layer.out, num_shared);
  if (layer.activation == Activation::kRelu)
    for (double& value : h) value = value < 0 ? 0 : value;
  if (layer.gate == Gate::kNone) return h;
  std::vector<double> s = layer.gate == Gate::kHidden ? h : x;
  std::size_t prefix = layer.gate == Gate::kHidden ? 0 : num_shared;
  if (layer.gate_rank > 0) {
    s = Affine(s, layer.gate_down, {}, layer.gate_rank, prefix);
    prefix = 0;
  }
  const std::vector<double> g = Affine(s, layer.gate_weight, layer.gate_bias, layer.out, prefix);
  for (std::size_t j = 0; j < h.size(); ++j) h[j] *= Sigmoid(g[j]);
  return h;
}

// One row through the stack.
inline std::vector<double> Forward(Span<const GatedLayer> layers, std::vector<double> x,
                                   std::size_t num_shared = 0) {
  for (std::int64_t i = 0; i < layers.size(); ++i)
    x = Forward(layers[i], x, i == 0 ? num_shared : 0);
  return x;
}

// One row through a cross network: the formula of CrossLayer.
inline std::vector<double> Forward(Span<const CrossLayer> layers, const std::vector<double>& x) {
  std::vector<double> y = x;
  for (const CrossLayer& layer : layers) {
    const std::vector<double> source = layer.rank > 0 ? Affine(y, layer.down, {}, layer.rank) : y;
    const std::vector<double> s = Affine(source, layer.weight, layer.bias, layer.size);
    for (std::size_t j = 0; j < y.size(); ++j) y[j] += x[j] * s[j];
  }
  return y;
}

}  // namespace feedfast::reference

#endif  // FEEDFAST_CPP_GATED_MLP_REFERENCE_H_
