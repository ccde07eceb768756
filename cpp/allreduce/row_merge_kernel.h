#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::allreduce {

// Rows of one process: `rows` [count] ascending, each once; `values` [count, dim], row-major.
struct RowList {
  const std::int64_t* rows;
  const float* values;
  std::int64_t count;
};

struct MergeRowsArgs {
  const RowList* lists;   // [num_lists]
  std::int64_t* cursors;  // [num_lists], all 0; places of the next row of each list
  std::int64_t num_lists;
  const std::int64_t* rows;  // [num_rows] all rows of all lists, ascending, each once
  std::int64_t num_rows;
  std::int64_t dim;
  float scale;
  float* sums;  // [num_rows, dim]; overlaps nothing
};

// sums[k, :] = scale * (sum over the lists that have rows[k] of its values), added in the order of
// the lists, one float32 rounding each.
FEEDFAST_DECLARE_KERNEL(void, MergeRows, (const MergeRowsArgs& args));

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_KERNEL_H_
