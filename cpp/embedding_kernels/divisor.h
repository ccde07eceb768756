#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_DIVISOR_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_DIVISOR_H_

#include <math.h>

#include <cstdint>

#include "cpp/common/host_device.h"
#include "cpp/embedding_kernels/bags.h"

namespace feedfast::embedding_kernels {

// What the weighted sum over the ids [begin, end) is divided by under `pooling` (see Pooling): 1
// for kSum, and 0 when nothing may be divided. Summed in double, ascending. Static: kernel objects
// of different CPU targets include this file and must not share code.
FEEDFAST_HOST_DEVICE static inline float PoolingDivisor(Pooling pooling, const float* weights,
                                                        std::int64_t begin, std::int64_t end) {
  if (pooling == Pooling::kSum) return 1.0f;
  double sum = static_cast<double>(end - begin);
  if (weights != nullptr) {
    sum = 0.0;
    for (std::int64_t i = begin; i < end; ++i) {
      const double w = weights[i];
      sum += pooling == Pooling::kMean ? w : w * w;
    }
  }
  // ::sqrt of <math.h>: the overloads of <cmath> are inline functions that objects would share.
  return static_cast<float>(pooling == Pooling::kMean ? sum : ::sqrt(sum));
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_DIVISOR_H_
