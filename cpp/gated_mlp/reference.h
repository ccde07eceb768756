#ifndef FEEDFAST_CPP_GATED_MLP_REFERENCE_H_
#define FEEDFAST_CPP_GATED_MLP_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpp/gated_mlp/gated_mlp.h"

// Naive double-precision oracle, for tests and benchmarks only.
namespace feedfast::reference {

inline double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// x matrix + bias; an empty bias is zero.
inline std::vector<double> Affine(const std::vector<double>& x, Span<const float> matrix,
                                  Span<const float> bias, std::int64_t out) {
  std::vector<double> y(static_cast<std::size_t>(out), 0.0);
  for (std::int64_t j = 0; j < out; ++j) {
    double sum = bias.empty() ? 0.0 : bias[j];
    for (std::size_t k = 0; k < x.size(); ++k)
      sum += x[k] * matrix[static_cast<std::int64_t>(k) * out + j];
    y[static_cast<std::size_t>(j)] = sum;
  }
  return y;
}

// One row through one layer: the formula of GatedLayer.
inline std::vector<double> Forward(const GatedLayer& layer, const std::vector<double>& x) {
  std::vector<double> h = Affine(x, layer.weight, layer.bias, layer.out);
  if (layer.activation == Activation::kRelu)
    for (double& value : h) value = value < 0 ? 0 : value;
  if (layer.gate == Gate::kNone) return h;
  std::vector<double> s = layer.gate == Gate::kHidden ? h : x;
  if (layer.gate_rank > 0) s = Affine(s, layer.gate_down, {}, layer.gate_rank);
  const std::vector<double> g = Affine(s, layer.gate_weight, layer.gate_bias, layer.out);
  for (std::size_t j = 0; j < h.size(); ++j) h[j] *= Sigmoid(g[j]);
  return h;
}

// One row through the stack.
inline std::vector<double> Forward(Span<const GatedLayer> layers, std::vector<double> x) {
  for (const GatedLayer& layer : layers) x = Forward(layer, x);
  return x;
}

}  // namespace feedfast::reference

#endif  // FEEDFAST_CPP_GATED_MLP_REFERENCE_H_
