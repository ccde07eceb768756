#include "cpp/embedding_kernels/table_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

namespace feedfast::embedding_kernels {
namespace {

// Whether the system grants the pages is its own affair.
TEST(TablePagesTest, ContentStays) {
  std::vector<std::uint32_t> words((std::size_t{7} << 20) / 4);
  std::iota(words.begin(), words.end(), 1u);
  MoveToHugePages(words.data(), static_cast<std::int64_t>(words.size() * 4));
  for (std::size_t i = 0; i < words.size(); ++i) ASSERT_EQ(words[i], i + 1);
}

TEST(TablePagesTest, MemoryWithoutAWholeHugePageIsRefused) {
  const std::vector<std::uint8_t> small(4096);
  EXPECT_FALSE(MoveToHugePages(small.data(), 4096));
  EXPECT_FALSE(MoveToHugePages(nullptr, 0));
}

}  // namespace
}  // namespace feedfast::embedding_kernels
