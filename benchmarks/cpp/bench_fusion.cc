#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "cpp/allreduce/fusion.h"

namespace feedfast::allreduce {
namespace {

// The dense gradients of two towers 512-256-128 with gates, `state.range(0)` times over.
std::vector<std::vector<std::int64_t>> TowerShapes(std::int64_t copies) {
  std::vector<std::vector<std::int64_t>> shapes;
  for (std::int64_t copy = 0; copy < copies; ++copy)
    for (const std::int64_t in : {560, 512, 256}) {
      const std::int64_t out = in == 560 ? 512 : in / 2;
      shapes.insert(shapes.end(), {{in, out}, {out}, {out, out}, {out}});
    }
  return shapes;
}

class FusionBenchmark {
 public:
  explicit FusionBenchmark(std::int64_t copies)
      : arena_(FusionPlan::Create(TowerShapes(copies), sizeof(float)).value()) {
    std::mt19937 rng(20'240'601);
    std::normal_distribution<float> normal;
    for (const FusionSlot& slot : arena_.plan().slots()) {
      gradients_.emplace_back(static_cast<std::size_t>(slot.size));
      for (float& element : gradients_.back()) element = normal(rng);
      pointers_.push_back(gradients_.back().data());
      outputs_.push_back(gradients_.back().data());
    }
  }

  void Accumulate() {
    arena_.Accumulate({pointers_.data(), static_cast<std::int64_t>(pointers_.size())}, 1);
  }
  void Unpack() {
    arena_.Unpack(1.0F, {outputs_.data(), static_cast<std::int64_t>(outputs_.size())}, 1);
  }
  std::int64_t bytes() { return arena_.fused().size() * std::int64_t{sizeof(float)}; }
  FusionArena<float>& arena() { return arena_; }

 private:
  FusionArena<float> arena_;
  std::vector<std::vector<float>> gradients_;
  std::vector<const float*> pointers_;
  std::vector<float*> outputs_;
};

void BM_FusionStore(benchmark::State& state) {
  FusionBenchmark fusion(state.range(0));
  for (auto _ : state) {
    fusion.arena().StartWindow();
    fusion.Accumulate();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * fusion.bytes());
}
BENCHMARK(BM_FusionStore)->Arg(1)->Arg(16)->Unit(benchmark::kMicrosecond);

void BM_FusionAdd(benchmark::State& state) {
  FusionBenchmark fusion(state.range(0));
  fusion.Accumulate();
  for (auto _ : state) {
    fusion.Accumulate();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 3 * fusion.bytes());
}
BENCHMARK(BM_FusionAdd)->Arg(1)->Arg(16)->Unit(benchmark::kMicrosecond);

void BM_FusionUnpack(benchmark::State& state) {
  FusionBenchmark fusion(state.range(0));
  fusion.Accumulate();
  for (auto _ : state) {
    fusion.Unpack();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * fusion.bytes());
}
BENCHMARK(BM_FusionUnpack)->Arg(1)->Arg(16)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace feedfast::allreduce
