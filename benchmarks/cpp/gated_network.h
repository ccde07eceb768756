#ifndef FEEDFAST_BENCHMARKS_CPP_GATED_NETWORK_H_
#define FEEDFAST_BENCHMARKS_CPP_GATED_NETWORK_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <random>
#include <vector>

#include "cpp/gated_mlp/gated_mlp.h"

// The anchor network 512 -> [1024, 1024, 512] with random weights.
namespace feedfast::benchmarks {

struct Network {
  std::list<std::vector<float>> floats;
  std::list<std::vector<std::uint16_t>> bf16;
  std::list<std::vector<std::int8_t>> int8;
  std::vector<GatedLayer> layers;
  std::int64_t multiply_adds_per_row = 0;
};

inline std::vector<float> Normal(std::int64_t size, float scale, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(static_cast<std::size_t>(size));
  for (float& value : values) value = normal(rng);
  return values;
}

// gate_rank 0: full rank.
inline Network MakeNetwork(Gate gate, std::int64_t gate_rank, Precision precision) {
  std::mt19937 rng(20240601);
  Network network;
  const auto array = [&](std::int64_t rows, std::int64_t columns) -> Span<const float> {
    return network.floats.emplace_back(
        Normal(rows * columns, 1.0F / std::sqrt(static_cast<float>(rows)), rng));
  };
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) -> WeightView {
    network.multiply_adds_per_row += rows * columns;
    const Span<const float> values = array(rows, columns);
    if (precision == Precision::kFp32) return values;
    if (precision == Precision::kBf16) {
      auto& bits = network.bf16.emplace_back(static_cast<std::size_t>(values.size()));
      RoundToBf16(values, bits);
      return WeightView::Bf16(bits);
    }
    auto& bytes = network.int8.emplace_back(static_cast<std::size_t>(values.size()));
    auto& scales = network.floats.emplace_back(static_cast<std::size_t>(columns));
    if (!QuantizeColumns(values, bytes, scales).ok()) std::abort();
    return WeightView::Int8(bytes, scales);
  };
  std::int64_t in = 512;
  for (const std::int64_t out : {1024, 1024, 512}) {
    GatedLayer layer;
    layer.in = in;
    layer.out = out;
    layer.gate = gate;
    layer.gate_rank = gate_rank;
    layer.weight = matrix(in, out);
    layer.bias = array(1, out);
    if (gate != Gate::kNone) {
      const std::int64_t source = gate == Gate::kHidden ? out : in;
      if (gate_rank > 0) layer.gate_down = matrix(source, gate_rank);
      layer.gate_weight = matrix(gate_rank > 0 ? gate_rank : source, out);
      layer.gate_bias = array(1, out);
    }
    network.layers.push_back(layer);
    in = out;
  }
  return network;
}

}  // namespace feedfast::benchmarks

#endif  // FEEDFAST_BENCHMARKS_CPP_GATED_NETWORK_H_
