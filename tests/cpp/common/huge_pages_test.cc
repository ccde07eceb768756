#include "cpp/common/huge_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace feedfast {
namespace {

// Whether the system has huge pages to give is not for a test to say.
TEST(HugePagesTest, AdviceKeepsTheBytesAndTheCountIsBounded) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(4 * kHugePageBytes), 7);
  // From anywhere in a page on.
  const Span<const std::uint8_t> part =
      Span<const std::uint8_t>(bytes).subspan(100, 3 * kHugePageBytes);
  AdviseHugePages(part);
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 7), 4 * kHugePageBytes);
  EXPECT_GE(CountHugePageBytes(part), 0);
  EXPECT_LE(CountHugePageBytes(part), part.size());
}

TEST(HugePagesTest, NoBytesAreNoError) {
  AdviseHugePages({});
  EXPECT_EQ(CountHugePageBytes({}), 0);
}

}  // namespace
}  // namespace feedfast
