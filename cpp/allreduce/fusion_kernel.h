#ifndef FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::allreduce {

// sum[i] += x[i] for i < size.
FEEDFAST_DECLARE_KERNEL(void, AddFloat, (const float* x, std::int64_t size, float* sum));
FEEDFAST_DECLARE_KERNEL(void, AddDouble, (const double* x, std::int64_t size, double* sum));

// sum[i] += x[i] for i < size, where x is IEEE binary16 or bfloat16: converted exactly.
FEEDFAST_DECLARE_KERNEL(void, AddFloat16, (const std::uint16_t* x, std::int64_t size, float* sum));
FEEDFAST_DECLARE_KERNEL(void, AddBfloat16, (const std::uint16_t* x, std::int64_t size, float* sum));

// out[i] = x[i], exactly.
FEEDFAST_DECLARE_KERNEL(void, WidenFloat16,
                        (const std::uint16_t* x, std::int64_t size, float* out));
FEEDFAST_DECLARE_KERNEL(void, WidenBfloat16,
                        (const std::uint16_t* x, std::int64_t size, float* out));

// out[i] = scale * x[i] for i < size.
FEEDFAST_DECLARE_KERNEL(void, ScaleFloat,
                        (const float* x, float scale, std::int64_t size, float* out));
FEEDFAST_DECLARE_KERNEL(void, ScaleDouble,
                        (const double* x, double scale, std::int64_t size, double* out));

// The same, each product then rounded to nearest, ties to even, as FloatToHalf and FloatToBfloat16.
FEEDFAST_DECLARE_KERNEL(void, ScaleToFloat16,
                        (const float* x, float scale, std::int64_t size, std::uint16_t* out));
FEEDFAST_DECLARE_KERNEL(void, ScaleToBfloat16,
                        (const float* x, float scale, std::int64_t size, std::uint16_t* out));

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_
