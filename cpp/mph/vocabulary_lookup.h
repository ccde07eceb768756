#ifndef FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_H_

#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/perfect_hash.h"
#include "cpp/mph/vocabulary_image.h"
#include "cpp/mph/vocabulary_lookup_kernel.h"

namespace feedfast::mph {

// Finds rows in an image that lies elsewhere.
class VocabularyLookup {
 public:
  VocabularyLookup() = default;
  // Requires a shape that ReadImage returned for these bytes, or one of the build.
  VocabularyLookup(Span<const std::uint8_t> image, const ImageShape& shape) noexcept;

  // rows[i] = row of key begin + i, as Vocabulary::Lookup. Requires at least one key in the image.
  void Find(const KeySource& keys, std::int64_t begin, Span<std::int64_t> rows) const noexcept;
  // The same for codes of keys: rows[i] of codes[i].
  void FindCodes(Span<const KeyCode> codes, Span<std::int64_t> rows) const noexcept;

  const PerfectHash& hash() const noexcept { return hash_; }

 private:
  friend class LookupPipeline;

  // The row of a code that has `slot` of the perfect hash function, or -1.
  std::int64_t RowOf(KeyCode code, std::int64_t slot) const noexcept;
  // The row of a key that is known under slot row - 1; 0 stays 0.
  std::int64_t StoredRow(std::int64_t row) const noexcept;
  void PrefetchFingerprint(std::int64_t slot) const noexcept;
  void PrefetchRow(std::int64_t slot) const noexcept;  // requires row_bits_ != 0

  PerfectHash hash_;
  // Level 0 for the kernel, which takes no tables of 2^32 slots: num_keys = 0 there.
  LookupTables tables_;
  HoleTables holes_;
  std::uint64_t hash_seed_ = 0;
  std::int64_t num_rows_ = 1;
  int row_bits_ = 0;
  const std::uint8_t* packed_rows_ = nullptr;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_H_
