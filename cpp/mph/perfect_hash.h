#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/monotone_sequence.h"
#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {

// A minimal perfect hash function: n distinct key codes -> [0, n), one to one.
//
// Bucket placement with one-byte seeds after PHast (Beling and Sanders, arXiv 2504.17918): a code
// picks a bucket and a slice of slots, both monotone in the code, and the bucket's seed picks the
// slot inside the slice for all keys of the bucket at once, without collision. Seed 0 means that no
// seed worked: the keys of the bucket are bumped to the next, much smaller level under new codes.
// Slots from n on, which only bumped keys reach, are mapped to the slots below n that level 0 left
// free ("holes").
//
// Placement departs from both functions of the paper. With group_bits = g a seed is
// (shift << g) | group, and
//   slot = slice(code) + offset(code, group) + shift.
// Inside a group all seeds shift the same pattern, so the builder tests 2^(8 - g) of them with one
// word per key (the idea of PHast+); the groups are independent hash functions (PHast), so a bucket
// whose keys collide in one group still has the others. Measured by bench_vocabulary with a million
// keys: g = 4 takes 1.99 bits per key; g = 3 takes 2.03 in two thirds of the time; g = 8, which is
// PHast's own placement, 1.96 in nine times the time.
inline constexpr int kMaxLevels = 8;
inline constexpr int kMinGroupBits = 3;  // 2^5 shifts: any 32 bits lie in one unaligned word
inline constexpr int kMaxGroupBits = 8;
inline constexpr std::int64_t kMinLevelSlots = 128;
inline constexpr std::int64_t kMaxKeys = std::int64_t{1} << 40;

// Number of slots and buckets of one level.
struct LevelShape {
  std::int64_t num_slots = 0;
  std::int64_t num_buckets = 0;
};

// What the codes of one level are mapped with.
struct Level {
  Level() = default;
  // Requires shape.num_slots >= kMinLevelSlots, shape.num_buckets >= 1, group_bits in
  // [kMinGroupBits, kMaxGroupBits].
  Level(const LevelShape& shape, int group_bits, std::int64_t level_first_bucket,
        std::int64_t level_first_slot) noexcept
      : num_buckets(static_cast<std::uint64_t>(shape.num_buckets)),
        first_bucket(level_first_bucket),
        first_slot(level_first_slot) {
    // 2^10 offsets in a big level (more gain nothing), a 32nd to a 64th of a small one, whose ends
    // fewer slices reach.
    const int offset_bits =
        std::clamp(BitWidth(static_cast<std::uint64_t>(shape.num_slots)) - 6, 5, 10);
    offset_mask = (std::uint64_t{1} << offset_bits) - 1;
    const std::uint64_t max_shift = (std::uint64_t{1} << (8 - group_bits)) - 1;
    num_slices = static_cast<std::uint64_t>(shape.num_slots) - offset_mask - max_shift;
  }

  std::int64_t Bucket(KeyCode code) const noexcept {
    return first_bucket + static_cast<std::int64_t>(MultiplyHigh(code, num_buckets));
  }
  std::int64_t Slice(KeyCode code) const noexcept {
    return first_slot + static_cast<std::int64_t>(MultiplyHigh(code, num_slices));
  }
  static constexpr std::uint64_t kOffsetFactor = 0x9E3779B97F4A7C15ULL;
  // The multiplication by a constant does not wait for the seed that names the group.
  std::int64_t Offset(KeyCode code, std::uint64_t group) const noexcept {
    return static_cast<std::int64_t>(((code * kOffsetFactor * (2 * group + 1)) >> 40) &
                                     offset_mask);
  }

  std::uint64_t num_buckets = 0;
  std::uint64_t num_slices = 0;
  std::uint64_t offset_mask = 0;
  std::int64_t first_bucket = 0;
  std::int64_t first_slot = 0;
};

// Evaluates a perfect hash function whose seeds and holes lie elsewhere.
class PerfectHash {
 public:
  PerfectHash() = default;
  // Requires 1..kMaxLevels shapes as Level wants them; seeds of all buckets, level after level;
  // holes of all slots from num_keys on.
  PerfectHash(std::int64_t num_keys, int group_bits, Span<const LevelShape> shapes,
              const std::uint8_t* seeds, const MonotoneSequence& holes) noexcept
      : num_keys_(num_keys),
        group_bits_(group_bits),
        num_levels_(static_cast<int>(shapes.size())),
        seeds_(seeds),
        holes_(holes) {
    std::int64_t first_bucket = 0;
    std::int64_t first_slot = 0;
    for (int i = 0; i < num_levels_; ++i) {
      levels_[static_cast<std::size_t>(i)] = Level(shapes[i], group_bits, first_bucket, first_slot);
      first_bucket += shapes[i].num_buckets;
      first_slot += shapes[i].num_slots;
    }
  }

  void PrefetchSeed(KeyCode code) const noexcept {
    __builtin_prefetch(seeds_ + levels_[0].Bucket(code));
  }

  // What a code without a seed on level 0 reads next.
  void PrefetchBumpedSeed(KeyCode code) const noexcept {
    if (num_levels_ > 1) __builtin_prefetch(seeds_ + levels_[1].Bucket(Remix(code)));
  }

  // The slot of a code in [0, num_keys). A code that was not built in gets any slot, or -1. Any
  // bytes in seeds and holes are safe: the result is in [-1, num_keys).
  std::int64_t Slot(KeyCode code) const noexcept {
    const std::int64_t slot = PlacedSlot(code, 0);
    return slot < num_keys_ ? slot : Hole(slot);
  }
  // The slot before holes are filled: any slot of the levels from `first_level` on, or -1 when none
  // of them has a seed. Below level 0 the code is the remixed one.
  std::int64_t PlacedSlot(KeyCode code, int first_level) const noexcept {
    const std::uint64_t group_mask = (std::uint64_t{1} << group_bits_) - 1;
    for (int i = first_level; i < num_levels_; ++i, code = Remix(code)) {
      const Level& level = levels_[static_cast<std::size_t>(i)];
      const std::uint64_t seed = seeds_[level.Bucket(code)];
      if (seed == 0) continue;
      return level.Slice(code) + level.Offset(code, seed & group_mask) +
             static_cast<std::int64_t>(seed >> group_bits_);
    }
    return -1;
  }

 private:
  std::int64_t Hole(std::int64_t slot) const noexcept {
    const std::int64_t hole = holes_.At(slot - num_keys_);
    return hole < num_keys_ ? hole : -1;
  }

  std::int64_t num_keys_ = 0;
  int group_bits_ = kMinGroupBits;
  int num_levels_ = 0;
  const std::uint8_t* seeds_ = nullptr;
  std::array<Level, kMaxLevels> levels_;
  MonotoneSequence holes_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_H_
