#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_INDEX_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_INDEX_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"

namespace feedfast::allreduce {

// The distinct rows of a window, numbered in the order in which they were first seen: an
// open-addressing hash table with linear probing, at most half full. A new window costs nothing:
// entries carry the number of the window that wrote them. Keeps its memory from one window to the
// next, 24 to 48 bytes per row of the largest one.
class RowIndex {
 public:
  // positions[i] = the number of rows[i] among the distinct rows of the window, those of earlier
  // calls included. Requires fewer than 2^31 distinct rows; O(rows.size()).
  // Throws std::bad_alloc; the window is then not to be used.
  void Insert(Span<const std::int64_t> rows, Span<std::int64_t> positions);

  // The distinct rows, in order of their numbers.
  Span<const std::int64_t> rows() const noexcept { return rows_; }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(rows_.size()); }

  void StartWindow() noexcept;

 private:
  struct Slot {
    std::int64_t row;
    std::uint32_t window;  // the entry counts when this is window_
    std::uint32_t position;
  };

  std::uint64_t SlotOf(std::int64_t row) const noexcept;
  // Makes room for `size` rows.
  void Reserve(std::int64_t size);

  std::vector<Slot> slots_;  // a power of two, or none
  int slot_bits_ = 0;
  std::uint32_t window_ = 1;
  std::vector<std::int64_t> rows_;
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_INDEX_H_
