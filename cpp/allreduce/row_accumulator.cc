#include "cpp/allreduce/row_accumulator.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "cpp/allreduce/row_accumulator_kernel.h"
#include "cpp/allreduce/wire_rows.h"

namespace feedfast::allreduce {
namespace {

constexpr KernelTable<decltype(&scalar::AccumulateRows)> kAccumulateRows =
    FEEDFAST_KERNEL_TABLE(AccumulateRows);

}  // namespace

void RowAccumulator::Add(Span<const std::int64_t> rows, const float* values) {
  try {
    AddSlices(rows, values);
  } catch (...) {
    StartWindow();  // the index may have rows that have no values
    throw;
  }
}

void RowAccumulator::AddSlices(Span<const std::int64_t> rows, const float* values) {
  const std::int64_t known = index_.size();
  positions_.resize(static_cast<std::size_t>(rows.size()));
  index_.Insert(rows, positions_);
  if (index_.size() * dim_ > values_.size()) {
    AlignedBuffer<float> larger(std::max(index_.size() * dim_, 2 * values_.size()));
    if (known > 0)
      std::memcpy(larger.data(), values_.data(),
                  static_cast<std::size_t>(known * dim_) * sizeof(float));
    values_ = std::move(larger);
  }
  kAccumulateRows.Get()({positions_.data(), rows.size(), known, values, dim_, values_.data()});
  counts_.resize(static_cast<std::size_t>(index_.size()), 0);
  for (const std::int64_t position : positions_) ++counts_[static_cast<std::size_t>(position)];
  num_slices_ += rows.size();
}

void RowAccumulator::CopyAscending(Span<std::int64_t> rows, float* sums,
                                   Span<std::int64_t> counts) {
  assert(rows.size() == index_.size() && counts.size() == index_.size());
  const Span<const std::int64_t> positions = order_.Ascending(index_.rows());
  for (std::int64_t k = 0; k < positions.size(); ++k) {
    rows[k] = index_.rows()[positions[k]];
    counts[k] = counts_[static_cast<std::size_t>(positions[k])];
  }
  GatherRows(values_.data(), dim_, positions, sums);
}

void RowAccumulator::StartWindow() noexcept {
  index_.StartWindow();
  counts_.clear();
  num_slices_ = 0;
}

}  // namespace feedfast::allreduce
