#ifndef FEEDFAST_CPP_MPH_VOCABULARY_BUILDER_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_BUILDER_H_

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/perfect_hash_builder.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/mph/vocabulary_image.h"

namespace feedfast::mph {

// What the two ways to build share.

// A hash seed fails when two distinct keys get one 64-bit code: about once in 40 for a billion
// keys.
inline constexpr std::uint64_t kMaxHashSeeds = 16;
constexpr std::uint64_t HashSeed(std::uint64_t seed, std::uint64_t attempt) noexcept {
  return seed + attempt * 0x9E3779B97F4A7C15ULL;
}

PerfectHashOptions HashOptions(Preset preset) noexcept;
// InvalidArgument: fingerprint_bits or threads are not as described; rows are not looked at.
Status CheckBuildOptions(const BuildOptions& options);
// InvalidArgument: a row is outside [1, 2^48); `first` is the position of the first one.
Status CheckRowRange(Span<const std::int64_t> rows, std::int64_t first);
// InvalidArgument: two of the keys, with their positions, are equal; the message names them.
Status CheckDistinct(std::vector<std::pair<std::string_view, std::int64_t>> keys);
// The shape of an image without levels. `max_row` is 0 where rows are not given.
ImageShape ShapeOfBuild(std::int64_t num_keys, std::int64_t max_row, std::uint64_t hash_seed,
                        const BuildOptions& options) noexcept;
// Writes seeds and holes into the zeroed sections of an image.
void WriteHash(const PerfectHashParts& parts, const ImageLayout& layout, std::uint8_t* image);

// The steps of Vocabulary::Build. The key hash is a parameter so that tests can make distinct keys
// collide; everybody else passes HashKeys.
class VocabularyBuilder {
 public:
  using HashFunction = void (*)(Span<const std::string_view> keys, std::uint64_t seed,
                                KeyCode* codes) noexcept;

  VocabularyBuilder(const KeySource& keys, const BuildOptions& options, HashFunction hash) noexcept
      : keys_(keys), options_(options), hash_(hash), monitor_(options.progress) {}

  StatusOr<Vocabulary> Build();

 private:
  // Ascending codes of all keys.
  AlignedBuffer<KeyCode> SortedCodes(std::uint64_t seed);
  // Not ok: two of the keys with this code are equal; the message names them.
  Status CheckKeysOfCode(KeyCode code, std::uint64_t seed) const;
  StatusOr<Vocabulary> Assemble(Span<const KeyCode> codes, std::uint64_t seed,
                                const PerfectHashParts& parts);

  const KeySource& keys_;
  const BuildOptions& options_;
  HashFunction hash_;
  BuildMonitor monitor_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_VOCABULARY_BUILDER_H_
