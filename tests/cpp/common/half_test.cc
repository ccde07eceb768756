#include "cpp/common/half.h"

#include <gtest/gtest.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "cpp/common/cpu_target.h"

namespace feedfast {
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

#if defined(__x86_64__)
std::uint32_t Bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

TEST(HalfTest, FlushModesChangeNoBit) {
  constexpr unsigned kFlushToZeroAndDenormalsAreZero = 0x8040;
  int wrong = 0;
  const unsigned before = _mm_getcsr();
  for (int h = 0; h < 65536; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    const volatile std::uint16_t opaque = half;
    const std::uint32_t want = Bits(HalfToFloat(opaque));
    _mm_setcsr(before | kFlushToZeroAndDenormalsAreZero);
    const std::uint32_t got = Bits(HalfToFloat(opaque));
    _mm_setcsr(before);
    if (got != want) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

__attribute__((target("f16c"))) float F16cToFloat(std::uint16_t half) { return _cvtsh_ss(half); }

__attribute__((target("f16c"))) std::uint16_t F16cToHalf(float value) {
  return static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
}

TEST(HalfTest, RoundsAsTheInstructionDoes) {
  if (SupportedCpuTargets().back() < CpuTarget::kAvx2) GTEST_SKIP() << "no F16C";
  constexpr unsigned kFlushToZeroAndDenormalsAreZero = 0x8040;
  const unsigned before = _mm_getcsr();
  std::mt19937 rng(20'261'122);
  int wrong = 0;
  for (int trial = 0; trial < 2'000'000; ++trial) {
    // All floats; then those in the range of a half, many of them halfway between two.
    auto bits = static_cast<std::uint32_t>(rng());
    if (trial % 2 != 0)
      bits = (bits & 0x80003fffu) | ((0x66u + (bits >> 14) % 0x2bu) << 23) |
             (static_cast<std::uint32_t>(rng()) & 0x7fe000u);
    if (trial % 4 == 1) bits = (bits & ~0x1fffu) | 0x1000u;
    volatile float value;
    float given;
    std::memcpy(&given, &bits, sizeof given);
    value = given;
    const std::uint16_t want = F16cToHalf(value);
    if (trial % 8 > 3) _mm_setcsr(before | kFlushToZeroAndDenormalsAreZero);
    const std::uint16_t got = FloatToHalf(value);
    _mm_setcsr(before);
    if (got != want) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(HalfTest, AgreesWithTheInstructionInEveryBit) {
  if (SupportedCpuTargets().back() < CpuTarget::kAvx2) GTEST_SKIP() << "no F16C";
  for (int h = 0; h < 65536; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    EXPECT_EQ(Bits(HalfToFloat(half)), Bits(F16cToFloat(half))) << h;
  }
}
#endif

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
}  // namespace feedfast
