#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/perfect_hash.h"

namespace feedfast::mph {

struct PerfectHashOptions {
  int group_bits = 4;
  double keys_per_bucket = 4.9;  // the fewest bits per key for any group_bits (bench_vocabulary)
};

// Everything PerfectHash needs.
struct PerfectHashParts {
  std::vector<LevelShape> levels;
  std::vector<std::uint8_t> seeds;
  std::vector<std::int64_t> holes;  // of slot num_keys + i; non-descending
};

// Sorts in place, ascending; ranges are sorted on up to `threads` threads.
void SortCodes(Span<KeyCode> codes, int threads);

// Builds the function of `codes`. Requires at least one code, ascending, no two equal, at most
// kMaxKeys. The result depends on codes and options alone. FailedPrecondition: keys were left after
// kMaxLevels levels, as can happen for codes that are not uniform; try another hash seed.
StatusOr<PerfectHashParts> BuildPerfectHash(Span<const KeyCode> codes,
                                            const PerfectHashOptions& options);

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_BUILDER_H_
