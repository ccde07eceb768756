#include "cpp/allreduce/row_accumulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "tests/cpp/testing.h"

namespace feedfast::allreduce {
namespace {

using ::feedfast::testing::ForEachCpuTarget;

constexpr unsigned kSeed = 20'261'122;

// The definition: row -> sum of its slices in float32, in the order in which they come.
class Oracle {
 public:
  void Add(const std::vector<std::int64_t>& rows, const std::vector<float>& values,
           std::size_t dim) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto [entry, is_new] = sums_.try_emplace(rows[i], dim, 0.0f);
      if (is_new) order_.push_back(rows[i]);
      ++counts_[rows[i]];
      for (std::size_t j = 0; j < dim; ++j) {
        const float value = values[i * dim + j];
        entry->second[j] = is_new ? value : entry->second[j] + value;
      }
    }
  }

  void ExpectEquals(const RowAccumulator& accumulator) const {
    ASSERT_EQ(accumulator.rows().size(), static_cast<std::int64_t>(order_.size()));
    const auto dim = static_cast<std::size_t>(accumulator.dim());
    for (std::size_t p = 0; p < order_.size(); ++p) {
      ASSERT_EQ(accumulator.rows()[static_cast<std::int64_t>(p)], order_[p]);
      ASSERT_EQ(std::memcmp(accumulator.values().data() + p * dim, sums_.at(order_[p]).data(),
                            dim * sizeof(float)),
                0);
    }
  }

  void ExpectAscending(RowAccumulator& accumulator) const {
    const auto dim = static_cast<std::size_t>(accumulator.dim());
    std::vector<std::int64_t> rows(order_.size());
    std::vector<std::int64_t> counts(order_.size());
    std::vector<float> sums(order_.size() * dim);
    accumulator.CopyAscending(rows, sums.data(), counts);
    std::size_t k = 0;
    for (const auto& [row, sum] : sums_) {
      ASSERT_EQ(rows[k], row);
      ASSERT_EQ(counts[k], counts_.at(row));
      ASSERT_EQ(std::memcmp(sums.data() + k * dim, sum.data(), dim * sizeof(float)), 0);
      ++k;
    }
  }

 private:
  std::map<std::int64_t, std::vector<float>> sums_;
  std::map<std::int64_t, std::int64_t> counts_;
  std::vector<std::int64_t> order_;
};

TEST(RowAccumulatorTest, SumsEveryRowOfAWindow) {
  ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    std::normal_distribution<float> normal;
    for (const std::int64_t dim : {1, 3, 16, 17, 64, 1100}) {
      RowAccumulator accumulator(dim);
      for (int window = 0; window < 3; ++window) {
        Oracle oracle;
        accumulator.StartWindow();
        for (const int count : {0, 1, 700, 5, 33}) {
          std::uniform_int_distribution<std::int64_t> row(0, window == 0 ? 20 : 5000);
          std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
          std::vector<float> values(rows.size() * static_cast<std::size_t>(dim));
          for (auto& each : rows) each = row(rng);
          for (auto& each : values) each = normal(rng);
          accumulator.Add(rows, values.data());
          oracle.Add(rows, values, static_cast<std::size_t>(dim));
        }
        EXPECT_EQ(accumulator.num_slices(), 739);
        oracle.ExpectEquals(accumulator);
        oracle.ExpectAscending(accumulator);
      }
    }
  });
}

TEST(RowAccumulatorTest, TakesAnyRowAndOneHotRow) {
  RowAccumulator accumulator(2);
  const std::int64_t last = std::numeric_limits<std::int64_t>::max();
  const std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8};
  accumulator.Add(std::vector<std::int64_t>{last, 0, last, last}, values.data());
  ASSERT_EQ(accumulator.rows().size(), 2);
  EXPECT_EQ(accumulator.rows()[0], last);
  EXPECT_EQ(accumulator.values()[0], 1 + 5 + 7);
  EXPECT_EQ(accumulator.values()[3], 4);
}

TEST(RowAccumulatorTest, IsEmptyWhenMemoryRanOut) {
  RowAccumulator accumulator(std::int64_t{1} << 61);
  EXPECT_THROW(accumulator.Add(std::vector<std::int64_t>{5}, nullptr), std::bad_alloc);
  EXPECT_EQ(accumulator.rows().size(), 0);
  EXPECT_EQ(accumulator.num_slices(), 0);
}

TEST(RowOrderTest, SortsAsTheDefinition) {
  std::mt19937_64 rng(kSeed);
  RowOrder order;
  for (const int bits : {0, 1, 8, 11, 12, 23, 40, 63})
    for (const std::size_t size : {0, 1, 2, 1000, 10'000}) {
      std::vector<std::int64_t> rows(size);
      for (auto& each : rows)
        each = static_cast<std::int64_t>(bits == 0 ? 5 : rng() >> (64 - bits));
      std::vector<std::int64_t> want(size);
      std::iota(want.begin(), want.end(), 0);
      std::stable_sort(want.begin(), want.end(), [&](std::int64_t a, std::int64_t b) {
        return rows[static_cast<std::size_t>(a)] < rows[static_cast<std::size_t>(b)];
      });
      const Span<const std::int64_t> got = order.Ascending(rows);
      EXPECT_EQ(std::vector<std::int64_t>(got.begin(), got.end()), want);
    }
}

TEST(RowIndexTest, RowsThatShareASlotStayApart) {
  // Multiples of 2^32 collide in the low bits of the hash; the table must still tell them apart.
  RowIndex index;
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < 3000; ++i) rows.push_back((i % 1500) << 32);
  std::vector<std::int64_t> positions(rows.size());
  index.Insert(rows, positions);
  EXPECT_EQ(index.size(), 1500);
  for (std::size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(positions[i], static_cast<std::int64_t>(i % 1500));
  index.StartWindow();
  EXPECT_EQ(index.size(), 0);
}

}  // namespace
}  // namespace feedfast::allreduce
