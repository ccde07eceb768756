#ifndef FEEDFAST_CPP_MPH_EXTERNAL_BUILDER_H_
#define FEEDFAST_CPP_MPH_EXTERNAL_BUILDER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/build_progress.h"
#include "cpp/mph/external_spill.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/mph/vocabulary_builder.h"

namespace feedfast::mph {

struct ExternalOptions {
  BuildOptions build;                                   // its rows are not used
  bool with_rows = false;                               // whether Add gives rows
  std::int64_t buffer_bytes = std::int64_t{256} << 20;  // at least kMinExternalBuffer
  std::string spill_folder;
};
inline constexpr std::int64_t kMinExternalBuffer = std::int64_t{16} << 20;

// Builds the image of keys that do not fit memory, in a file. Codes are spilled apart by their high
// bits; because codes are monotone to buckets and slots, one part after the other is then sorted
// and placed. The image is the one that Vocabulary::Build makes of the same keys.
//
// Peak memory above the mapped output: buffer_bytes and, for seeds, taken slots and the keys that
// get no slot at first (2.4% of all; 3.9% with the preset fast), at most 0.9 bytes per key or, with
// rows, 1.3; with the preset fast 1.3 and 1.9. Spilled: 8 bytes per key, or 16 with rows, and the
// keys with 16 bytes each.
//
// ResourceExhausted: the disk is full. The spill files have no name and are gone with the builder.
class ExternalBuilder {
 public:
  // InvalidArgument: options are not as described. NotFound: there is no spill folder.
  static StatusOr<std::unique_ptr<ExternalBuilder>> Create(const ExternalOptions& options,
                                                           VocabularyBuilder::HashFunction hash);

  // Adds keys; rows [keys.size()] of them, in [1, 2^48), or none. InvalidArgument: rows are not as
  // described. FailedPrecondition: cancelled, or after Finish.
  Status Add(const KeySource& keys, Span<const std::int64_t> rows);

  // Writes the image to a new file. InvalidArgument: two keys or two rows are equal; the message
  // names the keys by their positions among all that were added. FailedPrecondition: cancelled, or
  // after Finish, whatever that returned.
  Status Finish(const std::string& path);

 private:
  ExternalBuilder(const ExternalOptions& options, VocabularyBuilder::HashFunction hash,
                  CodeSpill codes, KeySpill keys)
      : options_(options),
        hash_(hash),
        monitor_(options.build.progress),
        codes_(std::move(codes)),
        keys_(std::move(keys)) {}

  struct SeedFailure {
    Status status;                    // ok: there is none
    std::optional<KeyCode> collided;  // the code that two keys share
  };

  Status CheckRowsDistinct();
  // Not ok: two keys with one of these codes are equal.
  Status CheckKeysOfCode(KeyCode code);
  // Spills the codes of all keys once more.
  Status Rehash(std::uint64_t seed);
  // Calls body(key, row, position) for all keys until a status is not ok or the build is cancelled.
  template <typename Body>
  Status ForEachKey(const Body& body);
  // Writes the image, or says in `failed` why this seed makes none and another one may.
  Status Write(const std::string& path, std::uint64_t seed, SeedFailure* failed);

  ExternalOptions options_;
  VocabularyBuilder::HashFunction hash_;
  BuildMonitor monitor_;
  CodeSpill codes_;
  KeySpill keys_;
  std::int64_t num_keys_ = 0;
  std::int64_t max_row_ = 0;
  bool finished_ = false;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_EXTERNAL_BUILDER_H_
