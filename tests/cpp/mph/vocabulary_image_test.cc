// Images are read from disk and may hold anything.
#include "cpp/mph/vocabulary_image.h"

#include <gtest/gtest.h>

#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpp/mph/vocabulary.h"
#include "tests/cpp/testing.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kNumKeys = 2000;

std::vector<std::string> Keys() {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < kNumKeys; ++i) keys.push_back("key" + std::to_string(i));
  return keys;
}

std::vector<std::uint8_t> MakeImage(int fingerprint_bits, bool with_rows) {
  const std::vector<std::string> keys = Keys();
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < kNumKeys; ++i) rows.push_back(2 * i + 1);
  BuildOptions options;
  options.fingerprint_bits = fingerprint_bits;
  if (with_rows) options.rows = rows;
  const StatusOr<Vocabulary> vocabulary = Vocabulary::Build(views, options);
  EXPECT_TRUE(vocabulary.ok());
  return {vocabulary->image().begin(), vocabulary->image().end()};
}

// Looks everything up; the sanitizers and the range of rows are the test. The vectors given here
// have the exact size of the image, so a read past its end is caught.
void ExpectSafe(const std::vector<std::uint8_t>& image) {
  const StatusOr<Vocabulary> vocabulary = Vocabulary::FromImage(image, Verify::kHeader);
  if (!vocabulary.ok()) {
    EXPECT_EQ(vocabulary.status().code(), StatusCode::kDataLoss);
    return;
  }
  const std::vector<std::string> keys = Keys();
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::int64_t> first;
  testing::ForEachCpuTarget([&] {
    std::vector<std::int64_t> rows(keys.size());
    vocabulary->Lookup(views, rows);
    for (const std::int64_t row : rows) {
      ASSERT_GE(row, 0);
      ASSERT_LT(row, vocabulary->num_rows());
    }
    if (first.empty()) first = rows;
    ASSERT_EQ(rows, first);
  });
}

TEST(VocabularyImageTest, EveryFlippedByteIsRefusedByFullVerification) {
  const std::vector<std::uint8_t> image = MakeImage(8, true);
  ASSERT_TRUE(ReadImage(image, Verify::kFull).ok());
  std::mt19937_64 random(1);
  for (std::size_t at = 0; at < image.size(); ++at) {
    std::vector<std::uint8_t> altered = image;
    altered[at] = static_cast<std::uint8_t>(altered[at] ^ (1U << (random() % 8)));
    const Status status = ReadImage(altered, Verify::kFull).status();
    ASSERT_EQ(status.code(), StatusCode::kDataLoss) << "byte " << at;
    if (at < static_cast<std::size_t>(kHeaderBytes)) {
      ASSERT_FALSE(ReadImage(altered, Verify::kHeader).ok()) << "byte " << at;
    }
  }
}

TEST(VocabularyImageTest, EveryTruncationIsRefused) {
  const std::vector<std::uint8_t> image = MakeImage(16, false);
  for (std::int64_t size = 0; size < static_cast<std::int64_t>(image.size()); ++size)
    ASSERT_EQ(ReadImage({image.data(), size}, Verify::kHeader).status().code(),
              StatusCode::kDataLoss);
  std::vector<std::uint8_t> longer = image;
  longer.resize(longer.size() + 64);
  EXPECT_EQ(ReadImage(longer, Verify::kHeader).status().code(), StatusCode::kDataLoss);
}

TEST(VocabularyImageTest, AlteredSectionsAreSafeUnderHeaderVerification) {
  std::mt19937_64 random(2);
  for (const int bits : {0, 8, 16, 32})
    for (const bool with_rows : {false, true}) {
      const std::vector<std::uint8_t> image = MakeImage(bits, with_rows);
      for (int round = 0; round < 30; ++round) {
        std::vector<std::uint8_t> altered = image;
        // From a few flips to nothing but noise.
        const std::uint64_t one_in = std::uint64_t{1} << (round % 10);
        for (std::size_t i = kHeaderBytes; i < altered.size(); ++i)
          if (random() % one_in == 0) altered[i] = static_cast<std::uint8_t>(random());
        ExpectSafe(altered);
      }
    }
}

// A forged header with right checksums gets past them; the checks of the counts must hold alone.
TEST(VocabularyImageTest, ForgedCountsAreRefusedOrSafe) {
  std::mt19937_64 random(3);
  const std::vector<std::uint8_t> image = MakeImage(16, true);
  // Offsets of num_levels, image_bytes, num_keys, num_rows, the four widths, and the levels.
  std::vector<std::size_t> fields = {12, 16, 24, 32, 48, 49, 50, 51};
  for (std::size_t i = 0; i < 2 * std::size_t{kMaxLevels}; ++i) fields.push_back(72 + 8 * i);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::uint8_t> forged = image;
    for (std::uint64_t changes = 1 + random() % 2; changes > 0; --changes) {
      const std::size_t at = fields[random() % fields.size()];
      const std::size_t width = at == 12 ? 4 : at >= 48 && at <= 51 ? 1 : 8;
      std::uint64_t value = 0;
      std::memcpy(&value, forged.data() + at, width);
      const std::uint64_t values[] = {
          0, 1, ~std::uint64_t{0}, value - 1, value + 1, std::uint64_t{1} << 62, random() % 5000};
      value = values[random() % std::size(values)];
      std::memcpy(forged.data() + at, &value, width);
    }
    const std::uint64_t checksum = Checksum({forged.data(), kHeaderBytes - 8});
    std::memcpy(forged.data() + kHeaderBytes - 8, &checksum, 8);
    ExpectSafe(forged);
  }
}

TEST(VocabularyImageTest, WhatMustBeZeroIs) {
  const std::vector<std::uint8_t> image = MakeImage(16, true);
  const std::size_t unused =
      72 + 16 * static_cast<std::size_t>(ReadImage(image, Verify::kHeader).value().num_levels);
  for (const std::size_t at : {std::size_t{52}, std::size_t{71}, unused, std::size_t{199}}) {
    std::vector<std::uint8_t> forged = image;
    forged[at] = 1;
    const std::uint64_t checksum = Checksum({forged.data(), kHeaderBytes - 8});
    std::memcpy(forged.data() + kHeaderBytes - 8, &checksum, 8);
    EXPECT_EQ(ReadImage(forged, Verify::kHeader).status().code(), StatusCode::kDataLoss) << at;
  }
}

TEST(VocabularyImageTest, UnknownVersionAndForeignFilesAreNamed) {
  std::vector<std::uint8_t> image = MakeImage(16, false);
  image[8] = 9;
  EXPECT_EQ(ReadImage(image, Verify::kHeader).status().message(),
            "vocabulary image: version 9 is unknown; this build reads versions 1..2");
  image[0] = 'X';
  EXPECT_EQ(ReadImage(image, Verify::kHeader).status().message(),
            "vocabulary image: bytes 0..8 are not the magic 'FFVOCAB\\0'");
}

TEST(VocabularyImageTest, NamesTheAlteredSection) {
  std::vector<std::uint8_t> image = MakeImage(16, false);
  const ImageLayout layout(ReadImage(image, Verify::kHeader).value());
  image[static_cast<std::size_t>(layout.sections[kFingerprints].begin)] ^= 1;
  EXPECT_NE(ReadImage(image, Verify::kFull).status().message().find("section 'fingerprints'"),
            std::string::npos);
}

TEST(VocabularyImageTest, SectionsAreAligned) {
  const std::vector<std::uint8_t> image = MakeImage(16, true);
  const ImageLayout layout(ReadImage(image, Verify::kHeader).value());
  for (const ImageLayout::Range& section : layout.sections) EXPECT_EQ(section.begin % 64, 0);
  EXPECT_EQ(layout.image_bytes % 64, 0);
}

}  // namespace
}  // namespace feedfast::mph
