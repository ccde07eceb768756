#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_GRADIENT_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_GRADIENT_H_

#include <cstdint>
#include <memory>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/bags.h"

namespace feedfast::embedding_kernels {

// The gradient of a loss by a table, for the rows that a batch touched alone:
//   gradient of rows[g] = sum over e in [offsets[g], offsets[g + 1]) factors[e] grad[sources[e], :]
// Every other row of the table has gradient 0. `grad` is [num_sources, dim], row-major. Where
// `offsets` is nullptr the gradients are summed already: that of rows[g] is grad[g, :]. A view.
struct RowGradient {
  std::int64_t num_rows = 0;               // rows touched
  const std::int64_t* rows = nullptr;      // [num_rows], no two alike
  const std::uint32_t* offsets = nullptr;  // [num_rows + 1], ascending from 0
  const std::uint32_t* sources = nullptr;  // [nnz]
  const float* factors = nullptr;          // [nnz]; nullptr: all 1
  const float* grad = nullptr;
  std::int64_t dim = 0;  // >= 1
  // Where the table holds `dim` columns of wider rows: the sums of squares of the whole rows
  // [num_rows] of this gradient and their length, for rules that look at whole rows. nullptr: the
  // rows are whole.
  const float* row_squares = nullptr;
  std::int64_t row_dim = 0;
};

// Bags transposed: for every row that a batch touches, the bags it went into and with which factor,
// in the order in which the ids stood in the batch. Keeps its memory from one Group call to the
// next.
class RowGroups {
 public:
  RowGroups() = default;

  // Groups the ids of `bags` by row; the factor of id i is w_i / divisor of its bag, 0 where the
  // divisor is 0 (see Pooling). Stable radix sort, O(nnz).
  // Requires: ValidateBags(bags, any num_rows) is ok. Not ok: the ids and their rows do not fit in
  // one 64-bit sort key (2^32 ids with rows above 2^32, say).
  Status Group(const Bags& bags, Pooling pooling);

  // Groups the slices (rows[i], values[i, :]) of a gradient by row: source i is slice i, all
  // factors are 1. Requires rows[i] >= 0. Not ok: as above.
  Status GroupSlices(Span<const std::int64_t> rows);

  std::int64_t num_rows() const noexcept { return num_rows_; }
  Span<const std::int64_t> rows() const noexcept { return {rows_.get(), num_rows_}; }
  Span<const std::uint32_t> offsets() const noexcept { return {offsets_.get(), num_rows_ + 1}; }
  Span<const std::uint32_t> sources() const noexcept { return {sources_.get(), num_entries_}; }
  const float* factors_or_null() const noexcept { return has_factors_ ? factors_.get() : nullptr; }

  // The gradient that these groups and `grad` [num_bags or num_slices, dim] describe.
  RowGradient Gradient(const float* grad, std::int64_t dim) const noexcept;

 private:
  void Reserve(std::int64_t entries);
  // keys_[i] = row << payload_bits | payload; leaves them in ascending order of the rows.
  void Sort(int payload_bits, int row_bits);
  // Writes rows_, offsets_ and, from the payloads, sources_.
  void Split(int payload_bits);

  std::int64_t capacity_ = -1;
  std::int64_t num_entries_ = 0;
  std::int64_t num_rows_ = 0;
  bool has_factors_ = false;
  std::unique_ptr<std::uint64_t[]> keys_;     // [capacity]
  std::unique_ptr<std::uint64_t[]> scratch_;  // [capacity]
  std::unique_ptr<std::int64_t[]> rows_;      // [capacity]
  std::unique_ptr<std::uint32_t[]> offsets_;  // [capacity + 1]
  std::unique_ptr<std::uint32_t[]> sources_;  // [capacity]
  std::unique_ptr<float[]> factors_;          // [capacity]
};

// Are `rows` strictly ascending, so that slices with these rows need no grouping?
bool StrictlyAscending(Span<const std::int64_t> rows) noexcept;

// Ok when 0 <= rows[i] < num_rows. OutOfRange with the position otherwise.
Status ValidateRows(Span<const std::int64_t> rows, std::int64_t num_rows);

// out[g, :] = gradient of rows[g], for g in [begin, end), on the calling thread. Shape: out
// [num_rows, dim]. Numerics: one float32 accumulator per element, ascending e; bits do not depend
// on the range a row is handled in.
void SumRowGradient(const RowGradient& gradient, float* out, std::int64_t begin,
                    std::int64_t end) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_GRADIENT_H_
