#include "cpp/mph/perfect_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cpp/mph/perfect_hash_builder.h"
#include "cpp/mph/reference.h"

namespace feedfast::mph {
namespace {

std::vector<KeyCode> RandomCodes(std::int64_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<KeyCode> codes(static_cast<std::size_t>(size));
  for (KeyCode& code : codes) code = random();
  return codes;
}

// Slots of all codes, plus one; evaluated on encoded parts.
std::vector<std::int64_t> SlotsPlusOne(Span<const KeyCode> codes, const PerfectHashParts& parts,
                                       int group_bits) {
  const MonotoneShape shape(static_cast<std::int64_t>(parts.holes.size()), codes.size());
  std::vector<std::uint8_t> low(static_cast<std::size_t>(shape.low_bytes));
  std::vector<std::uint8_t> high(static_cast<std::size_t>(shape.high_words * 8));
  std::vector<std::uint8_t> samples(static_cast<std::size_t>(shape.num_samples * 8));
  EncodeMonotone(parts.holes, shape, low.data(), high.data(), samples.data());
  const PerfectHash hash(codes.size(), group_bits, parts.levels, parts.seeds.data(),
                         MonotoneSequence(shape, low.data(), high.data(), samples.data()));
  std::vector<std::int64_t> slots;
  for (const KeyCode code : codes) slots.push_back(hash.Slot(code) + 1);
  return slots;
}

TEST(PerfectHashTest, IsABijectionForEverySizeAndGroup) {
  for (int group_bits = kMinGroupBits; group_bits <= kMaxGroupBits; ++group_bits)
    for (const std::int64_t size : {1, 2, 3, 17, 127, 128, 129, 500, 1023, 5000, 20'000}) {
      SCOPED_TRACE(::testing::Message() << "group_bits " << group_bits << " size " << size);
      std::vector<KeyCode> codes = RandomCodes(size, static_cast<std::uint64_t>(size));
      SortCodes(codes, 1);
      const StatusOr<PerfectHashParts> parts = BuildPerfectHash(codes, {group_bits, 4.75});
      ASSERT_TRUE(parts.ok()) << parts.status().message();
      ASSERT_TRUE(reference::IsPermutation(SlotsPlusOne(codes, parts.value(), group_bits)));
    }
}

TEST(PerfectHashTest, CodesThatShareTheirHighBitsAreBumpedTogether) {
  std::vector<KeyCode> codes;
  for (KeyCode i = 0; i < 1000; ++i) codes.push_back(i);
  const StatusOr<PerfectHashParts> parts = BuildPerfectHash(codes, {4, 4.75});
  // One bucket holds all keys and is bumped; the next level has mixed codes and succeeds.
  ASSERT_TRUE(parts.ok());
  EXPECT_TRUE(reference::IsPermutation(SlotsPlusOne(codes, parts.value(), 4)));
}

TEST(PerfectHashTest, GivesUpWhenNoBucketCanBePlaced) {
  std::vector<KeyCode> codes = RandomCodes(1000, 9);
  SortCodes(codes, 1);
  EXPECT_EQ(BuildPerfectHash(codes, {4, /*keys_per_bucket=*/1000}).status().code(),
            StatusCode::kFailedPrecondition);
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
