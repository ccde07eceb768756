#include "cpp/mph/vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpp/mph/reference.h"
#include "cpp/mph/vocabulary_builder.h"
#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

std::vector<std::string> MakeKeys(std::int64_t size, const std::string& prefix) {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < size; ++i) keys.push_back(prefix + std::to_string(i));
  return keys;
}

std::vector<std::string_view> Views(const std::vector<std::string>& keys) {
  return {keys.begin(), keys.end()};
}

std::vector<std::int64_t> Lookup(const Vocabulary& vocabulary,
                                 const std::vector<std::string>& keys) {
  std::vector<std::int64_t> rows(keys.size(), -1);
  vocabulary.Lookup(Views(keys), rows);
  return rows;
}

Vocabulary BuildOrDie(const std::vector<std::string>& keys, const BuildOptions& options = {}) {
  StatusOr<Vocabulary> vocabulary = Vocabulary::Build(Views(keys), options);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status().message();
  return std::move(vocabulary).value();
}

std::string Bytes(const Vocabulary& vocabulary) {
  return {vocabulary.image().begin(), vocabulary.image().end()};
}

TEST(VocabularyTest, KnownKeysAreAPermutationAndUnknownOnesAreRejected) {
  const std::vector<std::string> unknown = MakeKeys(50'000, "urn:li:post:");
  for (const Preset preset : {Preset::kCompact, Preset::kFast})
    for (const int bits : {0, 8, 16, 32})
      for (const std::int64_t size : {0, 1, 2, 100, 4097, 20'000}) {
        SCOPED_TRACE(::testing::Message() << "bits " << bits << " size " << size);
        const std::vector<std::string> keys = MakeKeys(size, "urn:li:member:");
        BuildOptions options;
        options.preset = preset;
        options.fingerprint_bits = bits;
        const Vocabulary vocabulary = BuildOrDie(keys, options);
        EXPECT_EQ(vocabulary.size(), size);
        EXPECT_EQ(vocabulary.num_rows(), size + 1);
        ASSERT_TRUE(reference::IsPermutation(Lookup(vocabulary, keys)));
        const std::vector<std::int64_t> rows = Lookup(vocabulary, unknown);
        const auto accepted =
            rows.size() - static_cast<std::size_t>(std::count(rows.begin(), rows.end(), 0));
        // Mean plus six standard deviations of a binomial count.
        const double mean = 50'000 * std::pow(2.0, -bits);
        EXPECT_LE(static_cast<double>(accepted), mean + 6 * std::sqrt(mean) + 1);
      }
}

TEST(VocabularyTest, MoveLeavesTheSourceEmpty) {
  const std::vector<std::string> keys = MakeKeys(100, "urn:li:member:");
  Vocabulary first = BuildOrDie(keys);
  const std::vector<std::int64_t> rows = Lookup(first, keys);
  Vocabulary second(std::move(first));
  const auto expect_empty = [&](const Vocabulary& vocabulary) {
    EXPECT_EQ(vocabulary.size(), 0);  // NOLINT(clang-analyzer-cplusplus.Move)
    EXPECT_EQ(vocabulary.num_rows(), 1);
    EXPECT_TRUE(vocabulary.image().empty());
    EXPECT_EQ(Lookup(vocabulary, keys), std::vector<std::int64_t>(100, 0));
  };
  expect_empty(first);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(Lookup(second, keys), rows);
  first = std::move(second);
  expect_empty(second);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(Lookup(first, keys), rows);
}

TEST(VocabularyTest, AgreesWithTheOracleOnGivenRows) {
  std::mt19937_64 random(20'240'601);
  for (const std::int64_t highest : {3000, 5000, 1 << 20}) {
    const std::vector<std::string> keys = MakeKeys(3000, "#tag");
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < 3000; ++i) rows.push_back(highest - i);
    std::shuffle(rows.begin(), rows.end(), random);
    BuildOptions options;
    options.fingerprint_bits = 32;
    options.rows = rows;
    const Vocabulary vocabulary = BuildOrDie(keys, options);
    EXPECT_EQ(vocabulary.num_rows(), highest + 1);
    const reference::ExactVocabulary oracle(Views(keys), rows);
    const std::vector<std::string> asked = MakeKeys(4000, "#tag");
    const std::vector<std::int64_t> got = Lookup(vocabulary, asked);
    for (std::size_t i = 0; i < asked.size(); ++i) ASSERT_EQ(got[i], oracle.Lookup(asked[i]));
  }
}

TEST(VocabularyTest, AnyBytesAreAKey) {
  std::vector<std::string> keys = {
      "",  std::string(1, '\0'),     std::string(2, '\0'),     "\xff\xfe",     "a",
      "A", std::string(10'000, 'x'), std::string(10'001, 'x'), "m\xc3\xa9mbre"};
  const Vocabulary vocabulary = BuildOrDie(keys);
  EXPECT_TRUE(reference::IsPermutation(Lookup(vocabulary, keys)));
}

TEST(VocabularyTest, RepeatedAndEmptyLookups) {
  const Vocabulary vocabulary = BuildOrDie({"a", "b"});
  EXPECT_TRUE(Lookup(vocabulary, {}).empty());
  const std::vector<std::int64_t> rows = Lookup(vocabulary, std::vector<std::string>(1000, "b"));
  EXPECT_EQ(rows, std::vector<std::int64_t>(1000, rows[0]));
  EXPECT_NE(rows[0], 0);
}

TEST(VocabularyTest, BytesDependOnKeysAndSeedAlone) {
  std::vector<std::string> keys = MakeKeys(20'000, "k");
  const std::string bytes = Bytes(BuildOrDie(keys));
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(5));
  BuildOptions options;
  options.threads = 3;
  EXPECT_EQ(Bytes(BuildOrDie(keys, options)), bytes);
  options.seed = 1;
  EXPECT_NE(Bytes(BuildOrDie(keys, options)), bytes);
}

TEST(VocabularyTest, PresetsReachTheirSize) {
  const std::vector<std::string> keys = MakeKeys(200'000, "urn:li:member:");
  BuildOptions options;
  EXPECT_LT(BuildOrDie(keys, options).bits_per_key(), 1.90);
  options.preset = Preset::kFast;
  EXPECT_LT(BuildOrDie(keys, options).bits_per_key(), 2.02);
}

TEST(VocabularyTest, DuplicateKeysAreNamed) {
  std::vector<std::string> keys = MakeKeys(1000, "k");
  keys[17] = keys[900];
  EXPECT_EQ(Vocabulary::Build(Views(keys), {}).status().message(),
            "keys[17] and keys[900] are both 'k900'; keys must be distinct");
  const std::string longest(200, 'x');
  EXPECT_EQ(Vocabulary::Build(Views({longest, longest}), {}).status().message(),
            "keys[0] and keys[1] are both '" + std::string(80, 'x') +
                "...' (200 bytes); keys must be distinct");
}

TEST(VocabularyTest, BadOptionsAreNamed) {
  const std::vector<std::string> keys = {"a", "b"};
  const auto message = [&](const BuildOptions& options) {
    const Status status = Vocabulary::Build(Views(keys), options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  BuildOptions options;
  options.fingerprint_bits = 12;
  EXPECT_EQ(message(options), "fingerprint_bits = 12 is not 0, 8, 16 or 32");
  options = {};
  options.threads = 0;
  EXPECT_EQ(message(options), "threads = 0 is below 1");
  options = {};
  std::vector<std::int64_t> rows = {1};
  options.rows = rows;
  EXPECT_EQ(message(options), "rows has 1 elements for 2 keys");
  rows = {1, 0};
  options.rows = rows;
  EXPECT_EQ(message(options), "rows[1] = 0 is not in 1..2^48 - 1 (row 0 is for unknown keys)");
  rows = {7, 7};
  options.rows = rows;
  EXPECT_EQ(message(options), "rows[0] and rows[1] are both 7; rows must be distinct");
}

// Distinct keys collide under the first seed only.
void HashBadlyOnce(Span<const std::string_view> keys, std::uint64_t seed, KeyCode* codes) noexcept {
  HashKeys(keys, seed, codes);
  if (seed == 0)
    for (std::int64_t i = 0; i < keys.size(); ++i) codes[i] %= 97;
}

TEST(VocabularyTest, CollidingCodesTakeAnotherSeed) {
  std::vector<std::string> keys = MakeKeys(1000, "k");
  {
    const std::vector<std::string_view> views = Views(keys);
    const SpanKeys source(views);
    const BuildOptions options;
    const StatusOr<Vocabulary> vocabulary =
        VocabularyBuilder(source, options, &HashBadlyOnce).Build();
    ASSERT_TRUE(vocabulary.ok());
    EXPECT_NE(vocabulary->hash_seed(), 0U);
    EXPECT_TRUE(reference::IsPermutation(Lookup(vocabulary.value(), keys)));
  }
  keys[3] = keys[500];
  const std::vector<std::string_view> views = Views(keys);
  const SpanKeys source(views);
  const BuildOptions options;
  EXPECT_EQ(VocabularyBuilder(source, options, &HashBadlyOnce).Build().status().message(),
            "keys[3] and keys[500] are both 'k500'; keys must be distinct");
}

TEST(VocabularyTest, OpensAFileAndOutlivesMoves) {
  const std::vector<std::string> keys = MakeKeys(500, "k");
  const std::string bytes = Bytes(BuildOrDie(keys));
  const std::string path = testing::TestPath("vocabulary_test.ffv");
  std::ofstream(path, std::ios::binary) << bytes;
  for (const Verify verify : {Verify::kHeader, Verify::kFull}) {
    StatusOr<Vocabulary> opened = Vocabulary::Open(path, verify);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    const Vocabulary moved = std::move(opened).value();
    EXPECT_TRUE(reference::IsPermutation(Lookup(moved, keys)));
    EXPECT_EQ(Bytes(moved), bytes);
  }
  std::ofstream(path, std::ios::binary) << bytes.substr(0, 1000);
  EXPECT_EQ(Vocabulary::Open(path, Verify::kHeader).status().message(),
            "'" + path + "': vocabulary image: truncated: 1000 bytes, the header says " +
                std::to_string(bytes.size()));
  std::remove(path.c_str());
  EXPECT_EQ(Vocabulary::Open(path, Verify::kHeader).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace feedfast::mph
