#include "cpp/embedding_kernels/pooled_lookup.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumRows = 97;

std::vector<float> Lookup(const Table& table, const Bags& bags, Pooling pooling, int threads = 1) {
  // Poisoned, so that an element nobody wrote shows.
  std::vector<float> out(static_cast<std::size_t>(bags.num_bags() * table.dim), NAN);
  PooledLookup(table, bags, pooling, out.data(), table.dim, threads);
  return out;
}

bool SameBits(const float* a, const float* b, std::int64_t size) {
  return std::memcmp(a, b, static_cast<std::size_t>(size) * sizeof(float)) == 0;
}

TEST(PooledLookupTest, MatchesTheReference) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const std::int64_t dim : {1, 4, 7, 16, 33, 64, 100, 128, 129, 300})
      for (const RowFormat format : kFormats) {
        const OwnedTable table = RandomTable(format, kNumRows, dim, rng);
        const OwnedBags bags = RandomBags(kNumRows, 20, rng);
        for (const Pooling pooling : kPoolings)
          for (const Bags& view : {bags.View(), bags.WeightedView()}) {
            SCOPED_TRACE(::testing::Message() << "dim " << dim << " format " << int(format)
                                              << " pooling " << int(pooling));
            ASSERT_TRUE(ValidateBags(view, kNumRows).ok());
            const std::vector<float> got = Lookup(table.view, view, pooling);
            const std::vector<double> want =
                reference::PooledLookup(table.decoded, dim, view, pooling);
            // float32 sums of up to 300 terms of about 1; an int8 table's codes and biases sum to
            // some hundreds each before they cancel.
            const double tolerance = IsQuantized(format) ? 2e-3 : 1e-4;
            for (std::size_t i = 0; i < want.size(); ++i)
              ASSERT_NEAR(got[i], want[i], tolerance) << i;
          }
      }
  });
}

TEST(PooledLookupTest, EmptyBatchWritesNothingAndEmptyTableServesEmptyBags) {
  testing::ForEachCpuTarget([] {
    const std::vector<std::int64_t> none = {0};
    const std::vector<std::int64_t> two_empty = {0, 0, 0};
    const Table table{nullptr, 0, 5, RowFormat::kFloat32};
    EXPECT_TRUE(Lookup(table, {{}, none}, Pooling::kMean).empty());
    EXPECT_EQ(Lookup(table, {{}, two_empty}, Pooling::kMean), std::vector<float>(10, 0.0f));
  });
}

TEST(PooledLookupTest, WeightsThatCancelYieldZeros) {
  testing::ForEachCpuTarget([] {
    const std::vector<float> rows = {1, 2, 3, 4};
    const std::vector<std::int64_t> values = {0, 1};
    const std::vector<std::int64_t> offsets = {0, 2};
    const std::vector<float> weights = {1.5f, -1.5f};
    const Table table{rows.data(), 2, 2, RowFormat::kFloat32};
    EXPECT_EQ(Lookup(table, {values, offsets, Span<const float>(weights)}, Pooling::kMean),
              (std::vector<float>{0, 0}));
    EXPECT_EQ(Lookup(table, {values, offsets, Span<const float>(weights)}, Pooling::kSum),
              (std::vector<float>{-3, -3}));
  });
}

TEST(PooledLookupTest, WritesOnlyItsColumnsOfAStridedOutput) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    const std::int64_t dim = 19;
    const std::int64_t stride = 41;
    const OwnedTable table = RandomTable(RowFormat::kFloat32, kNumRows, dim, rng);
    const OwnedBags bags = RandomBags(kNumRows, 9, rng);
    const std::vector<float> dense = Lookup(table.view, bags.View(), Pooling::kMean);
    std::vector<float> wide(static_cast<std::size_t>(bags.View().num_bags() * stride), -7.0f);
    PooledLookup(table.view, bags.View(), Pooling::kMean, wide.data() + 11, stride, 1);
    for (std::int64_t b = 0; b < bags.View().num_bags(); ++b)
      for (std::int64_t j = 0; j < stride; ++j) {
        const bool ours = j >= 11 && j < 11 + dim;
        EXPECT_EQ(wide[static_cast<std::size_t>(b * stride + j)],
                  ours ? dense[static_cast<std::size_t>(b * dim + j - 11)] : -7.0f);
      }
  });
}

TEST(PooledLookupTest, BitsDependOnTheBagAlone) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const RowFormat format : kFormats)
      for (const std::int64_t dim : {7, 64, 130}) {
        const OwnedTable table = RandomTable(format, kNumRows, dim, rng);
        const OwnedBags bags = RandomBags(kNumRows, 200, rng);
        const Bags all = bags.WeightedView();
        const std::vector<float> once = Lookup(table.view, all, Pooling::kSqrtN);
        for (const int threads : {2, 3, 8})
          EXPECT_TRUE(SameBits(Lookup(table.view, all, Pooling::kSqrtN, threads).data(),
                               once.data(), all.num_bags() * dim));
        for (std::int64_t b = 0; b < all.num_bags(); ++b) {
          const std::int64_t begin = all.offsets[b];
          const std::int64_t length = all.offsets[b + 1] - begin;
          const std::vector<std::int64_t> offsets = {0, length};
          const Bags alone{all.values.subspan(begin, length), offsets,
                           all.weights->subspan(begin, length)};
          EXPECT_TRUE(SameBits(Lookup(table.view, alone, Pooling::kSqrtN).data(),
                               once.data() + b * dim, dim));
        }
      }
  });
}

TEST(PooledLookupTest, Int32IdsAndOffsetsGiveTheSameBits) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const RowFormat format : kFormats) {
      const OwnedTable table = RandomTable(format, kNumRows, 24, rng);
      OwnedBags bags = RandomBags(kNumRows, 20, rng);
      const std::vector<float> want = Lookup(table.view, bags.WeightedView(), Pooling::kMean);
      for (const bool narrow_values : {false, true})
        for (const bool narrow_offsets : {false, true}) {
          const Bags view = bags.View32(narrow_values, narrow_offsets);
          ASSERT_TRUE(ValidateBags(view, kNumRows).ok());
          EXPECT_EQ(Lookup(table.view, view, Pooling::kMean), want);
        }
    }
  });
}

TEST(PooledLookupTest, UnitWeightsGiveTheBitsOfNoWeights) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const RowFormat format : kFormats) {
      const OwnedTable table = RandomTable(format, kNumRows, 24, rng);
      OwnedBags bags = RandomBags(kNumRows, 20, rng);
      bags.weights.assign(bags.values.size(), 1.0f);
      for (const Pooling pooling : kPoolings)
        EXPECT_EQ(Lookup(table.view, bags.View(), pooling),
                  Lookup(table.view, bags.WeightedView(), pooling));
    }
  });
}

}  // namespace
}  // namespace feedfast::embedding_kernels
