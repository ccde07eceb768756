#ifndef FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::allreduce {

// out[i] = values[i] rounded to nearest bfloat16, ties to even; a NaN becomes a quiet NaN.
FEEDFAST_DECLARE_KERNEL(void, ToBfloat16,
                        (const float* values, std::int64_t size, std::uint16_t* out));

// out[i] = the float32 whose upper half is bits[i].
FEEDFAST_DECLARE_KERNEL(void, FromBfloat16,
                        (const std::uint16_t* bits, std::int64_t size, float* out));

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_WIRE_ROWS_KERNEL_H_
