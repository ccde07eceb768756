#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::embedding_kernels {

// Variable-length lists of row ids in CSR form: bag b holds values[offsets[b]] up to, but not
// including, values[offsets[b + 1]].
struct Bags {
  Span<const std::int64_t> values;   // [nnz], row ids
  Span<const std::int64_t> offsets;  // [num_bags + 1], ascending from 0 to nnz
  std::optional<Span<const float>> weights = std::nullopt;  // [nnz]; nullopt: all 1

  std::int64_t num_bags() const noexcept { return offsets.size() - 1; }
  const float* weights_or_null() const noexcept { return weights ? weights->data() : nullptr; }
};

// How the rows of a bag become one vector, with w_i = 1 when there are no weights:
//   kSum    sum w_i row_i
//   kMean   sum w_i row_i / sum w_i
//   kSqrtN  sum w_i row_i / sqrt(sum w_i^2)
// A bag whose divisor is 0 (an empty one, or weights that cancel) yields zeros. These are the
// combiners of tf.nn.embedding_lookup_sparse.
enum class Pooling { kSum, kMean, kSqrtN };

// "sum", "mean" or "sqrtn".
StatusOr<Pooling> ParsePooling(std::string_view name);

// Ok when `bags` can be pooled over a table with `num_rows` rows: offsets start at 0, never fall
// and end at nnz; 0 <= values[i] < num_rows; weights are nnz finite numbers. The message of the
// first violation gives argument, position, value and limit. OutOfRange for an id outside the
// table, InvalidArgument for everything else. One pass over each array.
Status ValidateBags(const Bags& bags, std::int64_t num_rows);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_BAGS_H_
