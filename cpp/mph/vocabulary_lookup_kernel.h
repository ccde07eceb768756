#ifndef FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_KERNEL_H_
#define FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::mph {

// Keys advance in groups of this many: bench_vocabulary_lookup takes 6.5 ns per key with 32, 8 with
// 16 and 64.
inline constexpr std::int64_t kGroupKeys = 32;  // one bit each in KeyGroup

// What the kernel reads: level 0 of a perfect hash function, in the names of Level, and the
// fingerprints.
struct LookupTables {
  std::uint32_t num_segments = 0;
  std::uint32_t skew = 0;
  std::uint32_t num_slices = 0;
  std::uint32_t offset_mask = 0;
  std::uint64_t offset_base = 0;
  std::uint64_t offset_step = 0;
  int offset_shift = 0;
  bool low_offsets = false;  // offset_shift and the width of offset_mask are at most 32 together
  int segment_bits = 0;
  std::uint32_t num_keys = 0;
  std::uint32_t seed_bits = 0;
  int group_bits = 0;
  int fingerprint_bits = 0;             // 0, 8, 16 or 32
  const std::uint8_t* seeds = nullptr;  // behind at least 4 readable bytes
  const std::uint8_t* fingerprints = nullptr;
};

// The monotone sequence of holes, as MonotoneSequence reads it.
struct HoleTables {
  std::int64_t num_keys = 0;
  std::int64_t high_words = 0;
  int low_bits = 0;
  const std::uint8_t* low = nullptr;
  const std::uint8_t* high = nullptr;
  const std::uint8_t* samples = nullptr;
};

// Some keys on their way through a lookup. A zeroed group is valid: it reads the first seed and
// fingerprint.
struct KeyGroup {
  std::uint64_t codes[kGroupKeys];
  std::uint32_t slices[kGroupKeys];
  std::uint32_t seed_ends[kGroupKeys];    // in bytes from the start of the seeds
  std::uint32_t seed_shifts[kGroupKeys];  // of the seed in the four bytes before its end
  std::uint32_t slots[kGroupKeys];        // below num_keys
  std::uint32_t bumped;                   // bit i: key i has no seed on level 0
  std::uint32_t beyond;                   // bit i: key i has a slot on level 0 from num_keys on
};

// Advances three groups by one stage each, of the lookup that PerfectHash and Fingerprint define;
// the caller prefetches what the next stage reads.
//   hashed:  codes -> slices, seed_ends, seed_shifts
//   located: codes, slices, seed_ends, seed_shifts -> slots, bumped, beyond
//   placed:  codes, slots -> rows[i] = slot + 1 where the slot has the key's fingerprint, else 0.
//            The row of a key that is bumped or beyond means nothing.
// Requires tables of a checked shape with less than 2^32 slots and 2^32 bits of seeds; their bytes
// may be anything.
struct AdvanceArgs {
  LookupTables tables;
  KeyGroup* hashed;
  KeyGroup* located;
  const KeyGroup* placed;
  std::int64_t* rows;  // [kGroupKeys]
};

FEEDFAST_DECLARE_KERNEL(void, AdvanceGroups, (const AdvanceArgs& args));

// Replaces each of `count` slots from num_keys on by its hole, element slot - num_keys of the
// sequence, or by -1 where the stored bits are no such sequence. Requires slots in [-1, number of
// slots); the bytes of the tables may be anything.
FEEDFAST_DECLARE_KERNEL(void, FillSlots,
                        (const HoleTables& holes, std::int64_t* slots, std::int64_t count));

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_VOCABULARY_LOOKUP_KERNEL_H_
