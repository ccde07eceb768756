#include "cpp/allreduce/row_partition.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace feedfast::allreduce {
namespace {

TEST(RowOwnersTest, EvenSharesCoverTheTable) {
  EXPECT_EQ(RowOwners::Even(10, 4).value().first_rows().size(), 5);
  const RowOwners few = RowOwners::Even(2, 4).value();
  EXPECT_EQ(std::vector<std::int64_t>(few.first_rows().begin(), few.first_rows().end()),
            (std::vector<std::int64_t>{0, 1, 2, 2, 2}));
  EXPECT_EQ(RowOwners::Even(0, 3).value().num_rows(), 0);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(RowOwners::Even(kMost, 2).value().first_rows()[1], std::int64_t{1} << 62);
  EXPECT_EQ(RowOwners::Even(kMost, 2).value().num_rows(), kMost);
  EXPECT_EQ(RowOwners::Even(-1, 3).status().message(), "num_rows = -1; must be >= 0");
  EXPECT_EQ(RowOwners::Even(1, 0).status().message(), "num_owners = 0; must be >= 1");
}

TEST(RowOwnersTest, RefusesWhatIsNoPartition) {
  using Rows = std::vector<std::int64_t>;
  EXPECT_EQ(RowOwners::Create(Rows{0}).status().message(),
            "first_rows has 1 entries; needs at least 2");
  EXPECT_EQ(RowOwners::Create(Rows{1, 2}).status().message(), "first_rows[0] = 1; must be 0");
  EXPECT_EQ(RowOwners::Create(Rows{0, 5, 4}).status().message(),
            "first_rows[2] = 4 is below the entry before it, 5");
}

TEST(PartitionRowsTest, GroupsByOwnerAndKeepsTheOrder) {
  std::mt19937 rng(20'261'122);
  for (const std::vector<std::int64_t>& first_rows :
       {std::vector<std::int64_t>{0, 100}, std::vector<std::int64_t>{0, 0, 30, 30, 99, 100, 100}}) {
    const RowOwners owners = RowOwners::Create(first_rows).value();
    std::vector<std::int64_t> rows(500);
    for (auto& row : rows) row = std::uniform_int_distribution<std::int64_t>(0, 99)(rng);
    const RowPartition partition = PartitionRows(rows, owners).value();
    // The definition: for each owner in turn, its rows in the order in which they stand.
    std::size_t k = 0;
    for (std::size_t owner = 0; owner + 1 < first_rows.size(); ++owner) {
      EXPECT_EQ(partition.offsets[owner], static_cast<std::int64_t>(k));
      for (std::size_t i = 0; i < rows.size(); ++i)
        if (rows[i] >= first_rows[owner] && rows[i] < first_rows[owner + 1]) {
          ASSERT_EQ(partition.positions[k++], static_cast<std::int64_t>(i));
        }
    }
    EXPECT_EQ(k, rows.size());
    EXPECT_EQ(partition.offsets.back(), 500);
  }
}

TEST(PartitionRowsTest, RefusesRowsOutsideTheTable) {
  const RowOwners owners = RowOwners::Even(10, 2).value();
  const auto message = [&](std::vector<std::int64_t> rows) {
    return PartitionRows(rows, owners).status().message();
  };
  EXPECT_EQ(message({0, 10}), "rows[1] = 10 is not in 0..9");
  EXPECT_EQ(message({-1}), "rows[0] = -1 is not in 0..9");
  EXPECT_TRUE(PartitionRows(Span<const std::int64_t>(), owners).value().positions.empty());
}

}  // namespace
}  // namespace feedfast::allreduce
