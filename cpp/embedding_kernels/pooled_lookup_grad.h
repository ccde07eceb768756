#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_GRAD_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_GRAD_H_

#include <cstdint>

#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

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
