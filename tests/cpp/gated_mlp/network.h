#ifndef FEEDFAST_TESTS_CPP_GATED_MLP_NETWORK_H_
#define FEEDFAST_TESTS_CPP_GATED_MLP_NETWORK_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <list>
#include <random>
#include <utility>
#include <vector>

#include "cpp/gated_mlp/gated_mlp.h"

namespace feedfast::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Matrices of random weights, and what owns them.
class RandomWeights {
 public:
  explicit RandomWeights(std::uint32_t seed) : rng_(seed) {}

  std::vector<float> Values(std::int64_t size, float scale) {
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float> values(static_cast<std::size_t>(size));
    for (float& value : values) value = normal(rng_);
    return values;
  }
  Span<const float> Array(std::int64_t rows, std::int64_t columns) {
    return floats_.emplace_back(Values(rows * columns, 1.0F / std::sqrt(static_cast<float>(rows))));
  }
  WeightView Matrix(std::int64_t rows, std::int64_t columns, Precision precision) {
    const Span<const float> values = Array(rows, columns);
    if (precision == Precision::kBf16) {
      auto& bits = bf16_.emplace_back(static_cast<std::size_t>(values.size()));
      RoundToBf16(values, bits);
      return WeightView::Bf16(bits);
    }
    if (precision == Precision::kInt8) {
      auto& bytes = int8_.emplace_back(static_cast<std::size_t>(values.size()));
      auto& scales = floats_.emplace_back(static_cast<std::size_t>(columns));
      EXPECT_TRUE(QuantizeColumns(values, bytes, scales).ok());
      return WeightView::Int8(bytes, scales);
    }
    return values;
  }

 private:
  std::mt19937 rng_;
  std::list<std::vector<float>> floats_;
  std::list<std::vector<std::uint16_t>> bf16_;
  std::list<std::vector<std::int8_t>> int8_;
};

// Layers and the arrays they view.
class Network : public RandomWeights {
 public:
  using RandomWeights::RandomWeights;

  Network& Add(std::int64_t in, std::int64_t out, Gate gate,
               Activation activation = Activation::kRelu, std::int64_t gate_rank = 0,
               Precision precision = Precision::kFp32) {
    GatedLayer layer;
    layer.in = in;
    layer.out = out;
    layer.activation = activation;
    layer.gate = gate;
    layer.gate_rank = gate_rank;
    layer.weight = Matrix(in, out, precision);
    layer.bias = Array(1, out);
    if (gate != Gate::kNone) {
      const std::int64_t source = gate == Gate::kHidden ? out : in;
      if (gate_rank > 0) layer.gate_down = Matrix(source, gate_rank, precision);
      layer.gate_weight = Matrix(gate_rank > 0 ? gate_rank : source, out, precision);
      layer.gate_bias = Array(1, out);
    }
    layers_.push_back(layer);
    return *this;
  }

  const std::vector<GatedLayer>& layers() const { return layers_; }
  GatedMlp Mlp(std::int64_t num_shared = 0) const {
    StatusOr<GatedMlp> mlp = GatedMlp::Create(layers_, num_shared);
    EXPECT_TRUE(mlp.ok()) << mlp.status().message();
    return std::move(mlp).value();
  }

 private:
  std::vector<GatedLayer> layers_;
};

inline std::vector<float> Forward(const GatedMlp& mlp, const std::vector<float>& x,
                                  int threads = 1) {
  const auto num_rows = static_cast<std::int64_t>(x.size()) / mlp.num_inputs();
  std::vector<float> out(static_cast<std::size_t>(num_rows * mlp.num_outputs()), kNan);
  GatedMlpWorkspace workspace(mlp, num_rows, threads);
  mlp.Forward(x.data(), num_rows, mlp.num_inputs(), out.data(), mlp.num_outputs(), workspace);
  return out;
}

inline bool SameBits(const float* a, const float* b, std::int64_t size) {
  return std::memcmp(a, b, static_cast<std::size_t>(size) * sizeof(float)) == 0;
}

}  // namespace feedfast::testing

#endif  // FEEDFAST_TESTS_CPP_GATED_MLP_NETWORK_H_
