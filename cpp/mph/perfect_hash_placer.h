#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_PLACER_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_PLACER_H_

#include <cstdint>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/packed_ints.h"
#include "cpp/mph/perfect_hash.h"
#include "cpp/mph/perfect_hash_seed_kernel.h"

namespace feedfast::mph {

// Bits of the occupied slots in [begin, end), with spare bytes for the reads of the seed search.
class SlotSet {
 public:
  SlotSet() = default;
  SlotSet(std::int64_t begin, std::int64_t end)
      : first_word_(begin / 64), bytes_((end - first_word_ * 64) / 8 + kWindowBytes + 8) {}

  bool Contains(std::int64_t slot) const noexcept {
    slot -= first_word_ * 64;
    return ((bytes_[slot >> 3] >> (slot & 7)) & 1) != 0;
  }
  void Insert(std::int64_t slot) noexcept {
    slot -= first_word_ * 64;
    bytes_[slot >> 3] = static_cast<std::uint8_t>(bytes_[slot >> 3] | (1U << (slot & 7)));
  }
  // The bits from a slot on that is a multiple of 8.
  const std::uint8_t* BytesFrom(std::int64_t slot) const noexcept {
    return bytes_.data() + ((slot - first_word_ * 64) >> 3);
  }
  // Adds the slots of `other` that lie inside this set.
  void Merge(const SlotSet& other) noexcept;
  // The first slot from `slot` on that is not in the set; slots from the end on are not.
  std::int64_t NextFree(std::int64_t slot) const noexcept;

 private:
  std::int64_t first_word_ = 0;
  AlignedBuffer<std::uint8_t> bytes_;
};

// Finds seeds for consecutive buckets of one level.
class BucketPlacer {
 public:
  // Requires format.seed_bits - format.group_bits == kShiftBits and level.first_bucket ==
  // level.first_slot == 0.
  BucketPlacer(const LevelShape& shape, const Level& level, const HashFormat& format);

  // Sets the seeds of buckets [first_bucket, first_bucket + seeds.size()), 0 where none works, and
  // inserts the slots of their codes into `occupied`. `codes` are the ascending codes of exactly
  // these buckets. Depends on its arguments alone.
  //
  // Big buckets go first, because they are the hardest to place, but only within a window that
  // moves from left to right, because the slices of far buckets do not meet (the paper keeps a
  // priority queue for it): bucket b of size k is due at time b - lead(k).
  void Place(Span<const KeyCode> codes, std::int64_t first_bucket, Span<std::uint16_t> seeds,
             SlotSet* occupied);

 private:
  std::uint16_t FindSeed(Span<const KeyCode> keys, const SlotSet& occupied) const noexcept;

  const Level& level_;
  int group_bits_;
  decltype(&scalar::FindSeed) find_seed_;
  std::vector<std::uint32_t> multipliers_;          // of each group, mod 2^32
  std::int64_t leads_[kMaxBucketKeys + 1];          // in buckets, by size
  std::vector<std::uint32_t> starts_;               // of the buckets in `codes`
  std::vector<std::int32_t> first_due_, next_due_;  // rings of lists of buckets by their time
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_PLACER_H_
