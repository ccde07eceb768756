#include "cpp/embedding_kernels/row_read_probe.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

// Rows of whole pieces are added up without overlap: the sum of all their words.
TEST(RowReadProbeTest, AddsUpTheWordsOfTheRows) {
  testing::ForEachCpuTarget([] {
    for (const std::int64_t row_bytes : {8, 16, 48, 64, 128, 256, 512, 1024}) {
      std::vector<std::uint32_t> words(static_cast<std::size_t>(20 * row_bytes / 4));
      std::iota(words.begin(), words.end(), 1u);
      const std::vector<std::int64_t> rows = {19, 0, 7, 7, 3};
      std::uint32_t want = 0;
      for (const std::int64_t row : rows)
        for (std::int64_t i = 0; i < row_bytes / 4; ++i)
          want += words[static_cast<std::size_t>(row * row_bytes / 4 + i)];
      for (const std::int64_t lines : {0, 4, 1000})
        for (const int threads : {1, 3})
          EXPECT_EQ(ReadRows(words.data(), row_bytes, rows, lines, threads), want) << row_bytes;
    }
  });
}

TEST(RowReadProbeTest, NoRowsAndRowsOfOddSize) {
  testing::ForEachCpuTarget([] {
    const std::vector<std::uint8_t> bytes(std::size_t{4} * 68, 0);
    EXPECT_EQ(ReadRows(bytes.data(), 68, {}, 128), 0u);
    for (const std::int64_t row_bytes : {9, 12, 36, 68})
      EXPECT_EQ(ReadRows(bytes.data(), row_bytes, std::vector<std::int64_t>{3, 0}, 128), 0u);
  });
}

}  // namespace
}  // namespace feedfast::embedding_kernels
