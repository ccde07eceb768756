#include "cpp/embedding_kernels/grouped_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "cpp/embedding_kernels/pooled_lookup.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

// Features of every format, of many widths and bag lengths, with int32 and int64 ids, weights and
// none, over tables of their own; columns in reverse order with a gap of one between them.
struct Batch {
  std::deque<OwnedTable> tables;
  std::deque<OwnedBags> bags;
  std::vector<PooledFeature> features;
  std::int64_t columns = 0;
  std::int64_t num_bags = 0;
};

Batch RandomFeatures(int num_features, std::mt19937& rng) {
  Batch batch;
  for (int f = 0; f < num_features; ++f) {
    const std::int64_t num_rows = 1 + f * 37 % 200;
    const std::int64_t dim = 1 + f * 29 % 140;
    batch.tables.push_back(RandomTable(kFormats[f % 5], num_rows, dim, rng));
    // Every third feature has short bags, some have no ids at all.
    OwnedBags bags = RandomBags(num_rows, 20, rng);
    if (f % 3 == 1) {
      bags.values.resize(f % 2 == 0 ? 0 : 1, 0);
      bags.weights.resize(bags.values.size());
      for (std::size_t b = 1; b < bags.offsets.size(); ++b)
        bags.offsets[b] = static_cast<std::int64_t>(bags.values.size());
    }
    batch.bags.push_back(std::move(bags));
    OwnedBags& owned = batch.bags.back();
    const Bags view = f % 4 == 0   ? owned.View()
                      : f % 4 == 1 ? owned.View32(true, f % 8 == 1)
                                   : owned.WeightedView();
    batch.features.push_back({batch.tables.back().view, view, kPoolings[f % 3], 0});
    batch.num_bags = view.num_bags();
  }
  for (auto feature = batch.features.rbegin(); feature != batch.features.rend(); ++feature) {
    feature->column = batch.columns;
    batch.columns += feature->table.dim + 1;
  }
  return batch;
}

TEST(GroupedLookupTest, HasTheBitsOfOneLookupPerFeatureForAnyThreads) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const int num_features : {1, 2, 15, 70}) {
      const Batch batch = RandomFeatures(num_features, rng);
      ASSERT_EQ(ValidateFeatures(batch.features, batch.columns).message(), "");
      const std::size_t size = static_cast<std::size_t>(batch.num_bags * batch.columns);
      std::vector<float> want(size, -7.0f);
      for (const PooledFeature& feature : batch.features)
        PooledLookupRange(feature.table, feature.bags, feature.pooling,
                          want.data() + feature.column, batch.columns, 0, batch.num_bags);
      for (const int threads : {1, 2, 5}) {
        std::vector<float> got(size, -7.0f);
        GroupedPooledLookup(batch.features, got.data(), batch.columns, threads);
        EXPECT_EQ(got, want) << num_features << " features, " << threads << " threads";
      }
      const GroupedWork work(batch.features);
      for (const std::int64_t grain : {std::int64_t{1}, std::int64_t{7}, work.size() / 3 + 1}) {
        std::vector<float> got(size, -7.0f);
        for (std::int64_t begin = 0; begin < work.size(); begin += grain)
          work.Run(got.data(), batch.columns, begin, std::min(begin + grain, work.size()));
        EXPECT_EQ(got, want) << "ranges of " << grain;
      }
      for (const std::int64_t window : {std::int64_t{1}, std::int64_t{3}, batch.num_bags}) {
        std::vector<float> got(size, -7.0f);
        for (std::int64_t bag = 0; bag < batch.num_bags; bag += window)
          GroupedPooledLookupRange(batch.features, got.data(), batch.columns, bag,
                                   std::min(bag + window, batch.num_bags));
        EXPECT_EQ(got, want) << "windows of " << window;
      }
    }
  });
}

TEST(GroupedLookupTest, NoFeaturesAndNoBagsWriteNothing) {
  EXPECT_TRUE(ValidateFeatures({}, 0).ok());
  GroupedPooledLookup({}, nullptr, 0, 2);
  const std::vector<std::int64_t> none = {0};
  const PooledFeature feature{{nullptr, 0, 4, RowFormat::kFloat32}, {{}, none}, Pooling::kSum, 0};
  EXPECT_TRUE(ValidateFeatures({&feature, 1}, 4).ok());
  GroupedPooledLookup({&feature, 1}, nullptr, 4, 2);
  GroupedPooledLookup({&feature, 1}, nullptr, 4, 1);
  GroupedPooledLookupRange({}, nullptr, 0, 0, 3);
}

TEST(GroupedLookupTest, ViolationsNameTheFeature) {
  std::mt19937 rng(kSeed);
  const OwnedTable table = RandomTable(RowFormat::kFloat32, 10, 4, rng);
  const std::vector<std::int64_t> values = {3, 10};
  const std::vector<std::int64_t> two = {0, 2};
  const std::vector<std::int64_t> one_and_empty = {0, 1, 1};
  const auto violation = [](const std::vector<PooledFeature>& features, std::int64_t columns) {
    return ValidateFeatures(features, columns).message();
  };
  const PooledFeature good{table.view, {IndexSpan(values).subspan(0, 1), one_and_empty}};
  PooledFeature bad = good;
  bad.column = 4;
  EXPECT_EQ(violation({good, bad}, 8), "");
  EXPECT_EQ(violation({good, bad}, 7),
            "features[1].column = 4 with 4 columns does not fit an output of 7 columns");
  bad.column = 3;
  EXPECT_EQ(violation({good, bad}, 8),
            "features[1].column = 3 lies in the columns of features[0], 0 to 3");
  bad.column = -1;
  EXPECT_EQ(violation({bad, good}, 8),
            "features[0].column = -1 with 4 columns does not fit an output of 8 columns");
  bad = {table.view, {values, two}, Pooling::kSum, 4};
  EXPECT_EQ(violation({good, bad}, 8),
            "features[1].values[1] = 10 is not a row of a table with 10 rows");
  EXPECT_EQ(ValidateFeatures(std::vector<PooledFeature>{good, bad}, 8).code(),
            StatusCode::kOutOfRange);
  const std::vector<std::int64_t> one = {0, 1};
  bad = {table.view, {IndexSpan(values).subspan(0, 1), one}, Pooling::kSum, 4};
  EXPECT_EQ(violation({good, bad}, 8),
            "features[1] has 1 bags; all must have as many as features[0], 2");
}

}  // namespace
}  // namespace feedfast::embedding_kernels
