// The batched lookup against the exact map, and against lookups of one key, which take the general
// way through the levels.
#include "cpp/mph/vocabulary_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpp/mph/reference.h"
#include "cpp/mph/vocabulary.h"
#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

// Sizes around the borders of groups, blocks of views and blocks of keys.
const std::vector<std::int64_t> kBatches = {0,   1,   2,   31,  32,   33,   63,  64,  65,
                                            95,  96,  97,  127, 128,  129,  255, 256, 257,
                                            300, 511, 512, 513, 1000, 4096, 4099};

std::vector<std::string_view> Views(const std::vector<std::string>& keys) {
  return {keys.begin(), keys.end()};
}

// Keys of all lengths that the hash treats differently, known and unknown ones mixed.
std::vector<std::string> MakeKeys(std::int64_t size, std::int64_t first) {
  std::vector<std::string> keys;
  for (std::int64_t i = first; i < first + size; ++i) {
    const std::string id = std::to_string(i);
    const std::size_t length = i % 97 == 0 ? 300 : static_cast<std::size_t>(i % 40);
    keys.push_back(id + std::string(length, 'x'));
  }
  return keys;
}

Vocabulary BuildOrDie(const std::vector<std::string>& keys, const BuildOptions& options) {
  StatusOr<Vocabulary> vocabulary = Vocabulary::Build(Views(keys), options);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status().message();
  return std::move(vocabulary).value();
}

std::vector<std::int64_t> OneByOne(const Vocabulary& vocabulary,
                                   const std::vector<std::string_view>& keys) {
  std::vector<std::int64_t> rows(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    vocabulary.Lookup(Span<const std::string_view>(&keys[i], 1), {&rows[i], 1});
  return rows;
}

TEST(VocabularyLookupTest, EveryTargetAndBatchSizeGivesTheRowsOfTheOracle) {
  std::mt19937_64 random(20'240'601);
  for (const std::int64_t size : {1, 40, 2000, 30'000})
    for (const int bits : {0, 8, 16, 32})
      for (const bool given_rows : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << "size " << size << " bits " << bits << " given rows " << given_rows);
        const std::vector<std::string> keys = MakeKeys(size, 0);
        std::vector<std::int64_t> rows(keys.size());
        for (std::size_t i = 0; i < rows.size(); ++i)
          rows[i] = 7 + 3 * static_cast<std::int64_t>(i);
        std::shuffle(rows.begin(), rows.end(), random);
        BuildOptions options;
        options.fingerprint_bits = bits;
        if (given_rows) options.rows = rows;
        const Vocabulary vocabulary = BuildOrDie(keys, options);

        // Half of the keys of a batch are known.
        std::vector<std::string> candidates = MakeKeys(2 * size + 100, 0);
        std::vector<std::string_view> asked;
        for (std::int64_t i = 0; i < kBatches.back(); ++i)
          asked.emplace_back(candidates[random() % candidates.size()]);
        const std::vector<std::int64_t> want = OneByOne(vocabulary, asked);
        if (given_rows) {
          const reference::ExactVocabulary oracle(Views(keys), rows);
          for (std::size_t i = 0; i < asked.size(); ++i) {
            const std::int64_t row = oracle.Lookup(asked[i]);
            if (row != 0 || bits == 32) {
              ASSERT_EQ(want[i], row);
            }
          }
        }
        testing::ForEachCpuTarget([&] {
          for (const std::int64_t batch : kBatches) {
            std::vector<std::int64_t> got(static_cast<std::size_t>(batch) + 1, -7);
            vocabulary.Lookup({asked.data(), batch}, {got.data(), batch});
            ASSERT_TRUE(std::equal(got.begin(), got.end() - 1, want.begin())) << "batch " << batch;
            ASSERT_EQ(got.back(), -7);
          }
        });
      }
}

TEST(VocabularyLookupTest, BeginsAnywhereInTheSource) {
  const std::vector<std::string> keys = MakeKeys(1500, 0);
  const Vocabulary vocabulary = BuildOrDie(keys, {});
  const std::vector<std::string_view> views = Views(keys);
  const std::vector<std::int64_t> want = OneByOne(vocabulary, views);
  const SpanKeys source(views);
  for (const std::int64_t begin : {0, 1, 31, 32, 100, 1499, 1500}) {
    std::vector<std::int64_t> got(static_cast<std::size_t>(1500 - begin));
    vocabulary.Lookup(source, begin, got);
    ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin() + begin)) << "begin " << begin;
  }
}

TEST(VocabularyLookupTest, ThreadsShareAVocabulary) {
  const std::vector<std::string> keys = MakeKeys(5000, 0);
  const Vocabulary vocabulary = BuildOrDie(keys, {});
  const std::vector<std::string_view> views = Views(keys);
  std::vector<std::vector<std::int64_t>> got(4, std::vector<std::int64_t>(keys.size()));
  std::vector<std::thread> threads;
  threads.reserve(got.size());
  for (std::vector<std::int64_t>& rows : got)
    threads.emplace_back([&] { vocabulary.Lookup(views, rows); });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<std::int64_t>& rows : got) {
    EXPECT_EQ(rows, got[0]);
    EXPECT_TRUE(reference::IsPermutation(rows));
  }
}

}  // namespace
}  // namespace feedfast::mph
