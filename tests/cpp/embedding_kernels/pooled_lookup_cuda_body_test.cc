#include "cpp/embedding_kernels/pooled_lookup_cuda_body.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cpp/embedding_kernels/pooled_lookup.h"
#include "cpp/embedding_kernels/reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumRows = 61;

template <RowFormat format>
void RunGrid(const PooledLookupCudaArgs& args, std::int64_t num_blocks) {
  for (std::int64_t block = 0; block < num_blocks; ++block)
    for (int bag = 0; bag < kCudaBagsPerBlock; ++bag)
      for (int lane = 0; lane < kCudaLanes; ++lane)
        PooledLookupBody<format>(args, block, num_blocks, lane, bag);
}

std::vector<float> RunOnHost(const Table& table, const Bags& bags, Pooling pooling,
                             std::int64_t num_blocks) {
  std::vector<float> out(static_cast<std::size_t>(bags.num_bags() * table.dim), NAN);
  const PooledLookupCudaArgs args{static_cast<const std::uint8_t*>(table.data),
                                  table.dim,
                                  table.format,
                                  bags.values.indexes(),
                                  bags.offsets.indexes(),
                                  bags.weights_or_null(),
                                  pooling,
                                  bags.num_bags(),
                                  out.data(),
                                  table.dim};
  switch (table.format) {
    case RowFormat::kFloat32:
      RunGrid<RowFormat::kFloat32>(args, num_blocks);
      break;
    case RowFormat::kFloat16:
      RunGrid<RowFormat::kFloat16>(args, num_blocks);
      break;
    case RowFormat::kBfloat16:
      RunGrid<RowFormat::kBfloat16>(args, num_blocks);
      break;
    case RowFormat::kInt8Rowwise:
      RunGrid<RowFormat::kInt8Rowwise>(args, num_blocks);
      break;
    case RowFormat::kInt4Rowwise:
      RunGrid<RowFormat::kInt4Rowwise>(args, num_blocks);
      break;
  }
  return out;
}

TEST(PooledLookupCudaBodyTest, EveryThreadOfAnyGridTogetherMatchesTheReference) {
  std::mt19937 rng(kSeed);
  for (const std::int64_t dim : {1, 7, 32, 33, 100})
    for (const RowFormat format : kFormats) {
      const OwnedTable table = RandomTable(format, kNumRows, dim, rng);
      const OwnedBags bags = RandomBags(kNumRows, 20, rng);
      for (const Pooling pooling : kPoolings)
        for (const Bags& view : {bags.View(), bags.WeightedView()}) {
          const std::vector<double> want =
              reference::PooledLookup(table.decoded, dim, view, pooling);
          const std::vector<float> got = RunOnHost(table.view, view, pooling, 1);
          // As in pooled_lookup_test.cc.
          const double tolerance = IsQuantized(format) ? 2e-3 : 1e-4;
          for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance);
          for (const std::int64_t num_blocks : {2, 4, 9})
            ASSERT_EQ(RunOnHost(table.view, view, pooling, num_blocks), got);
        }
    }
}

TEST(PooledLookupCudaBodyTest, HasTheBitsOfTheTargetsWithFma) {
  const std::vector<CpuTarget> supported = SupportedCpuTargets();
  if (supported.size() == 1) GTEST_SKIP() << "this machine has no CPU target with FMA";
  std::mt19937 rng(kSeed);
  const CpuTarget before = ActiveCpuTarget();
  ASSERT_TRUE(ForceCpuTarget(supported.back()).ok());
  for (const RowFormat format : kFormats) {
    const std::int64_t dim = 40;
    const OwnedTable table = RandomTable(format, kNumRows, dim, rng);
    const OwnedBags bags = RandomBags(kNumRows, 20, rng);
    for (const Pooling pooling : kPoolings) {
      const Bags view = bags.WeightedView();
      std::vector<float> want(static_cast<std::size_t>(view.num_bags() * dim));
      PooledLookup(table.view, view, pooling, want.data(), dim, 1);
      EXPECT_EQ(RunOnHost(table.view, view, pooling, 3), want);
    }
  }
  ASSERT_TRUE(ForceCpuTarget(before).ok());
}

}  // namespace
}  // namespace feedfast::embedding_kernels
