#ifndef FEEDFAST_CPP_GATED_MLP_PEAK_FMA_H_
#define FEEDFAST_CPP_GATED_MLP_PEAK_FMA_H_

#include <cstdint>

namespace feedfast {

// The limit probe beside which benchmarks put the kernels' rates: runs `steps` rounds of
// independent float32 multiply-adds on one thread, in registers alone, with the vectors of the
// active CPU target, and returns the number of floating-point operations done (two for each lane's
// multiply-add). The caller takes the time. Requires steps >= 0.
std::int64_t PeakFma(std::int64_t steps) noexcept;

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_PEAK_FMA_H_
