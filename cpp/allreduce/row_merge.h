#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_H_

#include <cstdint>
#include <vector>

#include "cpp/allreduce/row_merge_kernel.h"
#include "cpp/common/span.h"

namespace feedfast::allreduce {

// The rows that any of the lists has, ascending, each once. Requires ascending lists.
//
// Moves the numbers of the rows alone, with one comparison per list and row; what `MergeRows` then
// moves is every value once and every sum once, which is what a merge must move.
std::vector<std::int64_t> UnionOfRows(Span<const RowList> lists);

// sums[k, :] = scale * (values of rows[k] in all lists that have it, added in their order), with
// rows = UnionOfRows(lists), sums [rows.size(), dim]. One float32 rounding for each addition and
// for the scale, so the bits are those of `RowAccumulator` fed list by list, and the same on every
// CPU target.
void MergeRows(Span<const RowList> lists, Span<const std::int64_t> rows, std::int64_t dim,
               float scale, float* sums);

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_MERGE_H_
