#include "cpp/mph/perfect_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "cpp/mph/perfect_hash_builder.h"
#include "cpp/mph/perfect_hash_seed_kernel.h"
#include "cpp/mph/reference.h"
#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

std::vector<KeyCode> RandomCodes(std::int64_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<KeyCode> codes(static_cast<std::size_t>(size));
  for (KeyCode& code : codes) code = random();
  return codes;
}

StatusOr<PerfectHashParts> BuildParts(Span<const KeyCode> codes, const PerfectHashOptions& options,
                                      int threads = 1) {
  BuildMonitor monitor;
  return BuildPerfectHash(codes, options, threads, &monitor);
}

// Slots of all codes, plus one; evaluated on encoded parts.
std::vector<std::int64_t> SlotsPlusOne(Span<const KeyCode> codes, const PerfectHashParts& parts,
                                       const PerfectHashOptions& options) {
  const MonotoneShape shape(static_cast<std::int64_t>(parts.holes.size()), codes.size());
  std::vector<std::uint8_t> low(static_cast<std::size_t>(shape.low_bytes));
  std::vector<std::uint8_t> high(static_cast<std::size_t>(shape.high_words * 8));
  std::vector<std::uint8_t> samples(static_cast<std::size_t>(shape.num_samples * 8));
  EncodeMonotone(parts.holes, shape, low.data(), high.data(), samples.data());
  std::vector<std::uint8_t> seeds(3);  // readable bytes before the seeds
  seeds.insert(seeds.end(), parts.seeds.begin(), parts.seeds.end());
  const PerfectHash hash(codes.size(), options.format(), parts.levels, seeds.data() + 3,
                         MonotoneSequence(shape, low.data(), high.data(), samples.data()));
  std::vector<std::int64_t> slots;
  for (const KeyCode code : codes) slots.push_back(hash.Slot(code) + 1);
  return slots;
}

TEST(PerfectHashTest, IsABijectionForEverySizeAndSeed) {
  for (int seed_bits = kMinSeedBits; seed_bits <= kMaxSeedBits; ++seed_bits)
    for (const std::int64_t size : {1, 2, 3, 17, 127, 128, 129, 500, 1023, 5000, 20'000}) {
      SCOPED_TRACE(::testing::Message() << "seed_bits " << seed_bits << " size " << size);
      std::vector<KeyCode> codes = RandomCodes(size, static_cast<std::uint64_t>(size));
      SortCodes(codes, 1);
      const PerfectHashOptions options = {seed_bits, 4.75};
      const StatusOr<PerfectHashParts> parts = BuildParts(codes, options);
      ASSERT_TRUE(parts.ok()) << parts.status().message();
      ASSERT_TRUE(reference::IsPermutation(SlotsPlusOne(codes, parts.value(), options)));
    }
}

// Few keys per bucket make many chunks of few keys, so that borders are met.
TEST(PerfectHashTest, IsTheSameOnEveryTargetAndNumberOfThreads) {
  const PerfectHashOptions options = {/*seed_bits=*/9, /*keys_per_bucket=*/1};
  std::vector<KeyCode> codes = RandomCodes(200'000, 11);
  SortCodes(codes, 1);
  const StatusOr<PerfectHashParts> expected = BuildParts(codes, options);
  ASSERT_TRUE(expected.ok());
  EXPECT_TRUE(reference::IsPermutation(SlotsPlusOne(codes, expected.value(), options)));
  testing::ForEachCpuTarget([&] {
    for (const int threads : {1, 4}) {
      const StatusOr<PerfectHashParts> parts = BuildParts(codes, options, threads);
      ASSERT_TRUE(parts.ok());
      EXPECT_EQ(parts->seeds, expected->seeds);
      EXPECT_EQ(parts->holes, expected->holes);
    }
  });
}

TEST(PerfectHashTest, CodesThatShareTheirHighBitsAreBumpedTogether) {
  std::vector<KeyCode> codes;
  for (KeyCode i = 0; i < 1000; ++i) codes.push_back(i);
  const PerfectHashOptions options;
  const StatusOr<PerfectHashParts> parts = BuildParts(codes, options);
  // One bucket holds all keys and is bumped; the next level has mixed codes and succeeds.
  ASSERT_TRUE(parts.ok());
  EXPECT_TRUE(reference::IsPermutation(SlotsPlusOne(codes, parts.value(), options)));
}

TEST(PerfectHashTest, GivesUpWhenNoBucketCanBePlaced) {
  std::vector<KeyCode> codes = RandomCodes(100'000, 9);
  SortCodes(codes, 1);
  EXPECT_EQ(BuildParts(codes, {10, /*keys_per_bucket=*/10'000}).status().code(),
            StatusCode::kFailedPrecondition);
}

// The formulas of docs/formats/vocabulary.md, version 2, once more.
TEST(PerfectHashTest, BucketsFollowTheParabola) {
  const Level level({1000, 32}, PerfectHashOptions().format(), 0, 0);
  double expected_begin = 0;
  std::int64_t bucket = 0;
  for (std::uint64_t i = 0; i < 1 << 16; ++i) {
    const std::int64_t next = level.Bucket(i << 48);
    ASSERT_GE(next, bucket);
    ASSERT_LT(next, 32);
    if (next != bucket) {
      const double x = static_cast<double>(i % (1 << 15)) / (1 << 15);
      if (x != 0)
        expected_begin = 16 * (0.55 * x + 0.45 * x * x) + 16 * static_cast<double>(i >> 15);
      EXPECT_NEAR(static_cast<double>(next), expected_begin, x == 0 ? 17 : 0.01);
    }
    bucket = next;
  }
  EXPECT_EQ(bucket, 31);
}

// Seeds by the definition, one at a time.
std::uint32_t NaiveSeed(const SeedQuery& query) {
  const auto occupied = [&](std::uint32_t slot) {
    return ((query.window[slot >> 3] >> (slot & 7)) & 1) != 0;
  };
  std::uint32_t best = 0;
  std::uint64_t best_sum = ~std::uint64_t{0};
  for (std::uint32_t seed = 1; seed < 1U << (query.group_bits + kShiftBits); ++seed) {
    const std::uint32_t group = seed & ((1U << query.group_bits) - 1);
    std::set<std::uint32_t> slots;
    std::uint64_t sum = 0;
    bool works = true;
    for (int i = 0; i < query.size && works; ++i) {
      const std::uint32_t slot =
          query.slices[i] +
          ((query.codes[i] * query.multipliers[group]) >> (32 - query.offset_bits)) +
          (seed >> query.group_bits);
      sum += slot;
      works = !occupied(slot) && slots.insert(slot).second;
    }
    if (works && sum < best_sum) {
      best = seed;
      best_sum = sum;
    }
  }
  return best;
}

TEST(FindSeedTest, FindsTheSeedOfTheDefinition) {
  std::mt19937_64 random(5);
  std::vector<std::uint32_t> multipliers(kMaxSearchGroups);
  for (std::uint32_t& multiplier : multipliers) multiplier = static_cast<std::uint32_t>(random());
  int found = 0;
  for (int round = 0; round < 600; ++round) {
    const std::uint64_t load = random() % 100;
    std::vector<std::uint8_t> window(kWindowBytes);
    for (std::uint8_t& byte : window)
      for (int bit = 0; bit < 8; ++bit)
        byte = static_cast<std::uint8_t>(byte | (random() % 100 < load ? 1 << bit : 0));
    const auto size = static_cast<int>(1 + random() % (round % 10 == 0 ? kMaxBucketKeys : 12));
    std::vector<std::uint32_t> codes;
    std::vector<std::uint32_t> slices;
    const int offset_bits = round % 2 == 0 ? 10 : 5;
    const std::uint32_t widest = kWindowSlots - (1 << offset_bits) + 1;
    for (int i = 0; i < size; ++i) {
      codes.push_back(static_cast<std::uint32_t>(random()));
      slices.push_back(static_cast<std::uint32_t>(random()) % (round % 3 == 0 ? widest : 16));
    }
    const SeedQuery query = {codes.data(), slices.data(),      size,         4 + round % 5,
                             offset_bits,  multipliers.data(), window.data()};
    const std::uint32_t expected = NaiveSeed(query);
    found += expected != 0 ? 1 : 0;
    testing::ForEachCpuTarget([&] {
      const KernelTable<decltype(&scalar::FindSeed)> table = FEEDFAST_KERNEL_TABLE(FindSeed);
      EXPECT_EQ(table.Get()(query), expected) << round;
    });
  }
  EXPECT_GT(found, 100);
}

TEST(SortCodesTest, SortsAnySizeOnAnyNumberOfThreads) {
  for (const std::int64_t size : {0, 1, 255, 257, 100'000})
    for (const int threads : {1, 3}) {
      std::vector<KeyCode> codes = RandomCodes(size, 3);
      if (size > 2) codes[1] = codes[0];
      std::vector<KeyCode> sorted = codes;
      std::sort(sorted.begin(), sorted.end());
      SortCodes(codes, threads);
      ASSERT_EQ(codes, sorted);
    }
  std::vector<KeyCode> same(5000, 42);
  SortCodes(same, 1);
  EXPECT_EQ(same, std::vector<KeyCode>(5000, 42));
}

}  // namespace
}  // namespace feedfast::mph
