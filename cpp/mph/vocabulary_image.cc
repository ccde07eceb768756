#include "cpp/mph/vocabulary_image.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {
namespace {

constexpr char kMagic[8] = {'F', 'F', 'V', 'O', 'C', 'A', 'B', '\0'};
constexpr std::string_view kSectionNames[kNumSections] = {
    "seeds", "holes_low", "holes_high", "holes_samples", "fingerprints", "rows"};

// The header as it lies in the file; all integers little-endian.
struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t num_levels;
  std::uint64_t image_bytes;
  std::uint64_t num_keys;
  std::uint64_t num_rows;
  std::uint64_t hash_seed;
  std::uint8_t fingerprint_bits;
  std::uint8_t row_bits;
  std::uint8_t group_bits;
  std::uint8_t seed_bits;  // 0 in version 1, where seeds are bytes
  std::uint8_t zero[20];
  struct {
    std::uint64_t num_slots;
    std::uint64_t num_buckets;
  } levels[kMaxLevels];
  std::uint64_t section_checksums[kNumSections];
  std::uint64_t checksum;  // of all bytes before it
};
static_assert(sizeof(Header) == kHeaderBytes && kMaxLevels == 8 && kNumSections == 6);

constexpr std::int64_t AlignUp(std::int64_t size) noexcept {
  return (size + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

// A section's checksum covers its padding too, so that no byte of an image is unchecked.
Span<const std::uint8_t> Covered(Span<const std::uint8_t> image, const ImageLayout& layout,
                                 std::size_t section) noexcept {
  const std::int64_t begin = layout.sections[section].begin;
  const std::int64_t end =
      section + 1 < kNumSections ? layout.sections[section + 1].begin : layout.image_bytes;
  return image.subspan(begin, end - begin);
}

template <typename... Pieces>
Status Damaged(const Pieces&... pieces) {
  return DataLoss("vocabulary image: ", pieces...);
}

HashFormat FormatOf(const Header& h) noexcept {
  if (h.version == 1) return {kSchemeV1, /*seed_bits=*/8, h.group_bits};
  return {kSchemeV2, h.seed_bits, h.group_bits};
}

// The rest of the code relies on nothing but what is checked here.
Status CheckShape(const Header& h) {
  if (h.num_keys > kMaxKeys) return Damaged("num_keys = ", h.num_keys, " is above ", kMaxKeys);
  if (h.fingerprint_bits != 0 && h.fingerprint_bits != 8 && h.fingerprint_bits != 16 &&
      h.fingerprint_bits != 32)
    return Damaged("fingerprint_bits = ", int{h.fingerprint_bits}, " is not 0, 8, 16 or 32");
  if (h.row_bits > kMaxRowBits)
    return Damaged("row_bits = ", int{h.row_bits}, " is above ", kMaxRowBits);
  if (h.row_bits == 0 && h.num_rows != h.num_keys + 1)
    return Damaged("num_rows = ", h.num_rows, " is not num_keys + 1 = ", h.num_keys + 1);
  if (h.num_rows == 0 || h.num_rows > (std::uint64_t{1} << kMaxRowBits))
    return Damaged("num_rows = ", h.num_rows, " is not in 1..2^", kMaxRowBits);
  if (h.version == 1 ? h.seed_bits != 0 : h.seed_bits < kMinSeedBits || h.seed_bits > kMaxSeedBits)
    return Damaged("seed_bits = ", int{h.seed_bits}, " is not in ", kMinSeedBits, "..",
                   kMaxSeedBits);
  const HashFormat format = FormatOf(h);
  const int least_group_bits = std::max(kMinGroupBits, format.seed_bits - kMaxShiftBits);
  if (h.group_bits < least_group_bits || h.group_bits > std::min(kMaxGroupBits, format.seed_bits))
    return Damaged("group_bits = ", int{h.group_bits}, " is not in ", least_group_bits, "..",
                   std::min(kMaxGroupBits, format.seed_bits));
  if (h.num_levels > kMaxLevels || (h.num_levels == 0) != (h.num_keys == 0))
    return Damaged("num_levels = ", h.num_levels, " does not fit num_keys = ", h.num_keys);
  for (std::uint32_t i = 0; i < h.num_levels; ++i) {
    const auto& level = h.levels[i];
    const std::uint64_t min_slots = i == 0 && h.num_keys > kMinLevelSlots
                                        ? h.num_keys
                                        : static_cast<std::uint64_t>(kMinLevelSlots);
    if (level.num_slots < min_slots || level.num_slots > 2 * kMaxKeys)
      return Damaged("levels[", i, "].num_slots = ", level.num_slots, " is not in ", min_slots,
                     "..", 2 * kMaxKeys);
    if (level.num_buckets == 0 || level.num_buckets > level.num_slots)
      return Damaged("levels[", i, "].num_buckets = ", level.num_buckets, " is not in 1..",
                     level.num_slots);
    const std::uint64_t segment_buckets = std::uint64_t{1} << format.scheme.segment_bits;
    if (level.num_buckets % segment_buckets != 0)
      return Damaged("levels[", i, "].num_buckets = ", level.num_buckets, " is not a multiple of ",
                     segment_buckets);
  }
  for (const std::uint8_t byte : h.zero)
    if (byte != 0) return Damaged("a byte of 52..72 is ", int{byte}, ", not 0");
  for (std::uint32_t i = h.num_levels; i < kMaxLevels; ++i)
    if (h.levels[i].num_slots != 0 || h.levels[i].num_buckets != 0)
      return Damaged("levels[", i, "] is not 0, but num_levels = ", h.num_levels);
  return OkStatus();
}

ImageShape ShapeOf(const Header& h) noexcept {
  ImageShape shape;
  shape.version = h.version;
  shape.num_keys = static_cast<std::int64_t>(h.num_keys);
  shape.num_rows = static_cast<std::int64_t>(h.num_rows);
  shape.hash_seed = h.hash_seed;
  shape.fingerprint_bits = h.fingerprint_bits;
  shape.row_bits = h.row_bits;
  shape.format = FormatOf(h);
  shape.num_levels = static_cast<int>(h.num_levels);
  for (std::uint32_t i = 0; i < h.num_levels; ++i)
    shape.levels[i] = {static_cast<std::int64_t>(h.levels[i].num_slots),
                       static_cast<std::int64_t>(h.levels[i].num_buckets)};
  return shape;
}

std::uint64_t HeaderChecksum(const std::uint8_t* image) noexcept {
  return Checksum({image, static_cast<std::int64_t>(offsetof(Header, checksum))});
}

}  // namespace

ImageLayout::ImageLayout(const ImageShape& shape) noexcept {
  std::int64_t num_buckets = 0;
  std::int64_t num_slots = 0;
  for (const LevelShape& level : shape.level_span()) {
    num_buckets += level.num_buckets;
    num_slots += level.num_slots;
  }
  holes = MonotoneShape(num_slots - shape.num_keys, shape.num_keys);
  sections[kSeeds].size = SeedBytes(num_buckets, shape.format.seed_bits);
  sections[kHolesLow].size = holes.low_bytes;
  sections[kHolesHigh].size = holes.high_words * 8;
  sections[kHolesSamples].size = holes.num_samples * 8;
  sections[kFingerprints].size = shape.num_keys * (shape.fingerprint_bits / 8);
  sections[kRows].size = shape.row_bits == 0 ? 0 : PackedBytes(shape.num_keys, shape.row_bits);
  std::int64_t end = kHeaderBytes;
  for (Range& section : sections) {
    section.begin = end;
    end = AlignUp(end + section.size);
  }
  image_bytes = end;
}

StatusOr<ImageShape> ReadImage(Span<const std::uint8_t> image, Verify verify) {
  Header header;
  if (image.size() < kHeaderBytes)
    return Damaged("truncated: ", image.size(), " bytes, the header alone has ", kHeaderBytes);
  std::memcpy(&header, image.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0)
    return Damaged("bytes 0..8 are not the magic 'FFVOCAB\\0'");
  if (header.version < 1 || header.version > kImageVersion)
    return Damaged("version ", header.version, " is unknown; this build reads versions 1..",
                   kImageVersion);
  if (header.checksum != HeaderChecksum(image.data()))
    return Damaged("the header (bytes 0..", kHeaderBytes, ") does not match its checksum");
  FEEDFAST_RETURN_IF_ERROR(CheckShape(header));
  const ImageShape shape = ShapeOf(header);
  const ImageLayout layout(shape);
  if (header.image_bytes != static_cast<std::uint64_t>(layout.image_bytes))
    return Damaged("image_bytes = ", header.image_bytes,
                   " does not fit the sections, which end at ", layout.image_bytes);
  if (image.size() != layout.image_bytes)
    return Damaged(image.size() < layout.image_bytes ? "truncated" : "too long", ": ", image.size(),
                   " bytes, the header says ", layout.image_bytes);
  if (verify == Verify::kHeader) return shape;
  for (std::size_t i = 0; i < kNumSections; ++i) {
    const Span<const std::uint8_t> covered = Covered(image, layout, i);
    if (Checksum(covered) != header.section_checksums[i])
      return Damaged("section '", kSectionNames[i], "' (bytes ", layout.sections[i].begin, "..",
                     layout.sections[i].begin + covered.size(), ") does not match its checksum");
  }
  return shape;
}

std::string_view SectionName(int section) noexcept { return kSectionNames[section]; }

void SealImage(const ImageShape& shape, Span<std::uint8_t> image) noexcept {
  const ImageLayout layout(shape);
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = shape.version;
  header.num_levels = static_cast<std::uint32_t>(shape.num_levels);
  header.image_bytes = static_cast<std::uint64_t>(layout.image_bytes);
  header.num_keys = static_cast<std::uint64_t>(shape.num_keys);
  header.num_rows = static_cast<std::uint64_t>(shape.num_rows);
  header.hash_seed = shape.hash_seed;
  header.fingerprint_bits = static_cast<std::uint8_t>(shape.fingerprint_bits);
  header.row_bits = static_cast<std::uint8_t>(shape.row_bits);
  header.group_bits = static_cast<std::uint8_t>(shape.format.group_bits);
  if (shape.version != 1) header.seed_bits = static_cast<std::uint8_t>(shape.format.seed_bits);
  for (int i = 0; i < shape.num_levels; ++i) {
    const LevelShape& level = shape.levels[static_cast<std::size_t>(i)];
    header.levels[i].num_slots = static_cast<std::uint64_t>(level.num_slots);
    header.levels[i].num_buckets = static_cast<std::uint64_t>(level.num_buckets);
  }
  for (std::size_t i = 0; i < kNumSections; ++i)
    header.section_checksums[i] = Checksum(Covered(image, layout, i));
  std::memcpy(image.data(), &header, sizeof(header));
  header.checksum = HeaderChecksum(image.data());
  std::memcpy(image.data(), &header, sizeof(header));
}

}  // namespace feedfast::mph
