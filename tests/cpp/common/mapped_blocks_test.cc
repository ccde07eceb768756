#include "cpp/common/mapped_blocks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

using testing::WriteTestFile;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

std::string Pattern(std::int64_t size, int seed) {
  std::string bytes(static_cast<std::size_t>(size), '\0');
  for (std::int64_t i = 0; i < size; ++i)
    bytes[static_cast<std::size_t>(i)] =
        static_cast<char>((i * 131 + std::int64_t{seed} * 17 + i / 4096) & 0xff);
  return bytes;
}

std::string AsString(const MappedBlocks& mapped) {
  return std::string(mapped.bytes().begin(), mapped.bytes().end());
}

// Files with `header` bytes in front of blocks of the given sizes, opened as one.
void ExpectBlocksBehindEachOther(std::int64_t header, const std::vector<std::int64_t>& sizes) {
  std::vector<FileBlock> blocks;
  std::string expected;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string data = Pattern(sizes[i], static_cast<int>(i));
    blocks.push_back({WriteTestFile("mapped_blocks_" + std::to_string(i),
                                    std::string(static_cast<std::size_t>(header), 'h') + data),
                      header, sizes[i]});
    expected += data;
  }
  StatusOr<MappedBlocks> mapped = MappedBlocks::Open(blocks);
  ASSERT_TRUE(mapped.ok()) << mapped.status().message();
  for (const FileBlock& block : blocks) std::remove(block.path.c_str());
  const MappedBlocks moved = std::move(mapped).value();
  EXPECT_TRUE(AsString(moved) == expected) << "header " << header;
}

TEST(MappedBlocksTest, OneBlockAtAnyOffset) {
  for (const std::int64_t header : {0, 1, 64, 4096, 5000})
    for (const std::int64_t size : {std::int64_t{1}, std::int64_t{4096}, 3 * kMiB + 5})
      ExpectBlocksBehindEachOther(header, {size});
}

TEST(MappedBlocksTest, SeveralBlocksAreOneRange) {
  ExpectBlocksBehindEachOther(4096, {8192, 4096, 77});             // mapped
  ExpectBlocksBehindEachOther(4096, {2 * kMiB, 4 * kMiB, 12345});  // mapped, huge page congruent
  ExpectBlocksBehindEachOther(64, {8192, 4096, 77});               // copied: offsets
  ExpectBlocksBehindEachOther(4096, {100, 4096, 0, 3});            // copied: sizes
}

TEST(MappedBlocksTest, LargeRangesAreCongruentToTheirFileOffsets) {
  const std::string path = WriteTestFile("mapped_blocks_huge", Pattern(4096 + 4 * kMiB, 1));
  const std::vector<FileBlock> blocks = {{path, 4096, 2 * kMiB}, {path, 4096, 4 * kMiB}};
  const StatusOr<MappedBlocks> mapped = MappedBlocks::Open(blocks);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mapped->bytes().data()) % (2 * kMiB), 4096u);
}

TEST(MappedBlocksTest, NothingIsEmpty) {
  const StatusOr<MappedBlocks> none = MappedBlocks::Open({});
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->bytes().empty());
  const std::vector<FileBlock> empty = {{WriteTestFile("mapped_blocks_empty", "ab"), 2, 0}};
  EXPECT_TRUE(MappedBlocks::Open(empty).ok());
}

TEST(MappedBlocksTest, RefusesWhatIsNotThere) {
  const std::string path = WriteTestFile("mapped_blocks_short", "0123456789");
  const auto code = [](std::vector<FileBlock> blocks) {
    return MappedBlocks::Open(blocks).status().code();
  };
  EXPECT_EQ(code({{path + "_missing", 0, 1}}), StatusCode::kNotFound);
  EXPECT_EQ(code({{::testing::TempDir(), 0, 1}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{path, 0, 11}}), StatusCode::kDataLoss);
  EXPECT_EQ(code({{path, 11, 0}}), StatusCode::kDataLoss);
  EXPECT_EQ(code({{path, -1, 2}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{path, 0, -2}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{path, INT64_MAX, INT64_MAX}}), StatusCode::kInvalidArgument);
  const std::vector<FileBlock> longer = {{path, 2, 9}};
  EXPECT_EQ(MappedBlocks::Open(longer).status().message(),
            "'" + path + "' has 10 bytes; bytes 2 to 11 are needed");
}

TEST(MappedBlocksTest, FifoIsRefusedWithoutWaitingForAWriter) {
  const std::string path = testing::TestPath("mapped_blocks_fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const std::vector<FileBlock> blocks = {{path, 0, 1}};
  EXPECT_EQ(MappedBlocks::Open(blocks).status().message(), "'" + path + "' is not a regular file");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace feedfast
