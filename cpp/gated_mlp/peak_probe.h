#ifndef FEEDFAST_CPP_GATED_MLP_PEAK_PROBE_H_
#define FEEDFAST_CPP_GATED_MLP_PEAK_PROBE_H_

#include <cstdint>

#include "cpp/gated_mlp/precision.h"

namespace feedfast {

// The limit probe beside which benchmarks put the kernels' rates: runs `steps` rounds of
// independent accumulations on one thread, in registers alone, with the instructions that the
// active CPU target has for products of this precision, and returns the number of operations done
// (two for each product and sum of a lane). The caller takes the time. Requires steps >= 0.
std::int64_t PeakProbe(Precision precision, std::int64_t steps) noexcept;

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_PEAK_PROBE_H_
