#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_GROUPED_LOOKUP_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_GROUPED_LOOKUP_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// One feature of a batch: its bags are pooled into the columns [column, column + table.dim) of the
// batch's output matrix. Features may share a table.
struct PooledFeature {
  Table table;
  Bags bags;
  Pooling pooling = Pooling::kSum;
  std::int64_t column = 0;
};

// Ok when the features can be pooled into one matrix [num_bags, out_columns]: ValidateBags holds
// for each, with its message behind "features[i]."; all have as many bags as features[0]; their
// columns lie in [0, out_columns) and no two share one.
Status ValidateFeatures(Span<const PooledFeature> features, std::int64_t out_columns);

// out[b * out_stride + features[f].column + j] = what PooledLookup gives for feature f, bit for
// bit. Columns of no feature keep what they hold. One pass over everything: rows are prefetched
// across the borders of bags and tables, and threads share the work by ids, not by features.
// Requires: ValidateFeatures(features, out_stride) is ok; threads >= 1.
void GroupedPooledLookup(Span<const PooledFeature> features, float* out, std::int64_t out_stride,
                         int threads);

// The same for the bags [begin_bag, end_bag) of every feature, on the calling thread, for hot paths
// with buffers of their own: allocates nothing. `out` is where bag 0 would go. Requires as much as
// GroupedPooledLookup of those bags; of offsets, that those of the range ascend within the values.
void GroupedPooledLookupRange(Span<const PooledFeature> features, float* out,
                              std::int64_t out_stride, std::int64_t begin_bag,
                              std::int64_t end_bag) noexcept;

// The same cut into ranges by work, for callers with a thread pool of their own. Keeps a view of
// `features`.
class GroupedWork {
 public:
  explicit GroupedWork(Span<const PooledFeature> features);

  // Cache lines to read, and one for each bag.
  std::int64_t size() const noexcept { return begins_.back(); }
  // Pools the bags whose work begins in [begin, end); ranges that cover [0, size()) pool all.
  void Run(float* out, std::int64_t out_stride, std::int64_t begin,
           std::int64_t end) const noexcept;

 private:
  Span<const PooledFeature> features_;
  std::vector<std::int64_t> begins_;  // where the work of each feature begins, and the end
};

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_GROUPED_LOOKUP_H_
