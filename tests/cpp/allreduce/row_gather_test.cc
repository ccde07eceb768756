#include "cpp/allreduce/row_gather.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace feedfast::allreduce {
namespace {

template <typename Row>
void ExpectRows(std::size_t row_bytes, std::int64_t count, std::size_t gap) {
  constexpr std::size_t kRows = 50;
  std::mt19937 random(7);
  std::vector<std::byte> table(kRows * row_bytes);
  for (std::byte& value : table) value = static_cast<std::byte>(random());
  std::vector<Row> rows(static_cast<std::size_t>(count));
  for (Row& row : rows) row = static_cast<Row>(random() % kRows);
  const std::size_t stride = row_bytes + gap;
  std::vector<std::byte> out(rows.size() * stride, std::byte{0});
  GatherRows<Row>(table.data(), row_bytes, rows, out.data(), stride);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::byte* const row = table.data() + static_cast<std::size_t>(rows[i]) * row_bytes;
    ASSERT_EQ(std::memcmp(out.data() + i * stride, row, row_bytes), 0) << i;
    for (std::size_t at = row_bytes; at < stride; ++at)
      ASSERT_EQ(out[i * stride + at], std::byte{0}) << i;
  }
}

TEST(RowGatherTest, CopiesRowsAndNothingElse) {
  for (const std::size_t row_bytes : {2, 6, 64, 300, 4096}) {
    for (const std::int64_t count : {0, 1, 3, 100}) {
      ExpectRows<std::int32_t>(row_bytes, count, 0);
      ExpectRows<std::int64_t>(row_bytes, count, 10);
    }
  }
}

}  // namespace
}  // namespace feedfast::allreduce
