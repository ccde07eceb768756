#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/row_optimizer.h"
#include "cpp/embedding_kernels/table.h"

// Times are per looked-up row: 512 bags of 50 ids, dim 64, one thread, fresh ids each call.
namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumBags = 512;
constexpr std::int64_t kBagLength = 50;
constexpr std::int64_t kNumIds = kNumBags * kBagLength;
constexpr std::int64_t kDim = 64;
constexpr int kNumBatches = 16;
constexpr std::uint32_t kSeed = 20240601;

// Zeroed memory on 2 MiB pages where the system grants them.
template <typename T>
class HugeArray {
 public:
  explicit HugeArray(std::int64_t size)
      : bytes_(std::max<std::size_t>(static_cast<std::size_t>(size) * sizeof(T), 1)),
        data_(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) std::abort();
    ::madvise(data_, bytes_, MADV_HUGEPAGE);
    std::memset(data_, 0, bytes_);
  }
  HugeArray(const HugeArray&) = delete;
  HugeArray& operator=(const HugeArray&) = delete;
  ~HugeArray() { ::munmap(data_, bytes_); }
  T* data() const { return static_cast<T*>(data_); }

 private:
  std::size_t bytes_;
  void* data_;
};

struct Batches {
  std::vector<std::vector<std::int64_t>> values;
  std::vector<std::int64_t> offsets;
  std::size_t call = 0;

  explicit Batches(std::int64_t num_rows) {
    std::mt19937_64 rng(kSeed);
    values.resize(kNumBatches);
    for (auto& batch : values)
      for (std::int64_t i = 0; i < kNumIds; ++i)
        batch.push_back(static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(num_rows)));
    for (std::int64_t b = 0; b <= kNumBags; ++b) offsets.push_back(b * kBagLength);
  }
  Bags Next() { return {values[call++ % kNumBatches], offsets}; }
};

void CountRows(benchmark::State& state) {
  state.counters["ns_per_row"] =
      benchmark::Counter(static_cast<double>(state.iterations() * kNumIds) * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

struct Model {
  Model(RowFormat format, UpdateRule rule, std::int64_t num_rows)
      : rows(num_rows * RowBytes(format, kDim)),
        state0(num_rows * StateSize(rule, 0, kDim)),
        state1(num_rows * StateSize(rule, 1, kDim)),
        table{rows.data(), num_rows, kDim, format, {state0.data(), state1.data()}} {
    optimizer.rule = rule;
    optimizer.learning_rate = 0.01f;
  }
  HugeArray<std::uint8_t> rows;
  HugeArray<float> state0;
  HugeArray<float> state1;
  TrainableTable table;
  RowOptimizer optimizer;
};

// Forward, grouping, update: everything of a step that belongs to the table.
void BM_Step(benchmark::State& state) {
  const std::int64_t num_rows = state.range(2) * 1'000'000;
  Model model(static_cast<RowFormat>(state.range(1)), static_cast<UpdateRule>(state.range(0)),
              num_rows);
  Batches batches(num_rows);
  std::vector<float> pooled(kNumBags * kDim);
  const std::vector<float> grad(pooled.size(), 0.01f);
  const RangeRunner run = RunOnThreads(1);
  RowGroups groups;
  for (auto _ : state) {
    const Bags bags = batches.Next();
    if (!ValidateBags(bags, num_rows).ok()) std::abort();
    const TrainableTable& t = model.table;
    PooledLookup({t.data, t.num_rows, t.dim, t.format}, bags, Pooling::kSum, pooled.data(), kDim,
                 1);
    if (!groups.Group(bags, Pooling::kSum).ok()) std::abort();
    ApplyRowGradient(t, model.optimizer, groups.Gradient(grad.data(), kDim), run);
    ++model.optimizer.step;
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_Step)
    ->ArgNames({"rule", "format", "millions"})
    ->ArgsProduct({{2}, {0, 1, 2}, {1, 10}})
    ->ArgsProduct({{0, 1, 3, 4}, {0}, {1, 10}})
    ->Unit(benchmark::kMicrosecond);

// The update alone, of groups made before.
void BM_Apply(benchmark::State& state) {
  const std::int64_t num_rows = state.range(2) * 1'000'000;
  Model model(static_cast<RowFormat>(state.range(1)), static_cast<UpdateRule>(state.range(0)),
              num_rows);
  Batches batches(num_rows);
  const std::vector<float> grad(kNumBags * kDim, 0.01f);
  const RangeRunner run = RunOnThreads(1);
  std::vector<RowGroups> groups(kNumBatches);
  for (RowGroups& g : groups)
    if (!g.Group(batches.Next(), Pooling::kSum).ok()) std::abort();
  std::size_t call = 0;
  for (auto _ : state) {
    ApplyRowGradient(model.table, model.optimizer,
                     groups[call++ % kNumBatches].Gradient(grad.data(), kDim), run);
    ++model.optimizer.step;
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_Apply)
    ->ArgNames({"rule", "format", "millions"})
    ->ArgsProduct({{0, 1, 2, 3, 4}, {0}, {1, 10}})
    ->Unit(benchmark::kMicrosecond);

void BM_GroupByRow(benchmark::State& state) {
  const std::int64_t num_rows = state.range(0) * 1'000'000;
  Batches batches(num_rows);
  RowGroups groups;
  for (auto _ : state) {
    if (!groups.Group(batches.Next(), static_cast<Pooling>(state.range(1))).ok()) std::abort();
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_GroupByRow)
    ->ArgNames({"millions", "pooling"})
    ->ArgsProduct({{1, 10}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

// The gradient of the touched rows as an array, as an IndexedSlices needs it.
void BM_SumRowGradient(benchmark::State& state) {
  Batches batches(1'000'000);
  const std::vector<float> grad(kNumBags * kDim, 0.01f);
  std::vector<float> sums(kNumIds * kDim);
  RowGroups groups;
  for (auto _ : state) {
    if (!groups.Group(batches.Next(), Pooling::kMean).ok()) std::abort();
    SumRowGradient(groups.Gradient(grad.data(), kDim), sums.data(), 0, groups.num_rows());
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_SumRowGradient)->Unit(benchmark::kMicrosecond);

// Probe: reads and writes random rows in the order of a sorted batch, doing nothing with them.
void BM_ProbeReadWrite(benchmark::State& state) {
  const std::int64_t num_rows = state.range(0) * 1'000'000;
  const HugeArray<float> table(num_rows * kDim);
  Batches batches(num_rows);
  for (auto& batch : batches.values) std::sort(batch.begin(), batch.end());
  for (auto _ : state) {
    const std::int64_t* ids = batches.values[batches.call++ % kNumBatches].data();
    for (std::int64_t i = 0; i < kNumIds; ++i) {
      if (i + 32 < kNumIds)
        for (int line = 0; line < 4; ++line)
          __builtin_prefetch(table.data() + ids[i + 32] * kDim + line * 16, 1);
      float* row = table.data() + ids[i] * kDim;
      for (std::int64_t j = 0; j < kDim; ++j) row[j] += 1.0f;
    }
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_ProbeReadWrite)->ArgName("millions")->Arg(1)->Arg(10)->Unit(benchmark::kMicrosecond);

// Probe: the random rows of the forward pass, prefetched, summed.
void BM_ProbeRead(benchmark::State& state) {
  const std::int64_t num_rows = state.range(0) * 1'000'000;
  const HugeArray<float> table(num_rows * kDim);
  Batches batches(num_rows);
  std::vector<float> sum(kDim);
  for (auto _ : state) {
    const std::int64_t* ids = batches.values[batches.call++ % kNumBatches].data();
    for (std::int64_t i = 0; i < kNumIds; ++i) {
      if (i + 32 < kNumIds)
        for (int line = 0; line < 4; ++line)
          __builtin_prefetch(table.data() + ids[i + 32] * kDim + line * 16);
      const float* row = table.data() + ids[i] * kDim;
      for (std::int64_t j = 0; j < kDim; ++j) sum[static_cast<std::size_t>(j)] += row[j];
    }
    benchmark::ClobberMemory();
  }
  CountRows(state);
}
BENCHMARK(BM_ProbeRead)->ArgName("millions")->Arg(1)->Arg(10)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace feedfast::embedding_kernels
