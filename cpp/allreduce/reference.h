#ifndef FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_
#define FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpp/allreduce/fusion_plan.h"

namespace feedfast::allreduce::reference {

// The sum of one gradient over the micro-batches of a window, times `scale`, in double.
template <typename T>
std::vector<double> WindowSum(const std::vector<std::vector<T>>& micro_batches, double scale) {
  std::vector<double> sum(micro_batches.front().size(), 0.0);
  for (const std::vector<T>& gradient : micro_batches)
    for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += static_cast<double>(gradient[j]);
  for (double& element : sum) element *= scale;
  return sum;
}

// The number with these 16 bits, from the definition of IEEE 754: sign, exponent, fraction.
inline double NumberOf(std::uint16_t bits, ItemFormat format) {
  const int fraction_bits = format == ItemFormat::kBfloat16 ? 7 : 10;
  const int most = (1 << (15 - fraction_bits)) - 1;  // the largest exponent
  const int exponent = bits >> fraction_bits & most;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits >> 15 != 0 ? -1.0 : 1.0;
  if (exponent == most) return fraction != 0 ? std::nan("") : sign * INFINITY;
  const int whole = exponent == 0 ? fraction : fraction + (1 << fraction_bits);
  return sign * std::ldexp(whole, (exponent == 0 ? 1 : exponent) - most / 2 - fraction_bits);
}

// The bits of the number nearest to `x`, of two that are equally near the one whose last bit is 0;
// infinite from where the next power of two would be nearest on. x is no NaN.
inline std::uint16_t NearestBits(double x, ItemFormat format) {
  const std::uint16_t infinite = format == ItemFormat::kBfloat16 ? 0x7f80 : 0x7c00;
  const auto number = [&](int bits) {
    if (bits != infinite) return NumberOf(static_cast<std::uint16_t>(bits), format);
    return std::ldexp(1.0, format == ItemFormat::kBfloat16 ? 128 : 16);
  };
  int below = 0;  // the largest that is not above |x|; numbers and bits have one order
  for (int step = 1 << 14; step > 0; step /= 2)
    if (below + step <= infinite && number(below + step) <= std::abs(x)) below += step;
  if (below < infinite) {
    const double down = std::abs(x) - number(below);
    const double up = number(below + 1) - std::abs(x);
    if (up < down || (up == down && below % 2 != 0)) ++below;
  }
  return static_cast<std::uint16_t>(below | (std::signbit(x) ? 0x8000 : 0));
}

}  // namespace feedfast::allreduce::reference

#endif  // FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_
