#include "cpp/mph/external_builder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "cpp/mph/vocabulary.h"
#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

std::vector<std::string> MakeKeys(std::int64_t size) {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < size; ++i) keys.push_back("k" + std::to_string(i));
  return keys;
}

std::vector<std::string_view> Views(const std::vector<std::string>& keys) {
  return {keys.begin(), keys.end()};
}

// Distinct keys collide under the first seed only.
void HashBadlyOnce(Span<const std::string_view> keys, std::uint64_t seed, KeyCode* codes) noexcept {
  HashKeys(keys, seed, codes);
  if (seed == 0)
    for (std::int64_t i = 0; i < keys.size(); ++i) codes[i] %= 97;
}

// Adds the keys in two halves and returns what Finish says.
Status Build(const std::vector<std::string>& keys, const ExternalOptions& options,
             VocabularyBuilder::HashFunction hash, const std::string& path) {
  StatusOr<std::unique_ptr<ExternalBuilder>> builder = ExternalBuilder::Create(options, hash);
  if (!builder.ok()) return builder.status();
  const std::vector<std::string_view> views = Views(keys);
  const Span<const std::string_view> all(views);
  const std::int64_t half = all.size() / 2;
  for (const Span<const std::string_view> part :
       {all.subspan(0, half), all.subspan(half, all.size() - half)})
    FEEDFAST_RETURN_IF_ERROR(builder.value()->Add(SpanKeys(part), {}));
  return builder.value()->Finish(path);
}

ExternalOptions Options() {
  ExternalOptions options;
  options.buffer_bytes = kMinExternalBuffer;
  options.spill_folder = ::testing::TempDir();
  return options;
}

TEST(ExternalBuilderTest, CollidingCodesTakeAnotherSeedAsInMemory) {
  std::vector<std::string> keys = MakeKeys(1000);
  const std::string path = testing::TestPath("external.ffv");
  const Status status = Build(keys, Options(), &HashBadlyOnce, path);
  ASSERT_TRUE(status.ok()) << status.message();
  std::ifstream file(path, std::ios::binary);
  const std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::remove(path.c_str());

  const std::vector<std::string_view> views = Views(keys);
  const SpanKeys source(views);
  const BuildOptions options;
  const StatusOr<Vocabulary> expected = VocabularyBuilder(source, options, &HashBadlyOnce).Build();
  ASSERT_TRUE(expected.ok());
  EXPECT_NE(expected->hash_seed(), 0U);
  EXPECT_EQ(image, std::string(expected->image().begin(), expected->image().end()));

  keys[3] = keys[500];
  EXPECT_EQ(Build(keys, Options(), &HashBadlyOnce, path).message(),
            "keys[3] and keys[500] are both 'k500'; keys must be distinct");
  std::remove(path.c_str());
}

TEST(ExternalBuilderTest, KeysOfAnyLengthAreSpilled) {
  std::vector<std::string> keys = {"", std::string(3'000'000, 'x'), std::string(3'000'001, 'x'),
                                   std::string(1, '\0')};
  keys.push_back(keys[2]);
  const std::string path = testing::TestPath("long.ffv");
  EXPECT_EQ(Build(keys, Options(), &HashKeys, path).message(),
            "keys[2] and keys[4] are both '" + std::string(80, 'x') +
                "...' (3000001 bytes); keys must be distinct");
  std::remove(path.c_str());
}

TEST(ExternalBuilderTest, NothingComesAfterFinish) {
  const std::string path = testing::TestPath("finished.ffv");
  StatusOr<std::unique_ptr<ExternalBuilder>> builder =
      ExternalBuilder::Create(Options(), &HashKeys);
  ASSERT_TRUE(builder.ok());
  ASSERT_TRUE(builder.value()->Finish(path).ok());
  std::remove(path.c_str());
  const std::vector<std::string_view> keys = {"a"};
  EXPECT_EQ(builder.value()->Add(SpanKeys(keys), {}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(builder.value()->Finish(path).code(), StatusCode::kFailedPrecondition);
}

TEST(ExternalBuilderTest, AFileThatExistsIsNotTouched) {
  const std::string path = testing::WriteTestFile("exists.ffv", "content");
  EXPECT_EQ(Build(MakeKeys(10), Options(), &HashKeys, path).message(),
            "cannot create '" + path + "': File exists");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace feedfast::mph
