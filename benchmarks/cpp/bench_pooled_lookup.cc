#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/embedding_kernels/row_read_probe.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumBags = 512;
constexpr int kNumBatches = 32;  // fresh ids each call, then the same again
constexpr std::uint32_t kSeed = 20240601;

enum Ids : std::int64_t { kUniform, kZipf };  // Zipf: exponent 1.05, hot rows scattered

struct Batch {
  std::vector<std::int64_t> values;
  std::vector<std::int64_t> offsets = {0};
};

std::vector<Batch> MakeBatches(std::int64_t num_rows, std::int64_t bag_length, std::int64_t ids) {
  std::mt19937_64 rng(kSeed);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  std::vector<Batch> batches(kNumBatches);
  for (Batch& batch : batches)
    for (std::int64_t b = 0; b < kNumBags; ++b) {
      for (std::int64_t i = 0; i < bag_length; ++i) {
        const double u = uniform(rng);
        // Inverse of the continuous distribution with density x^-1.05 on [1, num_rows + 1).
        const double n = static_cast<double>(num_rows);
        const double rank = std::pow(1.0 - u * (1.0 - std::pow(n + 1.0, -0.05)), -20.0);
        const auto row = static_cast<std::int64_t>(ids == kZipf ? rank - 1.0 : u * n);
        batch.values.push_back(std::min(row, num_rows - 1) * 611'953 % num_rows);
      }
      batch.offsets.push_back(static_cast<std::int64_t>(batch.values.size()));
    }
  return batches;
}

// A table of any format whose rows are real memory, in huge pages where the system grants them; the
// values do not matter here.
class BenchTable {
 public:
  BenchTable(RowFormat format, std::int64_t num_rows, std::int64_t dim) {
    constexpr std::size_t kHugePage = std::size_t{2} << 20;
    const auto bytes = static_cast<std::size_t>(num_rows * RowBytes(format, dim));
    data_.reset(static_cast<std::uint8_t*>(
        std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage)));
    if (data_ == nullptr) std::abort();
    ::madvise(data_.get(), bytes, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < bytes; ++i) data_.get()[i] = static_cast<std::uint8_t>(i % 61);
    view_ = {data_.get(), num_rows, dim, format};
  }
  const Table& view() const { return view_; }

 private:
  struct Free {
    void operator()(std::uint8_t* p) const { std::free(p); }
  };
  std::unique_ptr<std::uint8_t, Free> data_;
  Table view_;
};

void CountRows(benchmark::State& state, const std::vector<Batch>& batches, std::int64_t row_bytes) {
  const auto rows = static_cast<std::int64_t>(batches.front().values.size());
  state.SetBytesProcessed(state.iterations() * rows * row_bytes);
  state.counters["ns_per_row"] =
      benchmark::Counter(static_cast<double>(state.iterations() * rows) * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void BM_PooledLookup(benchmark::State& state) {
  const auto format = static_cast<RowFormat>(state.range(0));
  const std::int64_t dim = state.range(1);
  const std::int64_t num_rows = state.range(4);
  const std::vector<Batch> batches = MakeBatches(num_rows, state.range(2), state.range(3));
  const BenchTable table(format, num_rows, dim);
  std::vector<float> out(static_cast<std::size_t>(kNumBags * dim));
  std::size_t call = 0;
  for (auto _ : state) {
    const Batch& batch = batches[call++ % kNumBatches];
    const Bags bags{batch.values, batch.offsets};
    if (!ValidateBags(bags, num_rows).ok()) std::abort();
    PooledLookup(table.view(), bags, Pooling::kMean, out.data(), dim, 1);
    benchmark::ClobberMemory();
  }
  CountRows(state, batches, RowBytes(format, dim));
}

// The limit: the same rows read without pooling.
void BM_ReadRows(benchmark::State& state) {
  const auto format = static_cast<RowFormat>(state.range(0));
  const std::int64_t dim = state.range(1);
  const std::int64_t num_rows = state.range(4);
  const std::vector<Batch> batches = MakeBatches(num_rows, state.range(2), state.range(3));
  const BenchTable table(format, num_rows, dim);
  std::size_t call = 0;
  for (auto _ : state) {
    const Batch& batch = batches[call++ % kNumBatches];
    benchmark::DoNotOptimize(
        ReadRows(table.view().data, RowBytes(format, dim), batch.values, state.range(5)));
  }
  CountRows(state, batches, RowBytes(format, dim));
}

void LookupArgs(benchmark::internal::Benchmark* b, const std::vector<std::int64_t>& lines) {
  const std::vector<std::string> names = {"format", "dim", "bag", "zipf", "rows", "lines"};
  b->ArgNames(names)->Unit(benchmark::kMicrosecond);
  b->ArgsProduct({{0, 1, 2, 3, 4}, {64}, {50}, {kUniform, kZipf}, {1'000'000}, lines});
  b->ArgsProduct({{0, 1, 3, 4}, {64}, {50}, {kUniform}, {10'000'000}, lines});
  b->ArgsProduct({{0}, {16, 32, 128}, {50}, {kUniform}, {1'000'000, 10'000'000}, lines});
  b->ArgsProduct({{0, 3}, {64}, {1, 10}, {kZipf}, {1'000'000}, lines});
}
BENCHMARK(BM_PooledLookup)->Apply([](auto* b) { LookupArgs(b, {0}); });
BENCHMARK(BM_ReadRows)->Apply([](auto* b) { LookupArgs(b, {128}); });

// The loop one writes first.
void BM_NaivePooledLookup(benchmark::State& state) {
  const std::int64_t dim = state.range(0);
  const std::vector<Batch> batches = MakeBatches(1'000'000, 50, kUniform);
  const BenchTable bench_table(RowFormat::kFloat32, 1'000'000, dim);
  const auto* table = static_cast<const float*>(bench_table.view().data);
  std::vector<float> out(static_cast<std::size_t>(kNumBags * dim));
  std::size_t call = 0;
  for (auto _ : state) {
    const Batch& batch = batches[call++ % kNumBatches];
    for (std::int64_t b = 0; b < kNumBags; ++b) {
      float* to = out.data() + b * dim;
      std::fill(to, to + dim, 0.0f);
      const std::int64_t begin = batch.offsets[static_cast<std::size_t>(b)];
      const std::int64_t end = batch.offsets[static_cast<std::size_t>(b) + 1];
      for (std::int64_t i = begin; i < end; ++i) {
        const float* row = table + batch.values[static_cast<std::size_t>(i)] * dim;
        for (std::int64_t j = 0; j < dim; ++j) to[j] += row[j];
      }
      for (std::int64_t j = 0; j < dim; ++j) to[j] /= static_cast<float>(end - begin);
    }
    benchmark::ClobberMemory();
  }
  CountRows(state, batches, RowBytes(RowFormat::kFloat32, dim));
}
BENCHMARK(BM_NaivePooledLookup)->ArgName("dim")->Arg(64)->Unit(benchmark::kMicrosecond);

void BM_QuantizeRows(benchmark::State& state) {
  const std::int64_t dim = 64;
  const std::int64_t num_rows = 100'000;
  std::mt19937 rng(kSeed);
  std::normal_distribution<float> normal;
  std::vector<float> table(static_cast<std::size_t>(num_rows * dim));
  for (float& w : table) w = normal(rng);
  std::vector<std::uint8_t> packed(
      static_cast<std::size_t>(num_rows * RowBytes(RowFormat::kInt8Rowwise, dim)));
  const auto method = static_cast<RangeMethod>(state.range(0));
  for (auto _ : state) {
    QuantizeRows(table.data(), num_rows, dim, RowFormat::kInt8Rowwise, method, packed.data(), 1);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * num_rows * dim * std::int64_t{sizeof(float)});
}
BENCHMARK(BM_QuantizeRows)->ArgName("clip")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace feedfast::embedding_kernels
