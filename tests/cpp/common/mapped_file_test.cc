#include "cpp/common/mapped_file.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

namespace feedfast {
namespace {

std::string WriteFile(const std::string& name, const std::string& content) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

TEST(MappedFileTest, MapsTheWholeFileAndOutlivesItsName) {
  const std::string path = WriteFile("mapped_file_test", "feed");
  StatusOr<MappedFile> file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  std::remove(path.c_str());
  const MappedFile moved = std::move(file).value();
  EXPECT_EQ(std::string(moved.bytes().begin(), moved.bytes().end()), "feed");
}

TEST(MappedFileTest, EmptyFileHasNoBytes) {
  const StatusOr<MappedFile> file = MappedFile::Open(WriteFile("mapped_file_empty", ""));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFileTest, MissingFileAndFolderAreErrors) {
  const std::string missing = ::testing::TempDir() + "/mapped_file_missing";
  EXPECT_EQ(MappedFile::Open(missing).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(::testing::TempDir()).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace feedfast
