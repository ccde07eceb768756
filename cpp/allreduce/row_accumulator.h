#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_H_

#include <cstdint>
#include <vector>

#include "cpp/allreduce/row_index.h"
#include "cpp/allreduce/row_order.h"
#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"

namespace feedfast::allreduce {

// The gradient of one table over a window of micro-batches, for the rows that were touched alone:
//   values of rows()[p] = sum of values[i, :] over all added slices with rows[i] = rows()[p]
// The first slice of a row is stored, later ones are added in the order in which they come, one
// float32 rounding each; so the bits are the same on every CPU target. Never dense, and a new
// window sets nothing to zero. Movable.
class RowAccumulator {
 public:
  // Requires dim >= 1.
  explicit RowAccumulator(std::int64_t dim) : dim_(dim) {}

  std::int64_t dim() const noexcept { return dim_; }
  // Slices that were added in the window.
  std::int64_t num_slices() const noexcept { return num_slices_; }
  // Distinct rows, in the order in which they were first seen.
  Span<const std::int64_t> rows() const noexcept { return index_.rows(); }
  // [rows().size(), dim], row-major.
  Span<const float> values() const noexcept { return {values_.data(), rows().size() * dim_}; }

  // The window in ascending order of rows: rows [n], sums [n, dim] and the slices of each row,
  // counts [n], n = rows().size().
  void CopyAscending(Span<std::int64_t> rows, float* sums, Span<std::int64_t> counts);

  // Adds slices: values is [rows.size(), dim], row-major, and overlaps nothing. Requires rows[i] >=
  // 0 and fewer than 2^31 distinct rows. Throws std::bad_alloc; the window is then lost, and a new
  // one begins.
  void Add(Span<const std::int64_t> rows, const float* values);

  // Begins a new, empty window.
  void StartWindow() noexcept;

 private:
  void AddSlices(Span<const std::int64_t> rows, const float* values);

  std::int64_t dim_;
  std::int64_t num_slices_ = 0;
  RowIndex index_;
  RowOrder order_;
  std::vector<std::int64_t> positions_;  // of the slices of one call
  std::vector<std::int64_t> counts_;     // slices of each row
  AlignedBuffer<float> values_;          // grows by doubling
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_H_
