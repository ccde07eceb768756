#include "cpp/mph/vocabulary.h"

#include <cstring>
#include <utility>

#include "cpp/mph/lookup_all.h"

namespace feedfast::mph {

Vocabulary::Vocabulary(Span<const std::uint8_t> image, const ImageShape& shape) noexcept
    : image_(image), shape_(shape), lookup_(image, shape) {}

void Vocabulary::Swap(Vocabulary& other) noexcept {
  std::swap(image_, other.image_);
  std::swap(owned_, other.owned_);
  std::swap(mapped_, other.mapped_);
  std::swap(shape_, other.shape_);
  std::swap(lookup_, other.lookup_);
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

void Vocabulary::Lookup(const KeySource& keys, std::int64_t begin,
                        Span<std::int64_t> rows) const noexcept {
  if (shape_.num_keys != 0) return lookup_.Find(keys, begin, rows);
  for (std::int64_t& row : rows) row = 0;
}

void Vocabulary::LookupCodes(Span<const KeyCode> codes, Span<std::int64_t> rows) const noexcept {
  if (shape_.num_keys != 0) return lookup_.FindCodes(codes, rows);
  for (std::int64_t& row : rows) row = 0;
}

void Vocabulary::LookupAll(const KeySource& keys, int threads, Span<std::int64_t> rows) const {
  mph::LookupAll(keys, threads, rows,
                 [&](const KeySource& source, std::int64_t begin, Span<std::int64_t> out) {
                   Lookup(source, begin, out);
                 });
}

}  // namespace feedfast::mph
