#include "cpp/embedding_kernels/grouped_lookup.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/pooled_lookup_kernel.h"
#include "cpp/embedding_kernels/row_prefetch.h"

namespace feedfast::embedding_kernels {
namespace {

std::int64_t Lines(const Table& table) {
  return RowLines(table.data, RowBytes(table.format, table.dim));
}

// The first bag whose work begins at or behind `work`, counted from the first bag of the feature.
std::int64_t FirstBag(const PooledFeature& feature, std::int64_t work) {
  const std::int64_t lines = Lines(feature.table);
  std::int64_t low = 0;
  std::int64_t high = feature.bags.num_bags();
  while (low < high) {
    const std::int64_t bag = low + (high - low) / 2;
    if (feature.bags.offsets[bag] * lines + bag < work)
      low = bag + 1;
    else
      high = bag;
  }
  return low;
}

}  // namespace

Status ValidateFeatures(Span<const PooledFeature> features, std::int64_t out_columns) {
  for (std::int64_t f = 0; f < features.size(); ++f) {
    const PooledFeature& feature = features[f];
    if (const Status status = ValidateBags(feature.bags, feature.table.num_rows); !status.ok())
      return Status(status.code(), "features[" + std::to_string(f) + "]." + status.message());
    if (feature.bags.num_bags() != features[0].bags.num_bags())
      return InvalidArgument("features[", f, "] has ", feature.bags.num_bags(),
                             " bags; all must have as many as features[0], ",
                             features[0].bags.num_bags());
    if (feature.column < 0 || feature.column > out_columns - feature.table.dim)
      return InvalidArgument("features[", f, "].column = ", feature.column, " with ",
                             feature.table.dim, " columns does not fit an output of ", out_columns,
                             " columns");
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(features.size()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return features[a].column < features[b].column;
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const PooledFeature& left = features[order[i - 1]];
    const PooledFeature& right = features[order[i]];
    if (right.column < left.column + left.table.dim)
      return InvalidArgument("features[", order[i], "].column = ", right.column,
                             " lies in the columns of features[", order[i - 1], "], ", left.column,
                             " to ", left.column + left.table.dim - 1);
  }
  return OkStatus();
}

GroupedWork::GroupedWork(Span<const PooledFeature> features) : features_(features), begins_{0} {
  begins_.reserve(static_cast<std::size_t>(features.size()) + 1);
  for (const PooledFeature& feature : features)
    begins_.push_back(begins_.back() + feature.bags.values.size() * Lines(feature.table) +
                      feature.bags.num_bags());
}

void GroupedWork::Run(float* out, std::int64_t out_stride, std::int64_t begin,
                      std::int64_t end) const noexcept {
  static constexpr KernelTable<decltype(&scalar::PoolBags)> kKernels =
      FEEDFAST_KERNEL_TABLE(PoolBags);
  constexpr std::int64_t kJobs = 32;  // a call, on the stack
  PoolBagsArgs jobs[kJobs];
  std::int64_t num_jobs = 0;
  const std::int64_t first =
      std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1;
  for (std::int64_t f = first; f < features_.size(); ++f) {
    const std::int64_t feature_begin = begins_[static_cast<std::size_t>(f)];
    if (feature_begin >= end) break;
    const PooledFeature& feature = features_[f];
    const std::int64_t begin_bag = FirstBag(feature, begin - feature_begin);
    const std::int64_t end_bag = FirstBag(feature, end - feature_begin);
    if (begin_bag == end_bag) continue;
    jobs[num_jobs++] = {
        MakeBagRange(feature.table, feature.bags, feature.pooling, begin_bag, end_bag),
        out + feature.column, out_stride};
    if (num_jobs == kJobs) {
      kKernels.Get()(jobs, num_jobs);
      num_jobs = 0;
    }
  }
  kKernels.Get()(jobs, num_jobs);
}

void GroupedPooledLookup(Span<const PooledFeature> features, float* out, std::int64_t out_stride,
                         int threads) {
  const GroupedWork work(features);
  // Eight ranges per thread even out what the ids of one cost more than those of another.
  const std::int64_t grain =
      threads == 1 ? std::max<std::int64_t>(1, work.size())
                   : std::max<std::int64_t>(1, work.size() / (8 * std::int64_t{threads}));
  ParallelFor(work.size(), grain, threads,
              [&](std::int64_t begin, std::int64_t end) { work.Run(out, out_stride, begin, end); });
}

}  // namespace feedfast::embedding_kernels
