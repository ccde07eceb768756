#ifndef FEEDFAST_CPP_MPH_VOCABULARY_IMAGE_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_IMAGE_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/perfect_hash.h"

namespace feedfast::mph {

// How much of an image is checked before it is used.
enum class Verify {
  kHeader,  // header, sizes and version, in constant time; lookups are memory-safe for any content
  kFull,    // every byte, through the section checksums
};

// The flat file format of a vocabulary, described in docs/formats/vocabulary.md: a header of 256
// bytes, then the sections in this order, each from a multiple of 64 bytes on. Where they lie
// follows from the counts in the header, so there are no stored offsets to distrust.
enum Section {
  kSeeds,         // packed seeds of the buckets, level after level
  kHolesLow,      // monotone sequence of holes: packed low bits
  kHolesHigh,     //   high bits
  kHolesSamples,  //   samples
  kFingerprints,  // fingerprint_bits / 8 bytes per slot
  kRows,          // row_bits bits per slot, packed; absent when rows are slot + 1
  kNumSections
};

inline constexpr std::uint32_t kImageVersion = 2;  // written; version 1 is read as well
inline constexpr std::int64_t kHeaderBytes = 256;
inline constexpr int kMaxRowBits = 48;

// The counts that determine an image.
struct ImageShape {
  std::uint32_t version = kImageVersion;
  std::int64_t num_keys = 0;
  std::int64_t num_rows =
      1;  // rows of the table that it indexes: 0 for unknown keys, then the keys'
  std::uint64_t hash_seed = 0;
  int fingerprint_bits = 0;  // 0, 8, 16 or 32
  int row_bits = 0;          // 0: row = slot + 1, else 1..kMaxRowBits
  HashFormat format;
  int num_levels = 0;  // 0 without keys
  std::array<LevelShape, kMaxLevels> levels;

  Span<const LevelShape> level_span() const noexcept { return {levels.data(), num_levels}; }
};

// Offsets of a shape's sections. section[i] ends where its data end, before the padding.
struct ImageLayout {
  struct Range {
    std::int64_t begin = 0;
    std::int64_t size = 0;
  };
  explicit ImageLayout(const ImageShape& shape) noexcept;

  std::array<Range, kNumSections> sections;
  MonotoneShape holes;
  std::int64_t image_bytes = 0;
};

// Checks an image and reads its shape. The bytes need no alignment. DataLoss: not an image, another
// version, truncated, altered; the message says what and where.
StatusOr<ImageShape> ReadImage(Span<const std::uint8_t> image, Verify verify);

// The section's name in messages and reports. Requires 0 <= section < kNumSections.
std::string_view SectionName(int section) noexcept;

// Completes an image whose sections are written: header and checksums. Requires image.size() ==
// ImageLayout(shape).image_bytes.
void SealImage(const ImageShape& shape, Span<std::uint8_t> image) noexcept;

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_VOCABULARY_IMAGE_H_
