#ifndef FEEDFAST_CPP_ALLREDUCE_DISTINCT_ROWS_H_
#define FEEDFAST_CPP_ALLREDUCE_DISTINCT_ROWS_H_

#include <cstdint>
#include <vector>

#include "cpp/allreduce/row_index.h"
#include "cpp/allreduce/row_order.h"
#include "cpp/common/span.h"

namespace feedfast::allreduce {

// The distinct rows of one list after the other. Keeps its memory from one list to the next, up to
// 100 bytes per distinct row of the largest one.
class DistinctRows {
 public:
  // The rows that the list has, ascending, each once, valid until the next call; rows[i] is number
  // positions[i] of them. Requires rows[i] >= 0, fewer than 2^31 distinct rows, and positions as
  // long as rows, apart from them. O(rows.size()). Throws std::bad_alloc.
  Span<const std::int64_t> Find(Span<const std::int64_t> rows, Span<std::int64_t> positions);

 private:
  RowIndex index_;
  RowOrder order_;
  std::vector<std::int64_t> ascending_;
  std::vector<std::int64_t> places_;  // of the rows of index_ in ascending_
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_DISTINCT_ROWS_H_
