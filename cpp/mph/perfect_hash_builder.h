#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/build_progress.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/perfect_hash.h"
#include "cpp/mph/perfect_hash_level.h"
#include "cpp/mph/perfect_hash_seed_kernel.h"

namespace feedfast::mph {

struct PerfectHashOptions {
  int seed_bits = 10;  // kMinSeedBits..kMaxSeedBits; time grows with their number of seeds
  double keys_per_bucket = 6.15;  // at least 1; the best one depends on seed_bits

  HashFormat format() const noexcept { return {kSchemeV2, seed_bits, seed_bits - kShiftBits}; }
};

// Everything PerfectHash needs besides the format.
struct PerfectHashParts {
  std::vector<LevelShape> levels;
  std::vector<std::uint8_t> seeds;  // packed, SeedBytes of all buckets
  std::vector<std::int64_t> holes;  // of slot num_keys + i; non-descending
};

// Sorts in place, ascending; ranges are sorted on up to `threads` threads.
void SortCodes(Span<KeyCode> codes, int threads);

// Builds the function of `codes` on up to `threads` threads; the monitor counts the keys. Requires
// at least one code, ascending, no two equal, at most kMaxKeys. The result depends on codes and
// options alone. FailedPrecondition: keys were left after kMaxLevels levels, as can happen for
// codes that are not uniform; try another hash seed. The same: the monitor is cancelled. Throws
// std::bad_alloc.
StatusOr<PerfectHashParts> BuildPerfectHash(Span<const KeyCode> codes,
                                            const PerfectHashOptions& options, int threads,
                                            BuildMonitor* monitor);

// The two halves of it, for codes that come in pieces: level 0, whose chunks the caller places, and
// what follows from it and the codes that it bumped.
LevelBuilder FirstLevel(std::int64_t num_keys, const PerfectHashOptions& options);
StatusOr<PerfectHashParts> CompletePerfectHash(LevelBuilder* first, std::vector<KeyCode> bumped,
                                               std::int64_t num_keys,
                                               const PerfectHashOptions& options, int threads,
                                               BuildMonitor* monitor);

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_
