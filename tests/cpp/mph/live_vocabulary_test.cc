#include "cpp/mph/live_vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpp/mph/key_hash.h"

namespace feedfast::mph {
namespace {

constexpr std::uint64_t kSeed = 20'240'601;
using Novelty = LiveVocabulary::Novelty;

std::vector<std::string> MakeKeys(std::int64_t size, const std::string& prefix) {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < size; ++i) keys.push_back(prefix + std::to_string(i));
  return keys;
}

Vocabulary MakeSnapshot(std::int64_t size, int fingerprint_bits) {
  const std::vector<std::string> keys = MakeKeys(size, "member:");
  BuildOptions options;
  options.fingerprint_bits = fingerprint_bits;
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  StatusOr<Vocabulary> snapshot = Vocabulary::Build(views, options);
  EXPECT_TRUE(snapshot.ok()) << snapshot.status().message();
  return std::move(snapshot).value();
}

std::unique_ptr<LiveVocabulary> Create(const Vocabulary& snapshot, const LiveOptions& options) {
  StatusOr<std::unique_ptr<LiveVocabulary>> live = LiveVocabulary::Create(snapshot, options);
  EXPECT_TRUE(live.ok()) << live.status().message();
  return std::move(live).value();
}

template <typename V>  // Vocabulary or LiveVocabulary
std::vector<std::int64_t> Lookup(const V& vocabulary, const std::vector<std::string>& keys) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::int64_t> rows(keys.size(), -1);
  vocabulary.Lookup(SpanKeys(views), 0, rows);
  return rows;
}

std::vector<std::int64_t> Observe(LiveVocabulary* live, const std::vector<std::string>& keys,
                                  double time, Novelty novelty = Novelty::kUnknown) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::int64_t> rows(keys.size(), -1);
  const Status status = live->Observe(SpanKeys(views), time, novelty, rows);
  EXPECT_TRUE(status.ok()) << status.message();
  return rows;
}

// Batches of many blocks, where every key is new and some are falsely accepted: each admitted key
// has a row of its own, whatever is frozen, stored or expired around it.
TEST(LiveVocabularyTest, EveryAdmittedKeyKeepsARowOfItsOwn) {
  const Vocabulary snapshot = MakeSnapshot(20'000, 8);
  const std::vector<std::string> members = MakeKeys(20'000, "member:");
  const std::vector<std::string> posts = MakeKeys(12'000, "post:");
  LiveOptions options;
  options.capacity = 20'000;
  options.min_count = 1;
  std::unique_ptr<LiveVocabulary> live = Create(snapshot, options);
  std::mt19937_64 random(kSeed);
  std::map<std::string, std::int64_t> row_of;
  for (int step = 0; step < 30; ++step) {
    // New ones are asserted to be new once, as creation events do; others are seen again.
    const auto first = posts.begin() + 400 * static_cast<std::ptrdiff_t>(step);
    const std::vector<std::string> batch(first, first + 400);
    const std::vector<std::int64_t> created = Observe(live.get(), batch, step, Novelty::kAsserted);
    for (std::size_t i = 0; i < batch.size(); ++i) row_of[batch[i]] = created[i];
    if (step % 7 == 3) {
      ASSERT_TRUE(live->Compact().ok());
    }
    if (step % 5 == 2) {
      const std::vector<std::uint8_t> image = live->Image();
      StatusOr<std::unique_ptr<LiveVocabulary>> opened = LiveVocabulary::FromImage(snapshot, image);
      ASSERT_TRUE(opened.ok()) << opened.status().message();
      ASSERT_EQ(opened.value()->Image(), image);
      live = std::move(opened).value();
    }
    std::vector<std::string> seen;
    std::vector<std::int64_t> want;
    for (int i = 0; i < 3000; ++i) {
      seen.push_back(posts[random() % row_of.size()]);
      want.push_back(row_of.at(seen.back()));
    }
    EXPECT_EQ(Observe(live.get(), seen, step), want);
    EXPECT_EQ(Lookup(*live, seen), want);
  }
  std::vector<std::int64_t> rows;
  rows.reserve(row_of.size());
  for (const auto& [key, row] : row_of) rows.push_back(row);
  std::sort(rows.begin(), rows.end());
  for (std::size_t i = 0; i < rows.size(); ++i)
    ASSERT_EQ(rows[i], 20'001 + static_cast<std::int64_t>(i));
  const LiveCounts counts = live->Counts();
  EXPECT_GT(counts.num_exceptions, 10);
  EXPECT_EQ(counts.num_rows, 32'001);
  EXPECT_EQ(counts.num_keys, 32'000);
  EXPECT_EQ(Lookup(*live, members), Lookup(snapshot, members));
}

TEST(LiveVocabularyTest, LookupsOfPartsOfASourceAgree) {
  const Vocabulary snapshot = MakeSnapshot(3000, 16);
  std::unique_ptr<LiveVocabulary> live = Create(snapshot, LiveOptions());
  std::vector<std::string> keys = MakeKeys(9000, "member:");
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(kSeed));
  Observe(live.get(), keys, 0);
  Observe(live.get(), keys, 0);
  const std::vector<std::int64_t> rows = Lookup(*live, keys);
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const SpanKeys source(views);
  for (const auto& [begin, size] : {std::pair<std::int64_t, std::int64_t>{0, 0},
                                    {0, 1},
                                    {8999, 1},
                                    {17, 4096},
                                    {100, 4097},
                                    {9000, 0}}) {
    std::vector<std::int64_t> part(static_cast<std::size_t>(size), -1);
    live->Lookup(source, begin, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), rows.begin() + begin));
  }
}

TEST(LiveVocabularyTest, BadOptionsAndTimesAreNamed) {
  const Vocabulary snapshot = MakeSnapshot(10, 16);
  LiveOptions options;
  options.capacity = -5;
  EXPECT_EQ(LiveVocabulary::Create(snapshot, options).status().message(),
            "capacity = -5 is not in 1..268435456");
  const Vocabulary bare = MakeSnapshot(10, 0);
  EXPECT_FALSE(LiveVocabulary::Create(bare, LiveOptions()).ok());
  std::unique_ptr<LiveVocabulary> live = Create(snapshot, LiveOptions());
  for (const double time : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_FALSE(live->Expire(time).ok());
    EXPECT_FALSE(live->Observe(SpanKeys({}), time, Novelty::kUnknown, {}).ok());
  }
}

// Checksums are made right again, so that everything behind them is reached.
void Reseal(std::vector<std::uint8_t>* image) {
  const Span<const std::uint8_t> bytes(*image);
  const std::uint64_t size = image->size();
  const std::uint64_t payload = Checksum(bytes.subspan(192, bytes.size() - 192));
  std::memcpy(image->data() + 16, &size, sizeof(size));
  std::memcpy(image->data() + 176, &payload, sizeof(payload));
  const std::uint64_t header = Checksum(bytes.subspan(0, 184));
  std::memcpy(image->data() + 184, &header, sizeof(header));
}

TEST(LiveVocabularyTest, AlteredImagesAreRefusedOrHarmless) {
  const Vocabulary snapshot = MakeSnapshot(2000, 8);
  LiveOptions options;
  options.capacity = 64;
  options.expire_after = 5;
  std::unique_ptr<LiveVocabulary> live = Create(snapshot, options);
  const std::vector<std::string> posts = MakeKeys(60, "post:");
  Observe(live.get(), MakeKeys(20, "post:"), 0, Novelty::kAsserted);
  Observe(live.get(), MakeKeys(20, "post:"), 0);
  Observe(live.get(), MakeKeys(40, "tag:"), 0);
  ASSERT_TRUE(live->Compact().ok());
  Observe(live.get(), posts, 4, Novelty::kAsserted);
  Observe(live.get(), MakeKeys(40, "post:"), 4, Novelty::kAsserted);
  Observe(live.get(), MakeKeys(30, "post:"), 9);
  ASSERT_TRUE(live->Expire(9.5).ok());
  const std::vector<std::uint8_t> image = live->Image();

  std::mt19937_64 random(kSeed);
  int opened = 0;
  for (int i = 0; i < 4000; ++i) {
    std::vector<std::uint8_t> altered = image;
    for (std::uint64_t n = random() % 3; n < 3; ++n) {
      // Mostly in the header and the arrays behind it, at random or of interesting size.
      const std::size_t at = random() % (random() % 2 == 0 ? std::size_t{192} : altered.size());
      constexpr std::uint8_t kBytes[] = {0, 1, 0x7f, 0x80, 0xff};
      altered[at] =
          random() % 2 == 0 ? kBytes[random() % 5] : static_cast<std::uint8_t>(random() % 256);
    }
    if (random() % 8 == 0) altered.resize(192 + random() % (altered.size() - 192));
    if (random() % 8 == 0) altered.insert(altered.end(), random() % 100, 0);
    Reseal(&altered);
    StatusOr<std::unique_ptr<LiveVocabulary>> other = LiveVocabulary::FromImage(snapshot, altered);
    if (!other.ok()) {
      EXPECT_EQ(other.status().code(), StatusCode::kDataLoss);
      continue;
    }
    ++opened;
    const std::int64_t num_rows = other.value()->Counts().num_rows;
    for (const std::int64_t row : Lookup(*other.value(), posts)) {
      ASSERT_GE(row, 0);
      ASSERT_LT(row, num_rows);
    }
    Observe(other.value().get(), posts, 10, Novelty::kAsserted);
    ASSERT_TRUE(other.value()->Expire(1000).ok());
    static_cast<void>(other.value()->Compact());  // a segment may claim rows that it has not
    static_cast<void>(other.value()->Image());
  }
  EXPECT_GT(opened, 100);
  EXPECT_LT(opened, 3900);
}

TEST(LiveVocabularyTest, LookupsAgreeWhileAnotherThreadWrites) {
  const Vocabulary snapshot = MakeSnapshot(5000, 32);
  LiveOptions options;
  options.capacity = 2000;
  options.min_count = 1;
  options.expire_after = 3;
  std::unique_ptr<LiveVocabulary> live = Create(snapshot, options);
  std::vector<std::string> keys = MakeKeys(1000, "kept:");
  Observe(live.get(), keys, 0);
  const std::vector<std::string> members = MakeKeys(4000, "member:");
  keys.insert(keys.end(), members.begin(), members.end());
  const std::vector<std::int64_t> want = Lookup(*live, keys);

  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  readers.reserve(3);
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      do {
        wrong += Lookup(*live, keys) == want ? 0 : 1;
        wrong += live->Counts().num_rows < 6001 ? 1 : 0;
      } while (!done);
    });
  // While they are read: frozen, and keys come and go in two threads.
  EXPECT_TRUE(live->Compact().ok());
  std::thread expirer([&] {
    for (int time = 0; time < 60; ++time) {
      EXPECT_TRUE(live->Expire(time).ok());
      static_cast<void>(live->TakeEvictedRows());
      static_cast<void>(live->Image());
    }
  });
  for (int time = 0; time < 60; ++time) {
    Observe(live.get(), MakeKeys(300, std::to_string(time) + ":"), time);
    if (time % 20 == 19) {
      EXPECT_TRUE(live->Compact().ok());
    }
  }
  expirer.join();
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace feedfast::mph
