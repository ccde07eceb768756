#ifndef FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::allreduce {

// sum[i] += x[i] for i < size.
FEEDFAST_DECLARE_KERNEL(void, AddFloat, (const float* x, std::int64_t size, float* sum));
FEEDFAST_DECLARE_KERNEL(void, AddDouble, (const double* x, std::int64_t size, double* sum));

// out[i] = scale * x[i] for i < size.
FEEDFAST_DECLARE_KERNEL(void, ScaleFloat,
                        (const float* x, float scale, std::int64_t size, float* out));
FEEDFAST_DECLARE_KERNEL(void, ScaleDouble,
                        (const double* x, double scale, std::int64_t size, double* out));

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_FUSION_KERNEL_H_
