#include "cpp/common/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

namespace feedfast {
namespace {

TEST(AlignedBufferTest, IsZeroedAndStartsACacheLine) {
  const AlignedBuffer<float> buffer(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kCacheLineBytes, 0u);
  for (const float value : buffer.span()) EXPECT_EQ(value, 0.0f);
}

TEST(AlignedBufferTest, BigOnesAreZeroedAndStartAHugePage) {
  AlignedBuffer<std::int64_t> buffer(3 * kHugePageBytes / 8 + 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kHugePageBytes, 0u);
  for (const std::int64_t value : buffer.span()) ASSERT_EQ(value, 0);
  buffer = AlignedBuffer<std::int64_t>(1);  // freed as it was allocated
  EXPECT_EQ(buffer[0], 0);
}

TEST(AlignedBufferTest, MoveLeavesTheSourceEmpty) {
  AlignedBuffer<int> first(3);
  first[2] = 7;
  AlignedBuffer<int> second(std::move(first));
  EXPECT_EQ(second.size(), 3);
  EXPECT_EQ(second[2], 7);
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_TRUE(first.span().empty());
  EXPECT_EQ(first.data(), nullptr);
  first = std::move(second);
  EXPECT_EQ(first.size(), 3);
  EXPECT_EQ(first[2], 7);
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_TRUE(second.span().empty());
}

}  // namespace
}  // namespace feedfast
