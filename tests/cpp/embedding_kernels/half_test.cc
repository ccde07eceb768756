#include "cpp/embedding_kernels/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>

namespace feedfast::embedding_kernels {
namespace {

// From the definition of IEEE binary16.
double Oracle(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double sign = half >> 15 != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(HalfTest, EveryHalfConvertsExactly) {
  for (int h = 0; h < 65536; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    const double want = Oracle(half);
    const float got = HalfToFloat(half);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << h;
      continue;
    }
    EXPECT_EQ(got, want) << h;
    EXPECT_EQ(std::signbit(got), std::signbit(want)) << h;
    if (std::isfinite(want) && want != 0.0) {
      EXPECT_EQ(HalfFloor(got), half) << h;
      EXPECT_EQ(HalfCeil(got), half) << h;
    }
  }
}

TEST(HalfTest, FloorAndCeilAreTheNeighboursOfWhatLiesBetween) {
  std::mt19937 rng(20240601);
  std::uniform_int_distribution<int> any_half(0, 0x7bfe);
  std::uniform_real_distribution<double> share(0.01, 0.99);
  for (int trial = 0; trial < 20000; ++trial) {
    const auto below = static_cast<std::uint16_t>(any_half(rng));
    const auto above = static_cast<std::uint16_t>(below + 1);
    const double s = share(rng);
    const auto x = static_cast<float>(Oracle(below) * (1 - s) + Oracle(above) * s);
    EXPECT_EQ(HalfFloor(x), below) << x;
    EXPECT_EQ(HalfCeil(x), above) << x;
    EXPECT_EQ(HalfFloor(-x), above | 0x8000) << -x;
    EXPECT_EQ(HalfCeil(-x), below | 0x8000) << -x;
  }
}

}  // namespace
}  // namespace feedfast::embedding_kernels
