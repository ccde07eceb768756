#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <unordered_map>
#include <vector>

#include "cpp/allreduce/row_accumulator.h"
#include "cpp/allreduce/row_partition.h"

namespace feedfast::allreduce {
namespace {

// Five micro-batches of a window: the table has 2^20 rows, an id is drawn with a skew as in logs
// (the square of a uniform number).
constexpr int kBatches = 5;
constexpr std::int64_t kTableRows = std::int64_t{1} << 20;

struct Window {
  Window(std::int64_t slices, std::int64_t width) : dim(width) {
    std::mt19937_64 rng(20'240'601);
    std::uniform_real_distribution<double> uniform;
    std::normal_distribution<float> normal;
    for (int batch = 0; batch < kBatches; ++batch) {
      rows.emplace_back(static_cast<std::size_t>(slices));
      for (auto& row : rows.back())
        row = static_cast<std::int64_t>(std::pow(uniform(rng), 2.0) * kTableRows);
      values.emplace_back(static_cast<std::size_t>(slices * dim));
      for (auto& value : values.back()) value = normal(rng);
    }
  }

  std::int64_t dim;
  std::vector<std::vector<std::int64_t>> rows;
  std::vector<std::vector<float>> values;
};

// What all of them make of a window: ascending rows and their sums.
struct Sums {
  std::vector<std::int64_t> rows;
  std::vector<float> sums;
  std::vector<std::int64_t> counts;
};

class Accumulator {
 public:
  explicit Accumulator(std::int64_t dim) : accumulator_(dim) {}
  void operator()(const Window& window, Sums& out) {
    accumulator_.StartWindow();
    for (std::size_t batch = 0; batch < kBatches; ++batch)
      accumulator_.Add(window.rows[batch], window.values[batch].data());
    const auto size = static_cast<std::size_t>(accumulator_.rows().size());
    out.rows.resize(size);
    out.counts.resize(size);
    out.sums.resize(size * static_cast<std::size_t>(window.dim));
    accumulator_.CopyAscending(out.rows, out.sums.data(), out.counts);
  }

 private:
  RowAccumulator accumulator_;
};

// Peer: the standard hash map from row to its place in an array of sums.
class UnorderedMap {
 public:
  explicit UnorderedMap(std::int64_t) {}
  void operator()(const Window& window, Sums& out) {
    const auto dim = static_cast<std::size_t>(window.dim);
    places_.clear();
    sums_.clear();
    for (std::size_t batch = 0; batch < kBatches; ++batch)
      for (std::size_t i = 0; i < window.rows[batch].size(); ++i) {
        const float* const value = window.values[batch].data() + i * dim;
        const auto [entry, is_new] = places_.try_emplace(window.rows[batch][i], places_.size());
        if (is_new) {
          sums_.insert(sums_.end(), value, value + dim);
        } else {
          float* const sum = sums_.data() + entry->second * dim;
          for (std::size_t j = 0; j < dim; ++j) sum[j] += value[j];
        }
      }
    out.rows.clear();
    for (const auto& [row, place] : places_) out.rows.push_back(row);
    std::sort(out.rows.begin(), out.rows.end());
    out.sums.resize(sums_.size());
    for (std::size_t k = 0; k < out.rows.size(); ++k)
      std::copy_n(sums_.data() + places_[out.rows[k]] * dim, dim, out.sums.data() + k * dim);
  }

 private:
  std::unordered_map<std::int64_t, std::size_t> places_;
  std::vector<float> sums_;
};

// Peer: the slices of the whole window kept, sorted by row and summed.
class Sort {
 public:
  explicit Sort(std::int64_t) {}
  void operator()(const Window& window, Sums& out) {
    const auto dim = static_cast<std::size_t>(window.dim);
    rows_.clear();
    values_.clear();
    for (std::size_t batch = 0; batch < kBatches; ++batch) {
      rows_.insert(rows_.end(), window.rows[batch].begin(), window.rows[batch].end());
      values_.insert(values_.end(), window.values[batch].begin(), window.values[batch].end());
    }
    order_.resize(rows_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return rows_[a] < rows_[b]; });
    out.rows.clear();
    out.sums.clear();
    for (const std::size_t i : order_) {
      const float* const value = values_.data() + i * dim;
      if (out.rows.empty() || out.rows.back() != rows_[i]) {
        out.rows.push_back(rows_[i]);
        out.sums.insert(out.sums.end(), value, value + dim);
      } else {
        float* const sum = out.sums.data() + out.sums.size() - dim;
        for (std::size_t j = 0; j < dim; ++j) sum[j] += value[j];
      }
    }
  }

 private:
  std::vector<std::int64_t> rows_;
  std::vector<float> values_;
  std::vector<std::size_t> order_;
};

// Arguments: slices of a micro-batch, columns.
template <typename Method>
void BM_AccumulateWindow(benchmark::State& state) {
  const Window window(state.range(0), state.range(1));
  Method method(window.dim);
  Sums sums;
  for (auto _ : state) {
    method(window, sums);
    benchmark::ClobberMemory();
  }
  Sums want;
  Sort(window.dim)(window, want);
  if (sums.rows != want.rows || sums.sums != want.sums) state.SkipWithError("other sums");
  state.SetItemsProcessed(state.iterations() * kBatches * state.range(0));
  state.counters["rows"] = static_cast<double>(sums.rows.size());
}
void Sizes(benchmark::internal::Benchmark* each) {
  for (const std::int64_t slices : {2'000, 50'000})
    for (const std::int64_t dim : {16, 64}) each->Args({slices, dim});
  each->Unit(benchmark::kMicrosecond);
}
BENCHMARK(BM_AccumulateWindow<Accumulator>)->Apply(Sizes);
BENCHMARK(BM_AccumulateWindow<UnorderedMap>)->Apply(Sizes);
BENCHMARK(BM_AccumulateWindow<Sort>)->Apply(Sizes);

// Ids in any order to their owners: counting, beside a stable sort by owner. Argument: owners.
std::vector<std::int64_t> Ids() {
  std::vector<std::int64_t> rows(100'000);
  std::mt19937_64 rng(5);
  for (auto& row : rows) row = static_cast<std::int64_t>(rng() % kTableRows);
  return rows;
}

void BM_PartitionCounting(benchmark::State& state) {
  const std::vector<std::int64_t> rows = Ids();
  const RowOwners owners = RowOwners::Even(kTableRows, state.range(0)).value();
  for (auto _ : state) benchmark::DoNotOptimize(PartitionRows(rows, owners).value());
}
BENCHMARK(BM_PartitionCounting)->Arg(4)->Arg(64)->Unit(benchmark::kMicrosecond);

void BM_PartitionSort(benchmark::State& state) {
  const std::vector<std::int64_t> rows = Ids();
  const std::int64_t share = kTableRows / state.range(0);
  for (auto _ : state) {
    std::vector<std::int64_t> positions(rows.size());
    std::iota(positions.begin(), positions.end(), 0);
    std::stable_sort(positions.begin(), positions.end(), [&](std::int64_t a, std::int64_t b) {
      return rows[static_cast<std::size_t>(a)] / share < rows[static_cast<std::size_t>(b)] / share;
    });
    benchmark::DoNotOptimize(positions);
  }
}
BENCHMARK(BM_PartitionSort)->Arg(4)->Arg(64)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace feedfast::allreduce
