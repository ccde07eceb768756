#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_ORDER_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_ORDER_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"

namespace feedfast::allreduce {

// Sorts rows by their number: a radix sort over the bits in which they differ. Keeps its memory
// from one call to the next, 32 bytes per row of the largest one, and 8 for the result.
class RowOrder {
 public:
  // positions with rows[positions[k]] ascending in k, equal rows in their order; valid until the
  // next call. Requires rows[i] >= 0; O(rows.size()). Throws std::bad_alloc.
  Span<const std::int64_t> Ascending(Span<const std::int64_t> rows);

 private:
  struct Entry {
    std::int64_t row;
    std::int64_t position;
  };

  std::vector<Entry> entries_;
  std::vector<Entry> scratch_;
  std::vector<std::int64_t> positions_;
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_ORDER_H_
