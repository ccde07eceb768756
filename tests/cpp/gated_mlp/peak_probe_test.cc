#include "cpp/gated_mlp/peak_probe.h"

#include <gtest/gtest.h>

#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

TEST(PeakProbeTest, CountsTheOperationsOfEveryStep) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8}) {
      EXPECT_EQ(PeakProbe(precision, 0), 0);
      EXPECT_GT(PeakProbe(precision, 1), 0);
      EXPECT_EQ(PeakProbe(precision, 7), 7 * PeakProbe(precision, 1));
    }
  });
}

}  // namespace
}  // namespace feedfast
