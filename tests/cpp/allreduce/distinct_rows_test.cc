#include "cpp/allreduce/distinct_rows.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

namespace feedfast::allreduce {
namespace {

TEST(DistinctRowsTest, AscendAndSayWhereEachRowIs) {
  std::mt19937_64 random(20'261'122);
  DistinctRows distinct;
  for (const std::int64_t size : {0, 1, 2, 700, 5, 3000}) {
    for (const int bits : {1, 6, 12, 62}) {
      std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
      for (std::int64_t& row : rows) row = static_cast<std::int64_t>(random() >> (64 - bits));
      std::vector<std::int64_t> positions(rows.size(), -1);
      const Span<const std::int64_t> found = distinct.Find(rows, positions);
      const std::set<std::int64_t> want(rows.begin(), rows.end());
      ASSERT_EQ(std::vector<std::int64_t>(found.begin(), found.end()),
                std::vector<std::int64_t>(want.begin(), want.end()));
      for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(found[positions[i]], rows[i]);
    }
  }
}

}  // namespace
}  // namespace feedfast::allreduce
