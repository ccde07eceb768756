// The anchor network 512 -> [1024, 1024, 512] with hidden gates, beside the peak of the same
// units measured in the same run (BM_Peak) and one Sigmoid pass.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "benchmarks/cpp/gated_network.h"
#include "cpp/common/cpu_target.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/peak_probe.h"

namespace feedfast {
namespace {

using benchmarks::MakeNetwork;
using benchmarks::Network;
using benchmarks::Normal;

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
