// Kernels only; compiled once per CPU target.
#include "cpp/gated_mlp/vector.h"

namespace feedfast::gated_mlp::FEEDFAST_TARGET {

// 12 independent chains: more than the units' latency times their number on current cores. The
// values stay near 1, and the compiler cannot see that the factor is nearly 1.
std::int64_t PeakFma(std::int64_t steps) noexcept {
  constexpr int kChains = 12;
  constexpr int kRepeats = 64;
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Broadcast(1.0f);
  Vec factor = Broadcast(0.999999f);
  const Vec term = Broadcast(1e-6f);
  for (std::int64_t step = 0; step < steps; ++step) {
    asm volatile("" : "+x"(factor));
    for (int repeat = 0; repeat < kRepeats; ++repeat)
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) sums[i] = MulAdd(sums[i], factor, term);
  }
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "x"(sums[i]));
  return steps * kRepeats * kChains * kLanes * 2;
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
