#include "cpp/allreduce/fusion_plan.h"

#include <gtest/gtest.h>

#include <limits>

namespace feedfast::allreduce {
namespace {

using Shapes = std::vector<std::vector<std::int64_t>>;

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

FusionPlan Plan(const Shapes& shapes, std::int64_t item_bytes) {
  StatusOr<FusionPlan> plan = FusionPlan::Create(shapes, item_bytes);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return std::move(plan).value();
}

std::string ErrorOf(const Shapes& shapes) {
  const StatusOr<FusionPlan> plan = FusionPlan::Create(shapes, 4);
  EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
  return plan.status().message();
}

TEST(FusionPlanTest, GradientsStartOnCacheLinesInTheirOrder) {
  const FusionPlan plan = Plan({{17}, {}, {3, 0}, {4, 4}, {1, 1}}, sizeof(float));
  const std::int64_t offsets[] = {0, 32, 48, 48, 64};
  const std::int64_t sizes[] = {17, 1, 0, 16, 1};
  ASSERT_EQ(plan.slots().size(), 5);
  for (std::int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(plan.slots()[i].offset, offsets[i]);
    EXPECT_EQ(plan.slots()[i].size, sizes[i]);
  }
  EXPECT_EQ(plan.num_elements(), 80);
  EXPECT_EQ(Plan({{17}, {1}}, sizeof(double)).num_elements(), 32);
}

TEST(FusionPlanTest, NoGradientsMakeAnEmptyArray) {
  EXPECT_EQ(Plan({}, 4).num_elements(), 0);
  EXPECT_EQ(Plan({{0}, {5, 0}}, 4).num_elements(), 0);
}

TEST(FusionPlanTest, ImpossibleShapesAreNamed) {
  EXPECT_EQ(ErrorOf({{2}, {3, -1}}), "shapes[1][1] = -1; a dimension must be >= 0");
  const std::string too_large =
      "shapes[1] makes the fused array larger than 4611686018427387904 bytes";
  EXPECT_EQ(ErrorOf({{2}, {kLargest}}), too_large);
  EXPECT_EQ(ErrorOf({{2}, {std::int64_t{1} << 31, std::int64_t{1} << 31, 4}}), too_large);
  EXPECT_EQ(ErrorOf({{std::int64_t{1} << 59}, {std::int64_t{1} << 60}}), too_large);
  EXPECT_EQ(Plan({{kLargest, kLargest, 0}}, 4).num_elements(), 0);
}

TEST(FusionPlanTest, FormatsDoNotChangeTheLayout) {
  const Shapes shapes = {{17}, {3}};
  const std::vector<ItemFormat> formats = {ItemFormat::kFloat16, ItemFormat::kFused};
  const FusionPlan plan = FusionPlan::Create(shapes, 4, formats).value();
  EXPECT_EQ(plan.slots()[1].offset, 32);
  EXPECT_EQ(plan.slots()[0].format, ItemFormat::kFloat16);
  EXPECT_EQ(plan.slots()[1].format, ItemFormat::kFused);
  const auto error = [](const Shapes& of, std::int64_t item_bytes,
                        const std::vector<ItemFormat>& given) {
    return FusionPlan::Create(of, item_bytes, given).status().message();
  };
  EXPECT_EQ(error({{1}}, 4, formats), "2 formats for 1 gradients");
  EXPECT_EQ(error(shapes, 8, formats),
            "formats[0] has 16 bits; sums of it are float32, not 8 bytes");
}

}  // namespace
}  // namespace feedfast::allreduce
