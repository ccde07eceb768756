#include "cpp/embedding_kernels/pooled_lookup_grad.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumRows = 211;

TEST(GroupByRowTest, RowsAscendUniqueAndEntriesKeepTheOrderOfTheBatch) {
  OwnedBags bags;
  bags.Add({5000000000, 3});
  bags.Add({});
  bags.Add({3, 0, 3});
  const RowGroups groups = GroupByRow(bags.View(), Pooling::kSum);
  EXPECT_EQ(groups.rows, (std::vector<std::int64_t>{0, 3, 5000000000}));
  EXPECT_EQ(groups.offsets, (std::vector<std::int64_t>{0, 1, 4, 5}));
  EXPECT_EQ(groups.bags, (std::vector<std::int64_t>{2, 0, 2, 2, 0}));
  EXPECT_TRUE(groups.factors.empty());
}

TEST(GroupByRowTest, EmptyBatchHasNoGroups) {
  const OwnedBags bags;
  const RowGroups groups = GroupByRow(bags.View(), Pooling::kMean);
  EXPECT_TRUE(groups.rows.empty());
  EXPECT_EQ(groups.offsets, std::vector<std::int64_t>{0});
  PooledLookupGradRange(groups, nullptr, 0, 8, nullptr, 0, 0);
}

TEST(PooledLookupGradTest, MatchesTheDenseReferenceInAnyRanges) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const std::int64_t dim : {1, 7, 64, 130}) {
      const OwnedBags bags = RandomBags(kNumRows, 30, rng);
      for (const Pooling pooling : kPoolings)
        for (const Bags& view : {bags.View(), bags.WeightedView()}) {
          const std::vector<float> grad = RandomFloats(view.num_bags() * dim, rng);
          const RowGroups groups = GroupByRow(view, pooling);
          const auto num_touched = static_cast<std::int64_t>(groups.rows.size());
          EXPECT_TRUE(std::is_sorted(groups.rows.begin(), groups.rows.end()));
          std::vector<float> got(static_cast<std::size_t>(num_touched * dim));
          PooledLookupGradRange(groups, grad.data(), view.num_bags(), dim, got.data(), 0,
                                num_touched);
          std::vector<float> in_parts(got.size());
          for (std::int64_t g = 0; g < num_touched; g += 10)
            PooledLookupGradRange(groups, grad.data(), view.num_bags(), dim, in_parts.data(), g,
                                  std::min(g + 10, num_touched));
          EXPECT_EQ(got, in_parts);

          std::vector<double> want =
              reference::PooledLookupGrad({grad.begin(), grad.end()}, kNumRows, dim, view, pooling);
          for (std::int64_t g = 0; g < num_touched; ++g)
            for (std::int64_t j = 0; j < dim; ++j) {
              double& w = want[static_cast<std::size_t>(
                  groups.rows[static_cast<std::size_t>(g)] * dim + j)];
              ASSERT_NEAR(got[static_cast<std::size_t>(g * dim + j)], w, 1e-4);
              w = 0.0;
            }
          // What no id touched has no gradient.
          EXPECT_TRUE(std::all_of(want.begin(), want.end(), [](double w) { return w == 0.0; }));
        }
    }
  });
}

TEST(PooledLookupWeightsGradTest, MatchesCentralDifferencesOfTheReference) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const RowFormat format : {RowFormat::kFloat32, RowFormat::kFloat16, RowFormat::kBfloat16})
      for (const std::int64_t dim : {1, 9, 40}) {
        const OwnedTable table = RandomTable(format, 13, dim, rng);
        OwnedBags bags = RandomBags(13, 5, rng);
        const Bags view = bags.WeightedView();
        for (const Pooling pooling : kPoolings) {
          const std::vector<float> grad = RandomFloats(view.num_bags() * dim, rng);
          std::vector<float> pooled(grad.size());
          PooledLookup(table.view, view, pooling, pooled.data(), dim, 1);
          std::vector<float> got(bags.values.size());
          PooledLookupWeightsGradRange(table.view, view, pooling, pooled.data(), grad.data(),
                                       got.data(), 0, view.num_bags());
          const auto loss = [&] {
            const std::vector<double> out =
                reference::PooledLookup(table.decoded, dim, view, pooling);
            double sum = 0.0;
            for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * grad[i];
            return sum;
          };
          for (std::size_t i = 0; i < got.size(); i += 7) {
            const float w = bags.weights[i];
            bags.weights[i] = w + 1.0f / 1024;
            const double above = loss();
            bags.weights[i] = w - 1.0f / 1024;
            const double below = loss();
            bags.weights[i] = w;
            // Central differences: relative error about (step / w)^2 < 1e-4
            ASSERT_NEAR(got[i], (above - below) * 512, 2e-3) << i;
          }
        }
      }
  });
}

TEST(PooledLookupWeightsGradTest, IsZeroWhereTheDivisorIsZero) {
  testing::ForEachCpuTarget([] {
    const std::vector<float> rows = {1, 2};
    const std::vector<std::int64_t> values = {0, 1};
    const std::vector<std::int64_t> offsets = {0, 2};
    const std::vector<float> weights = {1.0f, -1.0f};
    const float pooled = 0.0f;
    const float grad = 1.0f;
    float got[] = {9.0f, 9.0f};
    PooledLookupWeightsGradRange({rows.data(), 2, 1}, {values, offsets, Span<const float>(weights)},
                                 Pooling::kMean, &pooled, &grad, got, 0, 1);
    EXPECT_EQ(got[0], 0.0f);
    EXPECT_EQ(got[1], 0.0f);
  });
}

}  // namespace
}  // namespace feedfast::embedding_kernels
