#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "cpp/tree_encoder/leaf_encoder.h"
#include "cpp/tree_encoder/reference.h"
#include "tests/cpp/tree_encoder/random_forest.h"

namespace feedfast::tree_encoder {
namespace {

constexpr unsigned kSeed = 20'240'601;
constexpr std::int32_t kNumTrees = 100;
constexpr std::int32_t kNumFeatures = 64;
constexpr int kDepth = 6;

// Complete trees of one request's forest and a batch of candidates.
struct Workload {
  explicit Workload(std::int64_t num_rows) {
    std::mt19937 rng(kSeed);
    forest = RandomForest(rng, kNumTrees, kNumFeatures, kDepth, /*leaf_one_in=*/0);
    x = RandomRows(rng, num_rows, kNumFeatures);
    out.resize(static_cast<std::size_t>(num_rows * kNumTrees));
  }

  Forest forest;
  std::vector<float> x;
  std::vector<std::int32_t> out;
};

void BM_LeafEncoder(benchmark::State& state) {
  Workload workload(state.range(0));
  const StatusOr<LeafEncoder> encoder = LeafEncoder::FromImage(ForestToImage(workload.forest));
  for (auto _ : state) {
    encoder->Encode(workload.x.data(), state.range(0), kNumFeatures, workload.out.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kNumTrees);
}
BENCHMARK(BM_LeafEncoder)->Arg(1)->Arg(50)->Arg(500)->Unit(benchmark::kMicrosecond);

void BM_LeafEncoderReference(benchmark::State& state) {
  Workload workload(state.range(0));
  for (auto _ : state) {
    std::int32_t* out = workload.out.data();
    for (std::int64_t row = 0; row < state.range(0); ++row)
      for (std::size_t tree = 0; tree < kNumTrees; ++tree)
        *out++ = reference::LeafRow(workload.forest, tree, workload.x.data() + row * kNumFeatures);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kNumTrees);
}
BENCHMARK(BM_LeafEncoderReference)->Arg(1)->Arg(50)->Arg(500)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace feedfast::tree_encoder
