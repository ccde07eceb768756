#ifndef FEEDFAST_CPP_MPH_VOCABULARY_BUILDER_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_BUILDER_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/perfect_hash_builder.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {

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
