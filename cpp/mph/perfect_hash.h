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
// Bucket placement after PHast (Beling and Sanders, arXiv 2504.17918): a code picks a bucket and a
// slice of slots, both monotone in the code, and the bucket's seed picks the slot inside the slice
// for all keys of the bucket at once, without collision. Seed 0 means that no seed worked: the keys
// of the bucket are bumped to the next, much smaller level under new codes. Slots from n on, which
// only bumped keys reach, are mapped to the slots below n that level 0 left free ("holes").
//
// Placement departs from the paper in three points.
//  - A seed has `seed_bits` bits and is (shift << group_bits) | group;
//      slot = slice(code) + offset(code, group) + shift.
//    Inside a group all seeds shift the same pattern, so one word read per key tests all of them
//    (the idea of PHast+); the groups are independent hash functions (PHast), so a bucket whose
//    keys collide in one group still has the others.
//  - Seeds may be longer than a byte. A bucket is placed when a few of its 2^b seeds work, so about
//    b - 1.7 bits of a seed count, and longer seeds waste a smaller part.
//  - Buckets differ in their expected size: within a segment of 16 the first spans 2.6 times the
//    codes of the last. Big buckets are placed while slots are empty, small ones fill the gaps, as
//    with the skewed bucket functions of PTHash and PHOBIC, but still monotone in the code.
// docs/performance.md says what each is worth.
inline constexpr int kMaxLevels = 8;
inline constexpr int kMinSeedBits = 8;
inline constexpr int kMaxSeedBits = 12;
inline constexpr int kMinGroupBits = 3;
inline constexpr int kMaxGroupBits = 8;
inline constexpr int kMaxShiftBits = 5;
inline constexpr std::int64_t kMinLevelSlots = 128;
inline constexpr std::int64_t kMaxKeys = std::int64_t{1} << 40;

// How codes become buckets and offsets in one version of the image format.
struct HashScheme {
  int segment_bits;             // a segment has 2^segment_bits buckets
  std::uint32_t skew;           // size of a segment's last bucket over the mean, in 2^-16
  std::uint64_t offset_base;    // offset(code, group) =
  std::uint64_t offset_step;    //   ((code * (offset_base + group * offset_step)) >> offset_shift)
  int offset_shift;             //   mod 2^offset_bits; 0 stands for 32 - offset_bits
  int offset_bits_below_slots;  // offset_bits = bit width of num_slots less this, in 5..10
};
// Version 1 has equal buckets.
inline constexpr HashScheme kSchemeV1 = {0, 0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A, 40, 6};
inline constexpr HashScheme kSchemeV2 = {4, 0x8CCC, 0x85EBCA77, 0x3C6EF372, 0, 7};

// What tells one family of hash functions from another.
struct HashFormat {
  HashScheme scheme = kSchemeV2;
  int seed_bits = kMinSeedBits;    // kMinSeedBits..kMaxSeedBits
  int group_bits = kMinGroupBits;  // kMinGroupBits..kMaxGroupBits, seed_bits - group_bits in
                                   // 0..kMaxShiftBits
};

// Number of slots and buckets of one level.
struct LevelShape {
  std::int64_t num_slots = 0;
  std::int64_t num_buckets = 0;  // a multiple of 2^segment_bits
};

// Bytes of the seeds of `num_buckets` buckets, a multiple of 2^segment_bits.
constexpr std::int64_t SeedBytes(std::int64_t num_buckets, int seed_bits) noexcept {
  return (num_buckets * seed_bits + 7) / 8;
}

// What the codes of one level are mapped with.
struct Level {
  Level() = default;
  // Requires shape.num_slots >= kMinLevelSlots, shape.num_buckets >= 1.
  Level(const LevelShape& shape, const HashFormat& format, std::int64_t level_first_bucket,
        std::int64_t level_first_slot) noexcept
      : num_segments(static_cast<std::uint64_t>(shape.num_buckets) >> format.scheme.segment_bits),
        skew(format.scheme.skew),
        offset_base(format.scheme.offset_base),
        offset_step(format.scheme.offset_step),
        segment_bits(format.scheme.segment_bits),
        first_bucket(level_first_bucket),
        first_slot(level_first_slot) {
    // 2^10 offsets in a big level (more gain nothing), a small share of a small one, whose ends
    // fewer slices reach.
    offset_bits = std::clamp(BitWidth(static_cast<std::uint64_t>(shape.num_slots)) -
                                 format.scheme.offset_bits_below_slots,
                             5, 10);
    offset_shift = format.scheme.offset_shift != 0 ? format.scheme.offset_shift : 32 - offset_bits;
    const std::int64_t max_shift = (1 << (format.seed_bits - format.group_bits)) - 1;
    reach = (std::int64_t{1} << offset_bits) + max_shift;
    num_slices = static_cast<std::uint64_t>(shape.num_slots - reach + 1);
  }

  // The bucket of a code. Its segment is the high half of code * num_segments; the low half is the
  // place x in [0, 1) inside the segment, which is mapped to [0, 2^segment_bits) by the parabola
  // skew x + (1 - skew) x^2: x near 0 shares a bucket with more codes than x near 1.
  std::int64_t Bucket(KeyCode code) const noexcept {
    const std::uint64_t place = (code * num_segments) >> 48;
    const std::uint64_t bent = place * (skew + ((place * (65536 - skew)) >> 16));
    return first_bucket +
           static_cast<std::int64_t>((MultiplyHigh(code, num_segments) << segment_bits) +
                                     (bent >> (32 - segment_bits)));
  }
  std::int64_t Slice(KeyCode code) const noexcept {
    return first_slot + static_cast<std::int64_t>(MultiplyHigh(code, num_slices));
  }
  // The two products with the code do not wait for the seed that names the group.
  std::int64_t Offset(KeyCode code, std::uint64_t group) const noexcept {
    return static_cast<std::int64_t>(
        ((code * offset_base + code * offset_step * group) >> offset_shift) &
        ((std::uint64_t{1} << offset_bits) - 1));
  }

  std::uint64_t num_segments = 0;
  std::uint64_t num_slices = 0;
  std::uint64_t skew = 0;
  std::uint64_t offset_base = 0;
  std::uint64_t offset_step = 0;
  int segment_bits = 0;
  int offset_shift = 0;
  int offset_bits = 0;
  std::int64_t reach = 0;  // slots of a code lie in [Slice(code), Slice(code) + reach)
  std::int64_t first_bucket = 0;
  std::int64_t first_slot = 0;
};

// Evaluates a perfect hash function whose seeds and holes lie elsewhere.
class PerfectHash {
 public:
  PerfectHash() = default;
  // Requires 1..kMaxLevels shapes as Level wants them; the packed seeds of all buckets, level after
  // level, behind at least 3 readable bytes; holes of all slots from num_keys on.
  PerfectHash(std::int64_t num_keys, const HashFormat& format, Span<const LevelShape> shapes,
              const std::uint8_t* seeds, const MonotoneSequence& holes) noexcept
      : num_keys_(num_keys),
        seed_bits_(format.seed_bits),
        group_bits_(format.group_bits),
        num_levels_(static_cast<int>(shapes.size())),
        seeds_(seeds),
        holes_(holes) {
    std::int64_t first_bucket = 0;
    std::int64_t first_slot = 0;
    for (int i = 0; i < num_levels_; ++i) {
      levels_[static_cast<std::size_t>(i)] = Level(shapes[i], format, first_bucket, first_slot);
      first_bucket += shapes[i].num_buckets;
      first_slot += shapes[i].num_slots;
    }
  }

  void PrefetchSeed(KeyCode code) const noexcept {
    __builtin_prefetch(seeds_ + ((levels_[0].Bucket(code) * seed_bits_) >> 3));
  }

  // What a code without a seed on level 0 reads next.
  void PrefetchBumpedSeed(KeyCode code) const noexcept {
    if (num_levels_ > 1)
      __builtin_prefetch(seeds_ + ((levels_[1].Bucket(Remix(code)) * seed_bits_) >> 3));
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
      const std::uint64_t seed = LoadPackedByEnd(seeds_, seed_bits_, level.Bucket(code));
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
  int seed_bits_ = kMinSeedBits;
  int group_bits_ = kMinGroupBits;
  int num_levels_ = 0;
  const std::uint8_t* seeds_ = nullptr;
  std::array<Level, kMaxLevels> levels_;
  MonotoneSequence holes_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_H_
