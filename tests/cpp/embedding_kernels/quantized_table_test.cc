#include "cpp/embedding_kernels/quantized_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/half.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

std::vector<std::uint8_t> Quantized(const std::vector<float>& table, std::int64_t dim,
                                    int threads = 1) {
  const std::int64_t num_rows = static_cast<std::int64_t>(table.size()) / dim;
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(num_rows * (kInt8HeaderBytes + dim)));
  QuantizeRows(table.data(), num_rows, dim, packed.data(), threads);
  return packed;
}

std::vector<float> Dequantized(const std::vector<std::uint8_t>& packed, std::int64_t dim) {
  const std::int64_t num_rows = static_cast<std::int64_t>(packed.size()) / (kInt8HeaderBytes + dim);
  std::vector<float> table(static_cast<std::size_t>(num_rows * dim));
  DequantizeRows(packed.data(), num_rows, dim, table.data(), 2);
  return table;
}

// Rows of every magnitude that a half can name, shifted rows and rows around zero.
std::vector<float> RowsOfManyMagnitudes(std::int64_t num_rows, std::int64_t dim) {
  std::mt19937 rng(kSeed);
  std::uniform_real_distribution<float> exponent(-18.0f, 14.0f);
  std::uniform_real_distribution<float> shift(-3.0f, 3.0f);
  std::vector<float> table = RandomFloats(num_rows * dim, rng);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const float scale = std::exp2(exponent(rng));
    const float offset = r % 3 == 0 ? 0.0f : shift(rng);
    for (std::int64_t j = 0; j < dim; ++j) {
      float& x = table[static_cast<std::size_t>(r * dim + j)];
      x = std::clamp(scale * (0.3f * x + offset), -65504.0f, 65504.0f);
    }
  }
  return table;
}

TEST(QuantizedTableTest, ErrorIsAtMostHalfAScale) {
  testing::ForEachCpuTarget([] {
    for (const std::int64_t dim : {1, 3, 16, 64, 77}) {
      const std::vector<float> table = RowsOfManyMagnitudes(3000, dim);
      ASSERT_TRUE(ValidateQuantizable(table.data(), 3000, dim).ok());
      const std::vector<std::uint8_t> packed = Quantized(table, dim);
      const std::vector<float> back = Dequantized(packed, dim);
      for (std::int64_t r = 0; r < 3000; ++r) {
        std::uint16_t scale;
        std::memcpy(&scale, packed.data() + r * (kInt8HeaderBytes + dim), sizeof scale);
        for (std::int64_t j = 0; j < dim; ++j) {
          const auto i = static_cast<std::size_t>(r * dim + j);
          // A few units of float32 rounding beside the half step.
          ASSERT_LE(std::fabs(back[i] - table[i]),
                    0.5f * HalfToFloat(scale) * 1.0001f + 4e-7f * std::fabs(table[i]))
              << "row " << r << " column " << j << " value " << table[i];
        }
      }
    }
  });
}

TEST(QuantizedTableTest, BytesAreTheSameOnEveryTargetAndThreadCount) {
  const std::int64_t dim = 37;
  const std::vector<float> table = RowsOfManyMagnitudes(3000, dim);
  const std::vector<std::uint8_t> first = Quantized(table, dim);
  const std::vector<float> back = Dequantized(first, dim);
  testing::ForEachCpuTarget([&] {
    EXPECT_EQ(Quantized(table, dim), first);
    EXPECT_EQ(Quantized(table, dim, 3), first);
    EXPECT_EQ(Dequantized(first, dim), back);
  });
}

TEST(QuantizedTableTest, ALookupOfOneRowIsTheDequantizedRowBitForBit) {
  testing::ForEachCpuTarget([] {
    for (const std::int64_t dim : {1, 5, 64}) {
      const std::vector<std::uint8_t> packed = Quantized(RowsOfManyMagnitudes(500, dim), dim);
      std::vector<std::int64_t> ids(500);
      std::iota(ids.begin(), ids.end(), 0);
      std::vector<std::int64_t> offsets(501);
      std::iota(offsets.begin(), offsets.end(), 0);
      std::vector<float> rows(static_cast<std::size_t>(500 * dim));
      PooledLookup({packed.data(), 500, dim, RowFormat::kInt8Rowwise}, {ids, offsets},
                   Pooling::kMean, rows.data(), dim, 1);
      EXPECT_EQ(rows, Dequantized(packed, dim));
    }
  });
}

TEST(QuantizedTableTest, ConstantRowsAndBothEndsOfTheRange) {
  testing::ForEachCpuTarget([] {
    const std::vector<float> table = {0, 0, 0.5f, 0.5f, 65504.0f, -65504.0f, 1e-30f, 1e-30f};
    const std::vector<float> back = Dequantized(Quantized(table, 2), 2);
    EXPECT_EQ(back[0], 0.0f);
    EXPECT_EQ(back[2], 0.5f);
    EXPECT_NEAR(back[4], 65504.0f, 258.0f);
    EXPECT_EQ(back[5], -65504.0f);
    EXPECT_NEAR(back[6], 0.0f, 6e-8f);
  });
}

TEST(QuantizedTableTest, EmptyTable) {
  EXPECT_TRUE(ValidateQuantizable(nullptr, 0, 8).ok());
  EXPECT_TRUE(Quantized({}, 8).empty());
  EXPECT_TRUE(Dequantized({}, 8).empty());
}

TEST(QuantizedTableTest, ValuesThatAHalfCannotNameAreRefusedWithTheirPosition) {
  std::vector<float> table(6, 1.0f);
  table[5] = 65505.0f;
  EXPECT_EQ(ValidateQuantizable(table.data(), 2, 3).message(),
            "table[1, 2] = 65505 is outside [-65504, 65504], what an int8 table can hold");
  table[1] = NAN;
  EXPECT_EQ(ValidateQuantizable(table.data(), 2, 3).message(),
            "table[0, 1] = nan is outside [-65504, 65504], what an int8 table can hold");
}

}  // namespace
}  // namespace feedfast::embedding_kernels
