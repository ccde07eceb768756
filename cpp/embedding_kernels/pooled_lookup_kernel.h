#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_KERNEL_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/indexes.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// Table and bags as plain pointers, the bags [begin_bag, end_bag) being the work of this call.
struct BagRange {
  const std::uint8_t* table;
  std::int64_t row_bytes;
  std::int64_t row_lines;  // RowLines(table, row_bytes)
  std::int64_t dim;
  RowFormat format;
  Indexes values;
  Indexes offsets;
  const float* weights;  // nullptr: all 1
  Pooling pooling;
  std::int64_t begin_bag;
  std::int64_t end_bag;
  std::int64_t prefetch_rows;  // how many ids ahead the rows are prefetched, across bag borders
};

struct PoolBagsArgs {
  BagRange in;
  float* out;  // where bag 0 goes
  std::int64_t out_stride;
};

struct GradWeightsArgs {
  BagRange in;          // format is not quantized, weights is not nullptr
  const float* pooled;  // [num_bags, dim], what PoolBags wrote
  const float* grad;    // [num_bags, dim], gradient of the loss by `pooled`
  float* grad_weights;  // [nnz]
};

// Does jobs[0], jobs[1], ... in turn; prefetching crosses from one to the next.
FEEDFAST_DECLARE_KERNEL(void, PoolBags, (const PoolBagsArgs* jobs, std::int64_t num_jobs));
FEEDFAST_DECLARE_KERNEL(void, GradWeights, (const GradWeightsArgs& args));

// The work of one kernel call, prefetch distance included.
BagRange MakeBagRange(const Table& table, const Bags& bags, Pooling pooling, std::int64_t begin_bag,
                      std::int64_t end_bag) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_KERNEL_H_
