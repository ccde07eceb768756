#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_SEED_KERNEL_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_SEED_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::mph {

// A seed is (shift << group_bits) | group with this many bits of shift, so that all shifts of one
// group lie in one unaligned half word.
inline constexpr int kShiftBits = 4;
inline constexpr int kMaxSearchGroups = 256;
// Buckets of more keys are not searched; none is that big for uniform codes.
inline constexpr int kMaxBucketKeys = 64;
// Bits of the window that first slots, before the shift, may lie in.
inline constexpr std::int64_t kWindowSlots = 1504;
// Bytes of the window that may be read.
inline constexpr std::int64_t kWindowBytes = 192;

// One bucket and the slots around it. In group g the first slot of key i, before the shift, is
//   first(i, g) = slices[i] + ((codes[i] * multipliers[g]) mod 2^32 >> (32 - offset_bits)).
struct SeedQuery {
  const std::uint32_t* codes;        // [size], low halves
  const std::uint32_t* slices;       // [size], relative to the window
  int size;                          // 1..kMaxBucketKeys
  int group_bits;                    // 4..8
  int offset_bits;                   // slices[i] + 2^offset_bits <= kWindowSlots
  const std::uint32_t* multipliers;  // [2^group_bits]
  const std::uint8_t* window;        // bit s: slot s is occupied
};

// The seed that puts all keys of the bucket on different free slots first(i, group) + shift with
// the smallest sum of slots, so that the left fills up before the window leaves it; of equal sums
// the smallest seed. Seed 0 is not tried: it is the result when there is none. The same on every
// target.
FEEDFAST_DECLARE_KERNEL(std::uint32_t, FindSeed, (const SeedQuery& query));

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_SEED_KERNEL_H_
