#include "cpp/tree_encoder/leaf_encoder.h"

#include <gtest/gtest.h>

#include <limits>

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

// Leaf rows and, where a byte holds them, ordinals of every CPU target against the reference.
void ExpectReference(const Forest& forest, const std::vector<float>& x, std::int64_t num_rows,
                     std::int64_t x_stride) {
  const LeafEncoder encoder = Encoder(forest);
  const std::vector<std::int32_t> want = Reference(forest, x, num_rows, x_stride);
  std::vector<std::uint8_t> want_ordinals;
  if (encoder.CheckOrdinals().ok())
    for (std::size_t i = 0; i < want.size(); ++i)
      want_ordinals.push_back(static_cast<std::uint8_t>(
          want[i] - forest.leaf_offsets[i % static_cast<std::size_t>(forest.num_trees())]));
  ForEachCpuTarget([&] {
    std::vector<std::int32_t> got(want.size(), -1);
    encoder.Encode(x.data(), num_rows, x_stride, got.data());
    EXPECT_EQ(got, want);
    if (!encoder.CheckOrdinals().ok()) return;
    std::vector<std::uint8_t> ordinals(want.size(), 255);
    encoder.EncodeOrdinals(x.data(), num_rows, x_stride, ordinals.data());
    EXPECT_EQ(ordinals, want_ordinals);
  });
}

TEST(LeafEncoderTest, MatchesTheReferenceOnEveryTarget) {
  std::mt19937 rng(kSeed);
  for (const std::int32_t num_trees : {1, 7, 8, 9, 33})
    for (const std::int32_t num_features : {1, 5, 64})
      for (const int max_depth : {0, 1, 6, 12}) {
        const Forest forest = RandomForest(rng, num_trees, num_features, max_depth);
        for (const std::int64_t num_rows : {0, 1, 2, 8, 63, 64, 65, 137}) {
          SCOPED_TRACE(std::to_string(num_trees) + " trees, " + std::to_string(num_features) +
                       " features, depth " + std::to_string(max_depth) + ", " +
                       std::to_string(num_rows) + " rows");
          ExpectReference(forest, RandomRows(rng, num_rows, num_features), num_rows, num_features);
        }
      }
}

TEST(LeafEncoderTest, TreesOfEveryRankedDepthMatch) {
  std::mt19937 rng(kSeed);
  for (int max_depth = 1; max_depth <= 9; ++max_depth)
    for (const unsigned leaf_one_in : {0U, 4U, 20U}) {
      SCOPED_TRACE("depth " + std::to_string(max_depth));
      const Forest forest = RandomForest(rng, 37, 40, max_depth, leaf_one_in, 33);
      ExpectReference(forest, RandomRows(rng, 70, 40, 33), 70, 40);
    }
}

// Thresholds per feature around the sizes of blocks and of a column, and columns around the sizes
// of the tables, up to too many for them.
TEST(LeafEncoderTest, AnyNumberOfThresholdsAndColumnsMatches) {
  std::mt19937 rng(kSeed);
  for (const std::int32_t num_features : {1, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, 400}) {
    SCOPED_TRACE(std::to_string(num_features) + " features");
    const Forest forest = RandomForest(rng, 60, num_features, 6, 0);
    ExpectReference(forest, RandomRows(rng, 40, num_features), 40, num_features);
  }
  for (const unsigned grid : {1U, 14U, 15U, 16U, 30U, 31U, 32U, 33U, 253U, 254U, 255U, 700U}) {
    SCOPED_TRACE(std::to_string(grid) + " thresholds");
    const Forest forest = RandomForest(rng, 120, 2, 7, 0, grid);
    ExpectReference(forest, RandomRows(rng, 200, 2, grid), 200, 2);
  }
}

// Trees of one split each: thresholds 0, 1, ... of feature 0, then those of feature 1.
Forest Stumps(int num_first, int num_second) {
  Forest forest;
  forest.num_features = 2;
  for (int i = 0; i < num_first + num_second; ++i) {
    const bool first = i < num_first;
    Split split{};
    split.feature = first ? 0 : 1;
    split.threshold = static_cast<float>(first ? i : i - num_first);
    split.default_left = i % 2;
    split.left = ~0;
    split.right = ~1;
    split.set = kNoSet;
    forest.splits.push_back(split);
    forest.split_offsets.push_back(i + 1);
    forest.leaf_offsets.push_back(2 * (i + 1));
  }
  return forest;
}

TEST(LeafEncoderTest, ColumnsThatFillTheirBlocksMatch) {
  // With the sentinel 47 and 239 thresholds are whole blocks: nothing lies behind the last one.
  for (const int num_first : {14, 15, 16, 31, 46, 47, 48, 63, 238, 239, 240, 254, 255})
    for (const int num_second : {0, 1, 20}) {
      SCOPED_TRACE(std::to_string(num_first) + " and " + std::to_string(num_second));
      std::vector<float> x;
      const auto last = static_cast<float>(num_first);
      for (const float value :
           {-1.0f, 0.0f, last - 2.0f, last - 1.0f, last, 1e30f,
            std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
            std::numeric_limits<float>::quiet_NaN()}) {
        x.push_back(value);
        x.push_back(value);
      }
      ExpectReference(Stumps(num_first, num_second), x, static_cast<std::int64_t>(x.size()) / 2, 2);
    }
}

TEST(LeafEncoderTest, OneDeepTreeAmongManyLeavesMatches) {
  std::mt19937 rng(kSeed);
  Forest forest = RandomForest(rng, 1, 3, 8, 0);
  for (int i = 0; i < 1000; ++i) forest.split_offsets.push_back(forest.split_offsets.back());
  for (int i = 0; i < 1000; ++i) forest.leaf_offsets.push_back(forest.leaf_offsets.back() + 1);
  ExpectReference(forest, RandomRows(rng, 9, 3), 9, 3);
}

TEST(LeafEncoderTest, CategoricalSplitsMatch) {
  std::mt19937 rng(kSeed);
  for (const int max_depth : {1, 4, 6, 7, 10})
    for (const unsigned categorical_one_in : {1U, 3U, 20U})
      for (const std::int32_t num_trees : {1, 4, 30}) {
        SCOPED_TRACE("depth " + std::to_string(max_depth) + ", " + std::to_string(num_trees) +
                     " trees");
        const Forest forest =
            RandomForest(rng, num_trees, 7, max_depth, 9, 300, categorical_one_in);
        ExpectReference(forest, RandomRows(rng, 90, 7, 300), 90, 7);
      }
}

TEST(LeafEncoderTest, TreesWithMoreLeavesThanAByteAreRefusedByName) {
  std::mt19937 rng(kSeed);
  EXPECT_TRUE(Encoder(RandomForest(rng, 3, 4, 8, 0)).CheckOrdinals().ok());
  Forest forest = RandomForest(rng, 1, 4, 3);
  const Forest larger = RandomForest(rng, 1, 4, 9, 0);
  forest.splits.insert(forest.splits.end(), larger.splits.begin(), larger.splits.end());
  forest.split_offsets.push_back(static_cast<std::int32_t>(forest.splits.size()));
  forest.leaf_offsets.push_back(forest.leaf_offsets.back() + 512);
  const Status status = Encoder(forest).CheckOrdinals();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "tree 1 has 512 leaves; ordinals of one byte hold 256");
}

TEST(LeafEncoderTest, ReadsRowsThatLieApart) {
  std::mt19937 rng(kSeed);
  const Forest forest = RandomForest(rng, 9, 5, 4);
  ExpectReference(forest, RandomRows(rng, 21, 8), 21, 8);
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
