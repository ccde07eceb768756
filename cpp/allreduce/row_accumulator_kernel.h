#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::allreduce {

struct AccumulateRowsArgs {
  const std::int64_t* positions;  // [count]; a position from `known` on rises by 1 where it is new
  std::int64_t count;
  std::int64_t known;   // rows of `sums` that hold values
  const float* values;  // [count, dim]
  std::int64_t dim;
  float* sums;  // [all positions, dim]
};

// sums[positions[i], :] += values[i, :] in ascending order of i; the first slice of a row that is
// not known yet is stored instead.
FEEDFAST_DECLARE_KERNEL(void, AccumulateRows, (const AccumulateRowsArgs& args));

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_ACCUMULATOR_KERNEL_H_
