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

// Collects jobs on the stack and runs them when there are many, or at the end.
class Jobs {
 public:
  Jobs(float* out, std::int64_t out_stride) noexcept : out_(out), out_stride_(out_stride) {}
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;
  ~Jobs() { Flush(); }

  void Add(const PooledFeature& feature, std::int64_t begin_bag, std::int64_t end_bag) noexcept {
    if (begin_bag >= end_bag) return;
    jobs_[size_++] = {
        MakeBagRange(feature.table, feature.bags, feature.pooling, begin_bag, end_bag),
        out_ + feature.column, out_stride_};
    if (size_ == kCapacity) Flush();
  }

 private:
  void Flush() noexcept {
    static constexpr KernelTable<decltype(&scalar::PoolBags)> kKernels =
        FEEDFAST_KERNEL_TABLE(PoolBags);
    if (size_ > 0) kKernels.Get()(jobs_, size_);
    size_ = 0;
  }

  static constexpr std::int64_t kCapacity = 32;
  float* out_;
  std::int64_t out_stride_;
  std::int64_t size_ = 0;
  PoolBagsArgs jobs_[kCapacity];
};

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
  Jobs jobs(out, out_stride);
  const std::int64_t first =
      std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1;
  for (std::int64_t f = first; f < features_.size(); ++f) {
    const std::int64_t feature_begin = begins_[static_cast<std::size_t>(f)];
    if (feature_begin >= end) break;
    const PooledFeature& feature = features_[f];
    jobs.Add(feature, FirstBag(feature, begin - feature_begin),
             FirstBag(feature, end - feature_begin));
  }
}

void GroupedPooledLookupRange(Span<const PooledFeature> features, float* out,
                              std::int64_t out_stride, std::int64_t begin_bag,
                              std::int64_t end_bag) noexcept {
  Jobs jobs(out, out_stride);
  for (const PooledFeature& feature : features) jobs.Add(feature, begin_bag, end_bag);
}

void GroupedPooledLookup(Span<const PooledFeature> features, float* out, std::int64_t out_stride,
                         int threads) {
  if (threads == 1) {
    const std::int64_t num_bags = features.empty() ? 0 : features[0].bags.num_bags();
    return GroupedPooledLookupRange(features, out, out_stride, 0, num_bags);
  }
  const GroupedWork work(features);
  // Eight ranges per thread even out what the ids of one cost more than those of another.
  const std::int64_t grain = std::max<std::int64_t>(1, work.size() / (8 * std::int64_t{threads}));
  ParallelFor(work.size(), grain, threads,
              [&](std::int64_t begin, std::int64_t end) { work.Run(out, out_stride, begin, end); });
}

}  // namespace feedfast::embedding_kernels
