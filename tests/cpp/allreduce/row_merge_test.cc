#include "cpp/allreduce/row_merge.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpp/allreduce/row_accumulator.h"
#include "tests/cpp/testing.h"

namespace feedfast::allreduce {
namespace {

using ::feedfast::testing::ForEachCpuTarget;

struct List {
  std::vector<std::int64_t> rows;
  std::vector<float> values;
};

List RandomList(std::mt19937& random, double share, std::int64_t dim) {
  List list;
  for (std::int64_t row = 0; row < 200; ++row)
    if (std::bernoulli_distribution(share)(random)) list.rows.push_back(row);
  std::normal_distribution<float> normal;
  list.values.resize(list.rows.size() * static_cast<std::size_t>(dim));
  for (float& value : list.values) value = normal(random);
  return list;
}

TEST(RowMergeTest, GivesTheBitsOfTheAccumulator) {
  ForEachCpuTarget([] {
    std::mt19937 random(20'261'122);
    for (const std::int64_t dim : {1, 3, 16, 65}) {
      for (const int num_lists : {0, 1, 2, 3, 7}) {
        RowAccumulator accumulator(dim);
        std::vector<List> lists;
        lists.reserve(static_cast<std::size_t>(num_lists));
        std::vector<RowList> views;
        views.reserve(static_cast<std::size_t>(num_lists));
        for (int l = 0; l < num_lists; ++l)
          lists.push_back(RandomList(random, l == 1 ? 0.0 : 0.4, dim));
        for (const List& list : lists) {
          views.push_back(
              {list.rows.data(), list.values.data(), static_cast<std::int64_t>(list.rows.size())});
          accumulator.Add(list.rows, list.values.data());
        }
        const std::size_t size = static_cast<std::size_t>(accumulator.rows().size());
        std::vector<std::int64_t> want_rows(size);
        std::vector<std::int64_t> counts(size);
        std::vector<float> want(size * static_cast<std::size_t>(dim));
        accumulator.CopyAscending(want_rows, want.data(), counts);
        for (float& value : want) value *= 0.3F;

        const std::vector<std::int64_t> rows = UnionOfRows(views);
        ASSERT_EQ(rows, want_rows);
        std::vector<float> sums(want.size());
        MergeRows(views, rows, dim, 0.3F, sums.data());
        ASSERT_TRUE(sums.empty() ||
                    std::memcmp(sums.data(), want.data(), sums.size() * sizeof(float)) == 0);
      }
    }
  });
}

}  // namespace
}  // namespace feedfast::allreduce
