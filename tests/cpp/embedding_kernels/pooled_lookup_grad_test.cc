#include "cpp/embedding_kernels/pooled_lookup_grad.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

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
