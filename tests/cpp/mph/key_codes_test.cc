#include "cpp/mph/key_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

constexpr std::uint64_t kSeed = 12;

std::vector<std::string> MakeKeys(std::int64_t size, const std::string& prefix) {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < size; ++i) keys.push_back(prefix + std::to_string(i));
  return keys;
}

std::vector<KeyCode> CodesOf(const std::vector<std::string>& keys, int threads = 1) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<KeyCode> codes(keys.size());
  HashAll(SpanKeys(views), kSeed, threads, codes);
  return codes;
}

TEST(KeyCodesTest, ImagesOfCodesAreThoseOfTheKeysAndFindTheSameRows) {
  for (const std::int64_t size : {0, 1, 7, 100, 30'000})
    for (const int bits : {0, 8, 16, 32}) {
      SCOPED_TRACE(::testing::Message() << "size " << size << " bits " << bits);
      const std::vector<std::string> keys = MakeKeys(size, "k");
      const std::vector<std::string_view> views(keys.begin(), keys.end());
      BuildOptions options;
      options.seed = kSeed;
      options.fingerprint_bits = bits;
      const StatusOr<Vocabulary> of_keys = Vocabulary::Build(views, options);
      ASSERT_TRUE(of_keys.ok());
      std::vector<KeyCode> codes = CodesOf(keys);
      std::reverse(codes.begin(), codes.end());
      const StatusOr<Vocabulary> of_codes = BuildOfCodes(codes, options);
      ASSERT_TRUE(of_codes.ok()) << of_codes.status().message();
      EXPECT_TRUE(std::equal(of_codes->image().begin(), of_codes->image().end(),
                             of_keys->image().begin(), of_keys->image().end()));

      std::vector<std::string> asked = MakeKeys(size + 50, "k");
      for (const std::string& key : MakeKeys(333, "unknown ")) asked.push_back(key);
      const std::vector<std::string_view> asked_views(asked.begin(), asked.end());
      std::vector<std::int64_t> expected(asked.size());
      of_keys->Lookup(asked_views, expected);
      testing::ForEachCpuTarget([&] {
        std::vector<std::int64_t> rows(asked.size(), -1);
        of_codes->LookupCodes(CodesOf(asked), rows);
        EXPECT_EQ(rows, expected);
      });
    }
}

TEST(KeyCodesTest, ThreadsDoNotChangeCodes) {
  const std::vector<std::string> keys = MakeKeys(100'000, "key ");
  EXPECT_EQ(CodesOf(keys, 3), CodesOf(keys));
}

TEST(KeyCodesTest, RepeatedCodesAreRefused) {
  const std::vector<KeyCode> codes = {5, 6, 5};
  const StatusOr<Vocabulary> vocabulary = BuildOfCodes(codes, {});
  ASSERT_FALSE(vocabulary.ok());
  EXPECT_EQ(vocabulary.status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace feedfast::mph
