#include "cpp/common/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <utility>

#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

using testing::WriteTestFile;

TEST(MappedFileTest, MapsTheWholeFileAndOutlivesItsName) {
  const std::string path = WriteTestFile("mapped_file_test", "feed");
  StatusOr<MappedFile> file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  std::remove(path.c_str());
  const MappedFile moved = std::move(file).value();
  EXPECT_EQ(std::string(moved.bytes().begin(), moved.bytes().end()), "feed");
}

TEST(MappedFileTest, EmptyFileHasNoBytes) {
  const std::string path = WriteTestFile("mapped_file_empty", "");
  const StatusOr<MappedFile> file = MappedFile::Open(path);
  std::remove(path.c_str());
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFileTest, MissingFileAndFolderAreErrors) {
  const std::string missing = testing::TestPath("mapped_file_missing");
  EXPECT_EQ(MappedFile::Open(missing).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(::testing::TempDir()).status().code(), StatusCode::kInvalidArgument);
}

TEST(MappedFileTest, FifoIsRefusedWithoutWaitingForAWriter) {
  const std::string path = testing::TestPath("mapped_file_fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(path).status().message(), "'" + path + "' is not a regular file");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace feedfast
