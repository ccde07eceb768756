#include "cpp/gated_mlp/peak_fma.h"

#include <gtest/gtest.h>

#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

TEST(PeakFmaTest, CountsTheOperationsOfEveryStep) {
  testing::ForEachCpuTarget([] {
    EXPECT_EQ(PeakFma(0), 0);
    EXPECT_GT(PeakFma(1), 0);
    EXPECT_EQ(PeakFma(7), 7 * PeakFma(1));
  });
}

}  // namespace
}  // namespace feedfast
