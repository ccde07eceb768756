#include "cpp/embedding_kernels/row_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumRows = 211;

template <typename T>
std::vector<T> Copy(Span<const T> span) {
  return {span.begin(), span.end()};
}

TEST(RowGroupsTest, RowsAscendUniqueAndEntriesKeepTheOrderOfTheBatch) {
  OwnedBags bags;
  bags.Add({5000000000, 3});
  bags.Add({});
  bags.Add({3, 0, 3});
  RowGroups groups;
  ASSERT_TRUE(groups.Group(bags.View(), Pooling::kSum).ok());
  EXPECT_EQ(Copy(groups.rows()), (std::vector<std::int64_t>{0, 3, 5000000000}));
  EXPECT_EQ(Copy(groups.offsets()), (std::vector<std::uint32_t>{0, 1, 4, 5}));
  EXPECT_EQ(Copy(groups.sources()), (std::vector<std::uint32_t>{2, 0, 2, 2, 0}));
  EXPECT_EQ(groups.factors_or_null(), nullptr);

  bags.weights = {1.0f, 2.0f, 4.0f, 8.0f, 16.0f};
  ASSERT_TRUE(groups.Group(bags.WeightedView(), Pooling::kSum).ok());
  EXPECT_EQ(Copy(groups.sources()), (std::vector<std::uint32_t>{2, 0, 2, 2, 0}));
  EXPECT_EQ(std::vector<float>(groups.factors_or_null(), groups.factors_or_null() + 5),
            (std::vector<float>{8.0f, 2.0f, 4.0f, 16.0f, 1.0f}));
}

TEST(RowGroupsTest, EmptyBatchHasNoGroups) {
  const OwnedBags bags;
  RowGroups groups;
  ASSERT_TRUE(groups.Group(bags.View(), Pooling::kMean).ok());
  EXPECT_EQ(groups.num_rows(), 0);
  EXPECT_EQ(Copy(groups.offsets()), std::vector<std::uint32_t>{0});
  SumRowGradient(groups.Gradient(nullptr, 8), nullptr, 0, 0);
  ASSERT_TRUE(groups.GroupSlices({}).ok());
  EXPECT_EQ(groups.num_rows(), 0);
}

TEST(RowGroupsTest, SlicesOfAnySizeAreSortedStably) {
  std::mt19937_64 rng(kSeed);
  RowGroups groups;  // one object: its memory is used again
  for (const std::int64_t size : {1, 2, 63, 64, 5000, 300})
    for (const std::uint64_t num_rows : {1ull, 2ull, 100ull, 1ull << 24, 1ull << 45}) {
      std::vector<std::int64_t> rows;
      std::map<std::int64_t, std::vector<std::uint32_t>> want;
      for (std::int64_t i = 0; i < size; ++i) {
        rows.push_back(static_cast<std::int64_t>(rng() % num_rows));
        want[rows.back()].push_back(static_cast<std::uint32_t>(i));
      }
      ASSERT_TRUE(groups.GroupSlices(rows).ok());
      ASSERT_EQ(groups.num_rows(), static_cast<std::int64_t>(want.size()));
      std::int64_t g = 0;
      for (const auto& [row, slices] : want) {
        EXPECT_EQ(groups.rows()[g], row);
        EXPECT_EQ(Copy(groups.sources().subspan(groups.offsets()[g],
                                                groups.offsets()[g + 1] - groups.offsets()[g])),
                  slices);
        ++g;
      }
    }
}

TEST(RowGroupsTest, RefusesRowsThatLeaveNoBitsForPositions) {
  const std::vector<std::int64_t> rows = {std::int64_t{1} << 62, 0, 1};
  RowGroups groups;
  EXPECT_EQ(groups.GroupSlices(rows).message(),
            "values has 3 ids with rows of up to 63 bits; a gradient sorts less than 2^32 ids, and "
            "64 bits for a row and a position together");
}

TEST(RowGradientTest, MatchesTheDenseReferenceInAnyRanges) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const std::int64_t dim : {1, 7, 64, 130}) {
      const OwnedBags bags = RandomBags(kNumRows, 30, rng);
      for (const Pooling pooling : kPoolings)
        for (const Bags& view : {bags.View(), bags.WeightedView()}) {
          const std::vector<float> grad = RandomFloats(view.num_bags() * dim, rng);
          RowGroups groups;
          ASSERT_TRUE(groups.Group(view, pooling).ok());
          const std::int64_t num_touched = groups.num_rows();
          EXPECT_TRUE(StrictlyAscending(groups.rows()));
          const RowGradient gradient = groups.Gradient(grad.data(), dim);
          std::vector<float> got(static_cast<std::size_t>(num_touched * dim));
          SumRowGradient(gradient, got.data(), 0, num_touched);
          std::vector<float> in_parts(got.size());
          for (std::int64_t g = 0; g < num_touched; g += 10)
            SumRowGradient(gradient, in_parts.data(), g, std::min(g + 10, num_touched));
          EXPECT_EQ(got, in_parts);

          std::vector<double> want =
              reference::PooledLookupGrad({grad.begin(), grad.end()}, kNumRows, dim, view, pooling);
          for (std::int64_t g = 0; g < num_touched; ++g)
            for (std::int64_t j = 0; j < dim; ++j) {
              double& w = want[static_cast<std::size_t>(groups.rows()[g] * dim + j)];
              ASSERT_NEAR(got[static_cast<std::size_t>(g * dim + j)], w, 1e-4);
              w = 0.0;
            }
          // What no id touched has no gradient.
          EXPECT_TRUE(std::all_of(want.begin(), want.end(), [](double w) { return w == 0.0; }));
        }
    }
  });
}

TEST(ValidateRowsTest, NamesTheFirstRowOutsideTheTable) {
  EXPECT_TRUE(ValidateRows({}, 0).ok());
  const std::vector<std::int64_t> rows = {0, 9, 10, -1};
  EXPECT_TRUE(ValidateRows(Span<const std::int64_t>(rows.data(), 2), 10).ok());
  EXPECT_EQ(ValidateRows(rows, 10).message(), "rows[2] = 10 is not a row of a table with 10 rows");
  EXPECT_EQ(ValidateRows(rows, 11).message(), "rows[3] = -1 is not a row of a table with 11 rows");
}

}  // namespace
}  // namespace feedfast::embedding_kernels
