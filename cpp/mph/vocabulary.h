#ifndef FEEDFAST_CPP_MPH_VOCABULARY_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/mapped_file.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/build_progress.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/vocabulary_image.h"
#include "cpp/mph/vocabulary_lookup.h"

namespace feedfast::mph {

// Trades the size of the hash function for the time to build it (bench_vocabulary).
enum class Preset {
  kCompact,
  kFast,
};

struct BuildOptions {
  int fingerprint_bits = 16;  // 0, 8, 16 or 32
  Preset preset = Preset::kCompact;
  // rows[i] is the row of keys[i]: all different, each in [1, 2^48). Without them rows are a
  // permutation of 1..size() that the build chooses.
  std::optional<Span<const std::int64_t>> rows;
  int threads = 1;            // the image does not depend on it
  std::uint64_t seed = 0;     // of the key hash; stored in the image
  ProgressFunction progress;  // may cancel the build
};

// An immutable map from byte strings to rows that does not store the strings: a minimal perfect
// hash function finds the slot of a key, a fingerprint of the key in that slot tells whether it is
// known.
//   Lookup(key) = row of the key    for every key of the build
//               = 0 (unknown, OOV)  for other keys, but for one in about 2^fingerprint_bits, which
//                                   gets the row of some known key; all of them for 0 bits.
// Moving is cheap and leaves the source empty; lookups are safe from many threads.
class Vocabulary {
 public:
  Vocabulary(Vocabulary&& other) noexcept { Swap(other); }
  Vocabulary& operator=(Vocabulary&& other) noexcept {
    Vocabulary moved(std::move(other));
    Swap(moved);
    return *this;
  }

  // The image is the same bytes for the same keys (with their rows) and options, whatever the order
  // of the keys and the thread count. InvalidArgument: two keys are equal, options or rows are not
  // as described. FailedPrecondition: the progress
  // function cancelled it. Peak memory above keys and image: 10 bytes
  // per key. Throws std::bad_alloc.
  static StatusOr<Vocabulary> Build(const KeySource& keys, const BuildOptions& options);
  static StatusOr<Vocabulary> Build(Span<const std::string_view> keys,
                                    const BuildOptions& options) {
    return Build(SpanKeys(keys), options);
  }

  // Maps a file read-only. NotFound, InvalidArgument: as MappedFile::Open. DataLoss: as ReadImage,
  // with the path.
  static StatusOr<Vocabulary> Open(const std::string& path, Verify verify);
  // Uses bytes that outlive the vocabulary. DataLoss: as ReadImage.
  static StatusOr<Vocabulary> FromImage(Span<const std::uint8_t> image, Verify verify);
  // As FromImage, on its own copy of the bytes.
  static StatusOr<Vocabulary> FromCopy(Span<const std::uint8_t> image, Verify verify);

  // The same keys with other rows: Lookup'(key) = row_map[Lookup(key)]. Keys may share a row; those
  // with row 0 are as good as unknown. InvalidArgument: row_map has not num_rows() elements, or
  // row_map[0] != 0. OutOfRange: an element is not in [0, 2^48). The image has the version of this
  // one. Throws std::bad_alloc.
  StatusOr<Vocabulary> MapRows(Span<const std::int64_t> row_map) const;

  // rows[i] = row of key begin + i. Requires 0 <= begin, begin + rows.size() <= keys.size(). Rows
  // are in [0, num_rows()) for any image.
  void Lookup(const KeySource& keys, std::int64_t begin, Span<std::int64_t> rows) const noexcept;
  // The rows of all keys on up to `threads` threads. Keys that repeat words (KeySource::words) cost
  // a copy of a row each, unless the words are more than the keys. Requires rows.size() ==
  // keys.size(), threads >= 1. Throws std::bad_alloc.
  void LookupAll(const KeySource& keys, int threads, Span<std::int64_t> rows) const;
  // Requires rows.size() == keys.size().
  void Lookup(Span<const std::string_view> keys, Span<std::int64_t> rows) const noexcept {
    Lookup(SpanKeys(keys), 0, rows);
  }

  // rows[i] = row of the key whose HashKeys with hash_seed() is codes[i]. Requires rows.size() ==
  // codes.size().
  void LookupCodes(Span<const KeyCode> codes, Span<std::int64_t> rows) const noexcept;

  std::int64_t size() const noexcept { return shape_.num_keys; }
  // Rows of the table that the vocabulary indexes: the highest row and one.
  std::int64_t num_rows() const noexcept { return shape_.num_rows; }
  int fingerprint_bits() const noexcept { return shape_.fingerprint_bits; }
  std::uint64_t hash_seed() const noexcept { return shape_.hash_seed; }
  // Size of the perfect hash function alone (seeds and holes) per key, in bits; 0 without keys.
  double bits_per_key() const noexcept;
  // The counts in the header of the image.
  const ImageShape& shape() const noexcept { return shape_; }
  // The file content.
  Span<const std::uint8_t> image() const noexcept { return image_; }

 private:
  friend class VocabularyBuilder;

  Vocabulary() = default;  // without keys and image
  Vocabulary(Span<const std::uint8_t> image, const ImageShape& shape) noexcept;

  void Swap(Vocabulary& other) noexcept;

  Span<const std::uint8_t> image_;
  AlignedBuffer<std::uint8_t> owned_;  // the image, unless it is mapped or borrowed
  MappedFile mapped_;
  ImageShape shape_;
  VocabularyLookup lookup_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_VOCABULARY_H_
