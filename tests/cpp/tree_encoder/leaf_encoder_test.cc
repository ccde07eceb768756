#include "cpp/tree_encoder/leaf_encoder.h"

#include <gtest/gtest.h>

#include "cpp/tree_encoder/reference.h"
#include "tests/cpp/testing.h"
#include "tests/cpp/tree_encoder/random_forest.h"

namespace feedfast::tree_encoder {
namespace {

using ::feedfast::testing::ForEachCpuTarget;

constexpr unsigned kSeed = 20'240'601;

LeafEncoder Encoder(const Forest& forest) {
  StatusOr<LeafEncoder> encoder = LeafEncoder::FromImage(ForestToImage(forest));
  EXPECT_TRUE(encoder.ok()) << encoder.status().message();
  return std::move(encoder).value();
}

std::vector<std::int32_t> Reference(const Forest& forest, const std::vector<float>& x,
                                    std::int64_t num_rows, std::int64_t x_stride) {
  std::vector<std::int32_t> out;
  for (std::int64_t row = 0; row < num_rows; ++row)
    for (std::int32_t tree = 0; tree < forest.num_trees(); ++tree)
      out.push_back(
          reference::LeafRow(forest, static_cast<std::size_t>(tree), x.data() + row * x_stride));
  return out;
}

TEST(LeafEncoderTest, MatchesTheReferenceOnEveryTarget) {
  std::mt19937 rng(kSeed);
  for (const std::int32_t num_trees : {1, 7, 8, 9, 33})
    for (const std::int32_t num_features : {1, 5, 64})
      for (const int max_depth : {0, 1, 6, 12}) {
        const Forest forest = RandomForest(rng, num_trees, num_features, max_depth);
        const LeafEncoder encoder = Encoder(forest);
        for (const std::int64_t num_rows : {0, 1, 2, 8, 63, 64, 65, 137}) {
          const std::vector<float> x = RandomRows(rng, num_rows, num_features);
          const std::vector<std::int32_t> want = Reference(forest, x, num_rows, num_features);
          ForEachCpuTarget([&] {
            std::vector<std::int32_t> got(want.size(), -1);
            encoder.Encode(x.data(), num_rows, num_features, got.data());
            EXPECT_EQ(got, want) << num_trees << " trees, " << num_features << " features, depth "
                                 << max_depth << ", " << num_rows << " rows";
          });
        }
      }
}

TEST(LeafEncoderTest, ReadsRowsThatLieApart) {
  std::mt19937 rng(kSeed);
  const Forest forest = RandomForest(rng, 9, 5, 4);
  const LeafEncoder encoder = Encoder(forest);
  const std::vector<float> x = RandomRows(rng, 21, 8);
  const std::vector<std::int32_t> want = Reference(forest, x, 21, 8);
  ForEachCpuTarget([&] {
    std::vector<std::int32_t> got(want.size(), -1);
    encoder.Encode(x.data(), 21, 8, got.data());
    EXPECT_EQ(got, want);
  });
}

TEST(LeafEncoderTest, LeavesOfAllTreesAreOneContiguousTable) {
  std::mt19937 rng(kSeed);
  const LeafEncoder encoder = Encoder(RandomForest(rng, 20, 3, 5));
  const Span<const std::int32_t> offsets = encoder.leaf_offsets();
  ASSERT_EQ(offsets.size(), encoder.num_trees() + 1);
  EXPECT_EQ(offsets[0], 0);
  for (std::int32_t tree = 0; tree < encoder.num_trees(); ++tree)
    EXPECT_LT(offsets[tree], offsets[tree + 1]);
  EXPECT_EQ(offsets[encoder.num_trees()], encoder.num_leaves());
}

TEST(LeafEncoderTest, AChainOfTenThousandSplitsIsWalkedWithoutRecursion) {
  constexpr std::int32_t kDepth = 10'000;
  Forest forest;
  forest.num_features = 1;
  for (std::int32_t i = 0; i < kDepth; ++i)
    forest.splits.push_back({0, static_cast<float>(i), 0, ~i, i + 1 < kDepth ? i + 1 : ~kDepth});
  forest.split_offsets = {0, kDepth};
  forest.leaf_offsets = {0, kDepth + 1};
  const LeafEncoder encoder = Encoder(forest);
  const std::vector<float> x{-1.0F, 4'999.0F, 1e9F};
  ForEachCpuTarget([&] {
    std::vector<std::int32_t> got(3);
    encoder.Encode(x.data(), 3, 1, got.data());
    EXPECT_EQ(got, (std::vector<std::int32_t>{0, 5'000, kDepth}));
  });
}

}  // namespace
}  // namespace feedfast::tree_encoder
