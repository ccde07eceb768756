#include "cpp/common/cpu_target.h"

#include <gtest/gtest.h>

namespace feedfast {
namespace {

TEST(CpuTargetTest, NamesRoundTrip) {
  for (int i = 0; i < kNumCpuTargets; ++i) {
    const auto target = static_cast<CpuTarget>(i);
    const StatusOr<CpuTarget> parsed = ParseCpuTarget(CpuTargetName(target));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed.value(), target);
  }
}

TEST(CpuTargetTest, UnknownNameIsAnErrorThatListsTheAllowedOnes) {
  const StatusOr<CpuTarget> parsed = ParseCpuTarget("sse9");
  EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(parsed.status().message(),
            "CPU target 'sse9' is unknown; allowed: scalar, avx2, avx512, avx512_bf16");
}

TEST(CpuTargetTest, ScalarIsAlwaysSupportedAndTargetsAscend) {
  const auto supported = SupportedCpuTargets();
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(supported.front(), CpuTarget::kScalar);
  for (std::size_t i = 1; i < supported.size(); ++i) EXPECT_LT(supported[i - 1], supported[i]);
}

TEST(CpuTargetTest, TableFollowsTheForcedTarget) {
  const KernelTable<int> table{0, 1, 2, 3};
  const CpuTarget before = ActiveCpuTarget();
  for (const CpuTarget target : SupportedCpuTargets()) {
    ASSERT_TRUE(ForceCpuTarget(target).ok());
    EXPECT_EQ(table.Get(), static_cast<int>(target));
  }
  ASSERT_TRUE(ForceCpuTarget(before).ok());
}

}  // namespace
}  // namespace feedfast
