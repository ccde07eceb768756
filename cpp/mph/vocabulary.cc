#include "cpp/mph/vocabulary.h"

#include <cstring>
#include <utility>

#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {

Vocabulary::Vocabulary(Span<const std::uint8_t> image, const ImageShape& shape) noexcept
    : image_(image), shape_(shape) {
  const ImageLayout layout(shape);
  const auto section = [&](Section s) { return image.data() + layout.sections[s].begin; };
  hash_ = PerfectHash(shape.num_keys, shape.group_bits, shape.level_span(), section(kSeeds),
                      MonotoneSequence(layout.holes, section(kHolesLow), section(kHolesHigh),
                                       section(kHolesSamples)));
  fingerprints_ = section(kFingerprints);
  packed_rows_ = section(kRows);
}

void Vocabulary::Swap(Vocabulary& other) noexcept {
  std::swap(image_, other.image_);
  std::swap(owned_, other.owned_);
  std::swap(mapped_, other.mapped_);
  std::swap(shape_, other.shape_);
  std::swap(hash_, other.hash_);
  std::swap(fingerprints_, other.fingerprints_);
  std::swap(packed_rows_, other.packed_rows_);
}

StatusOr<Vocabulary> Vocabulary::FromImage(Span<const std::uint8_t> image, Verify verify) {
  StatusOr<ImageShape> shape = ReadImage(image, verify);
  if (!shape.ok()) return shape.status();
  return Vocabulary(image, shape.value());
}

StatusOr<Vocabulary> Vocabulary::FromCopy(Span<const std::uint8_t> image, Verify verify) {
  AlignedBuffer<std::uint8_t> copy(image.size());
  if (!image.empty())
    std::memcpy(copy.data(), image.data(), static_cast<std::size_t>(image.size()));
  StatusOr<Vocabulary> vocabulary = FromImage(copy.span(), verify);
  if (vocabulary.ok()) vocabulary->owned_ = std::move(copy);
  return vocabulary;
}

StatusOr<Vocabulary> Vocabulary::Open(const std::string& path, Verify verify) {
  StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  StatusOr<Vocabulary> vocabulary = FromImage(file->bytes(), verify);
  if (!vocabulary.ok()) return DataLoss("'", path, "': ", vocabulary.status().message());
  vocabulary->mapped_ = std::move(file).value();
  return vocabulary;
}

double Vocabulary::bits_per_key() const noexcept {
  if (shape_.num_keys == 0) return 0;
  const ImageLayout layout(shape_);
  std::int64_t bytes = 0;
  for (const Section s : {kSeeds, kHolesLow, kHolesHigh, kHolesSamples})
    bytes += layout.sections[s].size;
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(shape_.num_keys);
}

template <int kFingerprintBits>
void Vocabulary::LookupBlock(Span<const KeyCode> codes, std::int64_t* rows) const noexcept {
  // Three passes, so that the reads of one pass are in flight together: seeds, then slots, then
  // rows.
  const std::int64_t size = codes.size();
  std::int64_t slots[kKeyBlock];
  for (std::int64_t i = 0; i < size; ++i) hash_.PrefetchSeed(codes[i]);
  for (std::int64_t i = 0; i < size; ++i) {
    slots[i] = hash_.Slot(codes[i]);
    __builtin_prefetch(fingerprints_ + slots[i] * (kFingerprintBits / 8));
    if (shape_.row_bits != 0)
      __builtin_prefetch(packed_rows_ + ((slots[i] * shape_.row_bits) >> 3));
  }
  for (std::int64_t i = 0; i < size; ++i) {
    bool known = slots[i] >= 0;
    if constexpr (kFingerprintBits != 0) {
      using Stored = std::conditional_t<
          kFingerprintBits == 8, std::uint8_t,
          std::conditional_t<kFingerprintBits == 16, std::uint16_t, std::uint32_t>>;
      known = known && LoadUnaligned<Stored>(fingerprints_ + slots[i] * sizeof(Stored)) ==
                           Fingerprint(codes[i], kFingerprintBits);
    }
    std::int64_t row = slots[i] + 1;
    if (known && shape_.row_bits != 0) {
      row = static_cast<std::int64_t>(LoadPacked(packed_rows_, shape_.row_bits, slots[i]));
      known = row < shape_.num_rows;  // only an altered image has others
    }
    rows[i] = known ? row : 0;
  }
}

void Vocabulary::Lookup(const KeySource& keys, std::int64_t begin,
                        Span<std::int64_t> rows) const noexcept {
  if (shape_.num_keys == 0) {
    for (std::int64_t& row : rows) row = 0;
    return;
  }
  ForEachKeyBlock(keys, begin, begin + rows.size(),
                  [&](std::int64_t first, Span<const std::string_view> views) {
                    KeyCode codes[kKeyBlock];
                    HashKeys(views, shape_.hash_seed, codes);
                    const Span<const KeyCode> block(codes, views.size());
                    std::int64_t* out = rows.data() + (first - begin);
                    switch (shape_.fingerprint_bits) {
                      case 0:
                        return LookupBlock<0>(block, out);
                      case 8:
                        return LookupBlock<8>(block, out);
                      case 16:
                        return LookupBlock<16>(block, out);
                      default:
                        return LookupBlock<32>(block, out);
                    }
                  });
}

}  // namespace feedfast::mph
