#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_GRAD_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_GRAD_H_

#include <cstdint>
#include <vector>

#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// Bags transposed: for every row that a batch touches, the bags it went into and with which factor.
// Group g belongs to rows[g] and holds entries [offsets[g], offsets[g + 1]), in the order in which
// the ids stood in the batch.
struct RowGroups {
  std::vector<std::int64_t> rows;     // [num_rows_touched], ascending, unique
  std::vector<std::int64_t> offsets;  // [num_rows_touched + 1]
  std::vector<std::int64_t> bags;     // [nnz], bag of each entry
  std::vector<float> factors;         // [nnz], w_i / divisor of the bag; empty: all 1
};

// Stable radix sort of the ids by row, O(nnz). Requires: ValidateBags(bags, any num_rows) is ok.
RowGroups GroupByRow(const Bags& bags, Pooling pooling);

// Gradient of a pooled lookup by its table, for the touched rows alone:
//   row_grads[g, :] = sum factors[e] grad[bags[e], :]  over the entries e of group g
// Shapes: grad [num_bags, dim], gradient of the loss by the pooled output; row_grads
// [groups.rows.size(), dim]. Every other row of the table has gradient 0. Handles the groups
// [begin_group, end_group) on the calling thread. It is a pooled lookup in `grad` over the
// transposed bags, with that function's numerics: bits do not depend on the range a group is
// handled in, and ids that repeat are summed in the order of the batch.
void PooledLookupGradRange(const RowGroups& groups, const float* grad, std::int64_t num_bags,
                           std::int64_t dim, float* row_grads, std::int64_t begin_group,
                           std::int64_t end_group) noexcept;

// Gradient of a pooled lookup by the weights of its ids: with d the divisor of bag b and i in b,
//   grad_weights[i] = (grad[b] . table[values[i]] - (grad[b] . pooled[b]) dd/dw_i) / d
// and 0 where d = 0. Shapes: pooled [num_bags, dim], what PooledLookup wrote; grad the same;
// grad_weights [nnz]. The Range form handles the bags [begin_bag, end_bag) on the calling thread.
// Requires: ValidateBags is ok, bags.weights is set, table.format is not quantized.
// Numerics: float32; bits do not depend on the range a bag is handled in.
void PooledLookupWeightsGradRange(const Table& table, const Bags& bags, Pooling pooling,
                                  const float* pooled, const float* grad, float* grad_weights,
                                  std::int64_t begin_bag, std::int64_t end_bag) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_GRAD_H_
