#include "cpp/embedding_kernels/pooled_lookup_grad.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "cpp/embedding_kernels/divisor.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/pooled_lookup_kernel.h"

namespace feedfast::embedding_kernels {
namespace {

struct Entry {
  std::int64_t row;
  std::int64_t position;
};

// Positions 0..nnz-1 sorted by (values[position], position): least significant digit first, as many
// digits as the largest row has.
std::vector<Entry> SortByRow(const IndexSpan& values) {
  constexpr int kDigitBits = 11;
  constexpr std::int64_t kDigits = std::int64_t{1} << kDigitBits;
  std::vector<Entry> entries(static_cast<std::size_t>(values.size()));
  std::int64_t largest = 0;
  for (std::int64_t i = 0; i < values.size(); ++i) {
    entries[static_cast<std::size_t>(i)] = {values[i], i};
    largest = std::max(largest, values[i]);
  }
  std::vector<Entry> sorted(entries.size());
  for (int shift = 0; shift < 63 && (largest >> shift) != 0; shift += kDigitBits) {
    std::array<std::int64_t, kDigits> next{};
    for (const Entry& e : entries) ++next[static_cast<std::size_t>(e.row >> shift & (kDigits - 1))];
    std::int64_t begin = 0;
    for (std::int64_t& n : next) begin += std::exchange(n, begin);
    for (const Entry& e : entries)
      sorted[static_cast<std::size_t>(
          next[static_cast<std::size_t>(e.row >> shift & (kDigits - 1))]++)] = e;
    entries.swap(sorted);
  }
  return entries;
}

}  // namespace

RowGroups GroupByRow(const Bags& bags, Pooling pooling) {
  const auto nnz = static_cast<std::size_t>(bags.values.size());
  const float* weights = bags.weights_or_null();
  const bool all_ones = pooling == Pooling::kSum && weights == nullptr;
  std::vector<std::int64_t> bag_of(nnz);
  std::vector<float> factor_of(all_ones ? 0 : nnz);
  for (std::int64_t b = 0; b < bags.num_bags(); ++b) {
    const std::int64_t begin = bags.offsets[b];
    const std::int64_t end = bags.offsets[b + 1];
    std::fill(bag_of.begin() + begin, bag_of.begin() + end, b);
    if (all_ones) continue;
    const float divisor = PoolingDivisor(pooling, weights, begin, end);
    const float inverse = divisor == 0.0f ? 0.0f : 1.0f / divisor;
    for (std::int64_t i = begin; i < end; ++i)
      factor_of[static_cast<std::size_t>(i)] = weights == nullptr ? inverse : weights[i] * inverse;
  }

  RowGroups groups;
  groups.bags.resize(nnz);
  groups.factors.resize(factor_of.size());
  const std::vector<Entry> entries = SortByRow(bags.values);
  for (std::size_t e = 0; e < nnz; ++e) {
    const auto position = static_cast<std::size_t>(entries[e].position);
    groups.bags[e] = bag_of[position];
    if (!all_ones) groups.factors[e] = factor_of[position];
    if (e == 0 || entries[e].row != entries[e - 1].row) {
      groups.rows.push_back(entries[e].row);
      groups.offsets.push_back(static_cast<std::int64_t>(e));
    }
  }
  groups.offsets.push_back(static_cast<std::int64_t>(nnz));
  return groups;
}

void PooledLookupGradRange(const RowGroups& groups, const float* grad, std::int64_t num_bags,
                           std::int64_t dim, float* row_grads, std::int64_t begin_group,
                           std::int64_t end_group) noexcept {
  const Table grads{grad, num_bags, dim, RowFormat::kFloat32};
  Bags transposed{groups.bags, groups.offsets};
  if (!groups.factors.empty()) transposed.weights = groups.factors;
  PooledLookupRange(grads, transposed, Pooling::kSum, row_grads, dim, begin_group, end_group);
}

void PooledLookupWeightsGradRange(const Table& table, const Bags& bags, Pooling pooling,
                                  const float* pooled, const float* grad, float* grad_weights,
                                  std::int64_t begin_bag, std::int64_t end_bag) noexcept {
  assert(bags.weights && !IsQuantized(table.format));
  static constexpr KernelTable<decltype(&scalar::GradWeights)> kKernels =
      FEEDFAST_KERNEL_TABLE(GradWeights);
  kKernels.Get()(
      {MakeBagRange(table, bags, pooling, begin_bag, end_bag), pooled, grad, grad_weights});
}

}  // namespace feedfast::embedding_kernels
