#include "cpp/mph/monotone_sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {
namespace {

struct Encoded {
  Encoded(const std::vector<std::int64_t>& values, std::int64_t limit)
      : shape(static_cast<std::int64_t>(values.size()), limit),
        low(static_cast<std::size_t>(shape.low_bytes)),
        high(static_cast<std::size_t>(shape.high_words * 8)),
        samples(static_cast<std::size_t>(shape.num_samples * 8)) {
    EncodeMonotone(values, shape, low.data(), high.data(), samples.data());
  }
  MonotoneSequence view() const { return {shape, low.data(), high.data(), samples.data()}; }

  MonotoneShape shape;
  std::vector<std::uint8_t> low;
  std::vector<std::uint8_t> high;
  std::vector<std::uint8_t> samples;
};

std::vector<std::int64_t> RandomSequence(std::mt19937_64& random, std::int64_t size,
                                         std::int64_t limit) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(size));
  for (std::int64_t& value : values)
    value = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
  std::sort(values.begin(), values.end());
  return values;
}

TEST(MonotoneSequenceTest, ReadsBackEveryElement) {
  std::mt19937_64 random(20'240'601);
  for (const std::int64_t limit : {1, 2, 63, 64, 1000, 1'000'000'000})
    for (const std::int64_t size : {1, 2, 64, 255, 256, 257, 3000}) {
      SCOPED_TRACE(::testing::Message() << "size " << size << " limit " << limit);
      const std::vector<std::int64_t> values = RandomSequence(random, size, limit);
      const Encoded encoded(values, limit);
      for (std::int64_t i = 0; i < size; ++i)
        ASSERT_EQ(encoded.view().At(i), values[static_cast<std::size_t>(i)]) << i;
    }
}

TEST(MonotoneSequenceTest, LongGapsAndEqualRunsAreRead) {
  std::vector<std::int64_t> values(600, 0);
  for (std::size_t i = 300; i < values.size(); ++i) values[i] = 999'999;
  const Encoded encoded(values, 1'000'000);
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(encoded.view().At(static_cast<std::int64_t>(i)), values[i]);
}

TEST(MonotoneSequenceTest, TakesAboutTwoBitsAndTheLogOfTheGap) {
  const MonotoneShape shape(10'000, 1'000'000);  // log2(100) = 6.64
  const double bits =
      8.0 * static_cast<double>(shape.low_bytes + shape.high_words * 8 + shape.num_samples * 8);
  EXPECT_LT(bits / 10'000, 2 + 6.64 + 0.3);
}

TEST(MonotoneSequenceTest, ArbitraryBytesNeverReadOutside) {
  std::mt19937_64 random(7);
  const std::vector<std::int64_t> values = RandomSequence(random, 700, 50'000);
  for (int round = 0; round < 200; ++round) {
    Encoded encoded(values, 50'000);
    for (std::vector<std::uint8_t>* bytes : {&encoded.low, &encoded.high, &encoded.samples})
      for (std::uint8_t& byte : *bytes)
        if (round % 2 == 0 || random() % 16 == 0) byte = static_cast<std::uint8_t>(random());
    for (std::int64_t i = 0; i < 700; ++i) ASSERT_GE(encoded.view().At(i), -1);
  }
}

TEST(PackedIntsTest, NeighboursDoNotTouch) {
  for (const int width : {1, 7, 8, 13, 31, 33, 48, kMaxPackedBits}) {
    const std::uint64_t all = (std::uint64_t{1} << width) - 1;
    std::vector<std::uint8_t> packed(static_cast<std::size_t>(PackedBytes(50, width)));
    for (std::int64_t i = 0; i < 50; i += 2) StorePacked(packed.data(), width, i, all);
    for (std::int64_t i = 0; i < 50; ++i)
      ASSERT_EQ(LoadPacked(packed.data(), width, i), i % 2 == 0 ? all : 0) << width << " " << i;
  }
}

}  // namespace
}  // namespace feedfast::mph
