// The anchor network 512 -> [1024, 1024, 512] with hidden gates, beside the peak of the same
// units measured in the same run (BM_Peak) and one Sigmoid pass.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "cpp/common/cpu_target.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/peak_probe.h"

namespace feedfast {
namespace {

struct Network {
  std::list<std::vector<float>> floats;
  std::list<std::vector<std::uint16_t>> bf16;
  std::list<std::vector<std::int8_t>> int8;
  std::vector<GatedLayer> layers;
  std::int64_t multiply_adds_per_row = 0;
};

std::vector<float> Normal(std::int64_t size, float scale, std::mt19937& rng) {
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(static_cast<std::size_t>(size));
  for (float& value : values) value = normal(rng);
  return values;
}

// gate_rank 0: full rank.
Network MakeNetwork(Gate gate, std::int64_t gate_rank, Precision precision) {
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

void Run(benchmark::State& state, Gate gate, std::int64_t gate_rank,
         Precision precision = Precision::kFp32) {
  const std::int64_t batch = state.range(0);
  const Network network = MakeNetwork(gate, gate_rank, precision);
  const GatedMlp mlp = GatedMlp::Create(network.layers).value();
  std::mt19937 rng(7);
  const std::vector<float> x = Normal(batch * mlp.num_inputs(), 1.0F, rng);
  std::vector<float> out(static_cast<std::size_t>(batch * mlp.num_outputs()));
  GatedMlpWorkspace workspace(mlp, batch);
  for (auto _ : state) {
    mlp.Forward(x.data(), batch, mlp.num_inputs(), out.data(), mlp.num_outputs(), workspace);
    benchmark::ClobberMemory();
  }
  const double flops = 2.0 * static_cast<double>(network.multiply_adds_per_row * batch);
  state.counters["flops"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(CpuTargetName(ActiveCpuTarget())));
}

void BM_HiddenGate(benchmark::State& state) { Run(state, Gate::kHidden, 0); }
void BM_HiddenGateBf16(benchmark::State& state) { Run(state, Gate::kHidden, 0, Precision::kBf16); }
void BM_HiddenGateInt8(benchmark::State& state) { Run(state, Gate::kHidden, 0, Precision::kInt8); }
void BM_HiddenGateRank32(benchmark::State& state) { Run(state, Gate::kHidden, 32); }
void BM_InputGate(benchmark::State& state) { Run(state, Gate::kInput, 0); }
void BM_NoGate(benchmark::State& state) { Run(state, Gate::kNone, 0); }
BENCHMARK(BM_HiddenGate)->Arg(1)->Arg(16)->Arg(50)->Arg(64)->Arg(256)->Arg(512);
BENCHMARK(BM_HiddenGateBf16)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Arg(512);
BENCHMARK(BM_HiddenGateInt8)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->Arg(512);
BENCHMARK(BM_HiddenGateRank32)->Arg(1)->Arg(64)->Arg(512);
BENCHMARK(BM_InputGate)->Arg(1)->Arg(64)->Arg(512);
BENCHMARK(BM_NoGate)->Arg(1)->Arg(64)->Arg(512);

void BM_Peak(benchmark::State& state, Precision precision) {
  double flops = 0;
  for (auto _ : state) flops += static_cast<double>(PeakProbe(precision, 100));
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(BM_Peak, fp32, Precision::kFp32);
BENCHMARK_CAPTURE(BM_Peak, bf16, Precision::kBf16);
BENCHMARK_CAPTURE(BM_Peak, int8, Precision::kInt8);

void BM_Sigmoid(benchmark::State& state) {
  std::mt19937 rng(7);
  const std::vector<float> x = Normal(state.range(0), 4.0F, rng);
  std::vector<float> y = x;
  for (auto _ : state) {
    y = x;
    Sigmoid(y);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Sigmoid)->Arg(4096);

}  // namespace
}  // namespace feedfast
