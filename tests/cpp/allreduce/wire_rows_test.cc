#include "cpp/allreduce/wire_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/cpp/testing.h"

namespace feedfast::allreduce {
namespace {

using ::feedfast::testing::ForEachCpuTarget;

float FromBits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The definition, in exact arithmetic: of the two neighbours in bfloat16, the nearer one, and of
// two equally near ones that with an even last bit.
std::uint16_t Nearest(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto below = static_cast<std::uint16_t>(bits >> 16);
  const std::uint32_t rest = bits & 0xFFFF;
  const bool up = rest > 0x8000 || (rest == 0x8000 && (below & 1) != 0);
  return static_cast<std::uint16_t>(below + (up ? 1 : 0));
}

TEST(WireRowsTest, RoundsToTheNearestBfloat16) {
  ForEachCpuTarget([] {
    std::vector<float> values;
    for (std::uint32_t bits = 0; bits < 0x7F800000; bits += 30'011) {
      values.push_back(FromBits(bits));
      values.push_back(FromBits(bits | 0x80000000));
      values.push_back(FromBits((bits & 0xFFFF0000) | 0x8000));  // a tie
    }
    values.push_back(std::numeric_limits<float>::infinity());
    values.push_back(-std::numeric_limits<float>::infinity());
    std::vector<std::uint16_t> wire(values.size());
    ToBfloat16(values, wire);
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(wire[i], Nearest(values[i]));
    std::vector<float> back(values.size());
    FromBfloat16(wire, back);
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(back[i], FromBits(static_cast<std::uint32_t>(wire[i]) << 16));
  });
}

TEST(WireRowsTest, KeepsNan) {
  ForEachCpuTarget([] {
    // The payload of the first would round to infinity, that of the second to a sign flip.
    const std::vector<float> values{FromBits(0x7F800001), FromBits(0x7FFFFFFF),
                                    FromBits(0xFF800001)};
    std::vector<std::uint16_t> wire(3);
    ToBfloat16(values, wire);
    std::vector<float> back(3);
    FromBfloat16(wire, back);
    for (const float value : back) EXPECT_TRUE(std::isnan(value));
  });
}

TEST(WireRowsTest, GathersRows) {
  for (const std::int64_t dim : {1, 7, 64, 2000}) {
    std::vector<float> values(static_cast<std::size_t>(5 * dim));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    std::vector<std::int64_t> positions;
    for (std::int64_t k = 0; k < 100; ++k) positions.push_back(k * 7 % 5);
    std::vector<float> out(static_cast<std::size_t>(100 * dim));
    GatherRows(values.data(), dim, positions, out.data());
    for (std::int64_t k = 0; k < 100; ++k)
      for (std::int64_t j = 0; j < dim; ++j)
        ASSERT_EQ(out[static_cast<std::size_t>(k * dim + j)],
                  values[static_cast<std::size_t>(k * 7 % 5 * dim + j)]);
    GatherRows(nullptr, dim, {}, nullptr);
  }
}

}  // namespace
}  // namespace feedfast::allreduce
