#include "cpp/embedding_kernels/quantized_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/pooled_lookup.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr RowFormat kCodes[] = {RowFormat::kInt8Rowwise, RowFormat::kInt4Rowwise};

std::vector<std::uint8_t> Quantized(const std::vector<float>& table, std::int64_t dim,
                                    RowFormat format, int threads = 1,
                                    RangeMethod method = RangeMethod::kMinMax) {
  const std::int64_t num_rows = static_cast<std::int64_t>(table.size()) / dim;
  std::vector<std::uint8_t> packed(static_cast<std::size_t>(num_rows * RowBytes(format, dim)));
  QuantizeRows(table.data(), num_rows, dim, format, method, packed.data(), threads);
  return packed;
}

Table View(const std::vector<std::uint8_t>& packed, std::int64_t dim, RowFormat format) {
  return {packed.data(), static_cast<std::int64_t>(packed.size()) / RowBytes(format, dim), dim,
          format};
}

std::vector<float> Dequantized(const std::vector<std::uint8_t>& packed, std::int64_t dim,
                               RowFormat format) {
  const Table table = View(packed, dim, format);
  std::vector<float> out(static_cast<std::size_t>(table.num_rows * dim));
  DequantizeRows(table, out.data(), 2);
  return out;
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
    for (const RowFormat format : kCodes)
      for (const std::int64_t dim : {1, 3, 16, 64, 77}) {
        const std::vector<float> table = RowsOfManyMagnitudes(3000, dim);
        ASSERT_TRUE(ValidateQuantizable(table.data(), 3000, dim).ok());
        const std::vector<std::uint8_t> packed = Quantized(table, dim, format);
        const std::vector<float> back = Dequantized(packed, dim, format);
        for (std::int64_t r = 0; r < 3000; ++r) {
          std::uint16_t scale;
          std::memcpy(&scale, packed.data() + r * RowBytes(format, dim), sizeof scale);
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
  for (const RowFormat format : kCodes)
    for (const RangeMethod method : {RangeMethod::kMinMax, RangeMethod::kClip}) {
      const std::vector<std::uint8_t> first = Quantized(table, dim, format, 1, method);
      const std::vector<float> back = Dequantized(first, dim, format);
      testing::ForEachCpuTarget([&] {
        EXPECT_EQ(Quantized(table, dim, format, 1, method), first);
        EXPECT_EQ(Quantized(table, dim, format, 3, method), first);
        EXPECT_EQ(Dequantized(first, dim, format), back);
      });
    }
}

TEST(QuantizedTableTest, ALookupOfOneRowIsTheDequantizedRowBitForBit) {
  testing::ForEachCpuTarget([] {
    for (const RowFormat format : kCodes)
      for (const std::int64_t dim : {1, 5, 64}) {
        const std::vector<std::uint8_t> packed =
            Quantized(RowsOfManyMagnitudes(500, dim), dim, format);
        std::vector<std::int64_t> ids(500);
        std::iota(ids.begin(), ids.end(), 0);
        std::vector<std::int64_t> offsets(501);
        std::iota(offsets.begin(), offsets.end(), 0);
        std::vector<float> rows(static_cast<std::size_t>(500 * dim));
        PooledLookup(View(packed, dim, format), {ids, offsets}, Pooling::kMean, rows.data(), dim,
                     1);
        EXPECT_EQ(rows, Dequantized(packed, dim, format));
      }
  });
}

TEST(QuantizedTableTest, ConstantRowsAndBothEndsOfTheRange) {
  testing::ForEachCpuTarget([] {
    const std::vector<float> table = {0, 0, 0.5f, 0.5f, 65504.0f, -65504.0f, 1e-30f, 1e-30f};
    for (const RangeMethod method : {RangeMethod::kMinMax, RangeMethod::kClip}) {
      const std::vector<float> back = Dequantized(
          Quantized(table, 2, RowFormat::kInt8Rowwise, 1, method), 2, RowFormat::kInt8Rowwise);
      EXPECT_EQ(back[0], 0.0f);
      EXPECT_EQ(back[2], 0.5f);
      EXPECT_NEAR(back[4], 65504.0f, 258.0f);
      EXPECT_NEAR(back[5], -65504.0f, 258.0f);
      EXPECT_NEAR(back[6], 0.0f, 6e-8f);
    }
  });
}

// The first row of int4 codes, by hand: bias -1, scale (14 + 1) / 15 = 1.
TEST(QuantizedTableTest, Int4RowByHand) {
  const std::vector<float> table = {-1.0f, 0.4f, 14.0f, 2.5f, 3.5f};
  EXPECT_EQ(Quantized(table, 5, RowFormat::kInt4Rowwise),
            // scale 1.0, bias -1.0 as halves; codes 0 1 | 15 4 (3.5 to even) | 4 (4.5 to even)
            (std::vector<std::uint8_t>{0x00, 0x3c, 0x00, 0xbc, 0x10, 0x4f, 0x04}));
}

double SumOfSquares(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

TEST(QuantizedTableTest, ClippingNeverAddsErrorAndHelpsRowsWithOutliers) {
  std::mt19937 rng(kSeed);
  const std::int64_t dim = 64;
  std::vector<float> table = RandomFloats(200 * dim, rng);
  for (std::size_t i = 0; i < table.size(); i += 64) table[i] *= 8.0f;
  for (const RowFormat format : kCodes) {
    const std::vector<float> minmax = Dequantized(Quantized(table, dim, format), dim, format);
    const std::vector<std::uint8_t> packed = Quantized(table, dim, format, 1, RangeMethod::kClip);
    const std::vector<float> clip = Dequantized(packed, dim, format);
    // Up to the float32 sums that the search compares.
    EXPECT_LE(SumOfSquares(table, clip), SumOfSquares(table, minmax) * 1.0001);
    if (format != RowFormat::kInt4Rowwise) continue;
    EXPECT_LT(SumOfSquares(table, clip), SumOfSquares(table, minmax) * 0.9);
    EXPECT_GT(MeasureQuantizationError(table.data(), View(packed, dim, format), 1).saturated_share,
              0.1);
  }
}

TEST(QuantizedTableTest, ErrorReportIsThatOfTheDecodedTableForAnyThreads) {
  const std::int64_t dim = 19;
  std::mt19937 rng(kSeed);
  const std::vector<float> table = RandomFloats(2500 * dim, rng);
  for (const RowFormat format : kCodes) {
    const std::vector<std::uint8_t> packed = Quantized(table, dim, format);
    const std::vector<float> back = Dequantized(packed, dim, format);
    double greatest = 0.0;
    for (std::size_t i = 0; i < back.size(); ++i)
      greatest = std::max(greatest, std::fabs(double{table[i]} - back[i]));
    for (const int threads : {1, 3}) {
      const QuantizationError error =
          MeasureQuantizationError(table.data(), View(packed, dim, format), threads);
      EXPECT_EQ(error.greatest, greatest);
      EXPECT_NEAR(error.root_mean_square,
                  std::sqrt(SumOfSquares(table, back) / static_cast<double>(back.size())), 1e-6);
      EXPECT_EQ(error.saturated_share, 0.0);
    }
  }
  EXPECT_EQ(MeasureQuantizationError(nullptr, {nullptr, 0, 4, RowFormat::kInt8Rowwise}, 1).greatest,
            0.0);
}

TEST(QuantizedTableTest, UpdatedRowsAreThoseOfANewTableAndOthersKeepTheirBytes) {
  const std::int64_t dim = 9;
  std::mt19937 rng(kSeed);
  std::vector<float> table = RandomFloats(50 * dim, rng);
  for (const RowFormat format : kCodes) {
    std::vector<std::uint8_t> packed = Quantized(table, dim, format);
    const std::vector<std::int64_t> rows = {49, 0, 7};
    const std::vector<float> values = RandomFloats(3 * dim, rng);
    ASSERT_TRUE(ValidateRowsToUpdate(rows, 50).ok());
    QuantizeRowsAt(values.data(), rows, dim, format, RangeMethod::kMinMax, packed.data(), 2);
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(i) * dim, dim,
                  table.begin() + rows[i] * dim);
    EXPECT_EQ(packed, Quantized(table, dim, format));
  }
}

TEST(QuantizedTableTest, RowsToUpdateAreRowsAndUnique) {
  const std::vector<std::int64_t> outside = {3, 50};
  const std::vector<std::int64_t> twice = {3, 1, 4, 1};
  EXPECT_TRUE(ValidateRowsToUpdate({}, 0).ok());
  EXPECT_EQ(ValidateRowsToUpdate(outside, 50).message(),
            "rows[1] = 50 is not a row of a table with 50 rows");
  EXPECT_EQ(ValidateRowsToUpdate(twice, 50).message(),
            "rows[3] = 1 repeats rows[1]; every row can be given once");
}

TEST(QuantizedTableTest, EmptyTable) {
  EXPECT_TRUE(ValidateQuantizable(nullptr, 0, 8).ok());
  EXPECT_TRUE(Quantized({}, 8, RowFormat::kInt8Rowwise).empty());
  EXPECT_TRUE(Dequantized({}, 8, RowFormat::kInt8Rowwise).empty());
}

TEST(QuantizedTableTest, ValuesThatAHalfCannotNameAreRefusedWithTheirPosition) {
  std::vector<float> table(6, 1.0f);
  table[5] = 65505.0f;
  EXPECT_EQ(ValidateQuantizable(table.data(), 2, 3).message(),
            "table[1, 2] = 65505 is outside [-65504, 65504], what a quantized table can hold");
  table[1] = NAN;
  EXPECT_EQ(ValidateQuantizable(table.data(), 2, 3).message(),
            "table[0, 1] = nan is outside [-65504, 65504], what a quantized table can hold");
}

TEST(QuantizedTableTest, MethodNames) {
  EXPECT_EQ(ParseRangeMethod("clip").value(), RangeMethod::kClip);
  EXPECT_EQ(ParseRangeMethod("kl").status().message(),
            "method 'kl' is unknown; allowed: minmax, clip");
}

}  // namespace
}  // namespace feedfast::embedding_kernels
