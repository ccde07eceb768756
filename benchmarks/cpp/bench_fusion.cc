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

// An arena, and gradients of one format for it.
class FusionBenchmark {
 public:
  explicit FusionBenchmark(std::int64_t copies, ItemFormat format)
      : arena_(Plan(TowerShapes(copies), format)),
        item_bytes_(format == ItemFormat::kFused ? sizeof(float) : sizeof(std::uint16_t)) {
    std::mt19937 rng(20'240'601);
    std::normal_distribution<float> normal;
    for (const FusionSlot& slot : arena_.plan().slots()) {
      // The upper halves of floats; as binary16 they are other numbers, none subnormal.
      gradients_.emplace_back(static_cast<std::size_t>(slot.size));
      for (float& element : gradients_.back()) element = normal(rng);
      auto* const items = reinterpret_cast<std::uint16_t*>(gradients_.back().data());
      for (std::int64_t j = 0; format != ItemFormat::kFused && j < slot.size; ++j)
        items[j] = static_cast<std::uint16_t>(0x3c00 + rng() % 1024);
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
  // Of the gradients, and of the fused array.
  std::int64_t gradient_bytes() {
    return arena_.fused().size() * static_cast<std::int64_t>(item_bytes_);
  }
  std::int64_t fused_bytes() { return arena_.fused().size() * std::int64_t{sizeof(float)}; }
  FusionArena<float>& arena() { return arena_; }

 private:
  static FusionPlan Plan(const std::vector<std::vector<std::int64_t>>& shapes, ItemFormat format) {
    const std::vector<ItemFormat> formats(shapes.size(), format);
    return FusionPlan::Create(shapes, sizeof(float), formats).value();
  }

  FusionArena<float> arena_;
  std::size_t item_bytes_;
  std::vector<std::vector<float>> gradients_;
  std::vector<const void*> pointers_;
  std::vector<void*> outputs_;
};

void BM_FusionStore(benchmark::State& state, ItemFormat format) {
  FusionBenchmark fusion(state.range(0), format);
  for (auto _ : state) {
    fusion.arena().StartWindow();
    fusion.Accumulate();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * (fusion.gradient_bytes() + fusion.fused_bytes()));
}

void BM_FusionAdd(benchmark::State& state, ItemFormat format) {
  FusionBenchmark fusion(state.range(0), format);
  fusion.Accumulate();
  for (auto _ : state) {
    fusion.Accumulate();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() *
                          (fusion.gradient_bytes() + 2 * fusion.fused_bytes()));
}

void BM_FusionUnpack(benchmark::State& state, ItemFormat format) {
  FusionBenchmark fusion(state.range(0), format);
  fusion.Accumulate();
  for (auto _ : state) {
    fusion.Unpack();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * (fusion.gradient_bytes() + fusion.fused_bytes()));
}

#define FEEDFAST_BENCHMARK_FORMATS(benchmark_of)                   \
  BENCHMARK_CAPTURE(benchmark_of, float32, ItemFormat::kFused)     \
      ->Arg(1)                                                     \
      ->Arg(16)                                                    \
      ->Unit(benchmark::kMicrosecond);                             \
  BENCHMARK_CAPTURE(benchmark_of, float16, ItemFormat::kFloat16)   \
      ->Arg(1)                                                     \
      ->Arg(16)                                                    \
      ->Unit(benchmark::kMicrosecond);                             \
  BENCHMARK_CAPTURE(benchmark_of, bfloat16, ItemFormat::kBfloat16) \
      ->Arg(1)                                                     \
      ->Arg(16)                                                    \
      ->Unit(benchmark::kMicrosecond)
FEEDFAST_BENCHMARK_FORMATS(BM_FusionStore);
FEEDFAST_BENCHMARK_FORMATS(BM_FusionAdd);
FEEDFAST_BENCHMARK_FORMATS(BM_FusionUnpack);
#undef FEEDFAST_BENCHMARK_FORMATS

}  // namespace
}  // namespace feedfast::allreduce
