#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_H_

#include <cstdint>

#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// Pools table rows into one vector per bag:
//   out[b * out_stride + j] = pool(table[values[i], j]  for i in [offsets[b], offsets[b + 1]))
// for 0 <= j < dim; see Pooling for the formulas. Writes nothing between the rows of out, so that
// several tables can fill column blocks of one matrix. An empty bag yields zeros.
// Requires: ValidateBags(bags, table.num_rows) is ok; out_stride >= table.dim; out does not overlap
// the inputs; threads >= 1.
// Numerics: one float32 accumulator per output, ascending i; then the bias sum of a quantized table
// is added and the divisor (summed in double) divides. For one CPU target the bits of a bag depend
// on that bag alone: not on the other bags, their order or the thread count. Between targets they
// may differ in the last places (FMA).
void PooledLookup(const Table& table, const Bags& bags, Pooling pooling, float* out,
                  std::int64_t out_stride, int threads);

// The same for the bags [begin_bag, end_bag) alone, on the calling thread: for callers with a
// thread pool of their own. `out` is where bag 0 would go.
void PooledLookupRange(const Table& table, const Bags& bags, Pooling pooling, float* out,
                       std::int64_t out_stride, std::int64_t begin_bag,
                       std::int64_t end_bag) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_H_
