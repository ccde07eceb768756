#include "cpp/mph/perfect_hash_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/parallel_for.h"

namespace feedfast::mph {
namespace {

// Bits of occupied slots, with spare bytes so that a window of 32 bits anywhere is one word read.
class SlotSet {
 public:
  explicit SlotSet(std::int64_t num_slots) : bytes_(num_slots / 8 + 9) {}

  bool Contains(std::int64_t slot) const noexcept {
    return ((bytes_[slot >> 3] >> (slot & 7)) & 1) != 0;
  }
  void Insert(std::int64_t slot) noexcept {
    bytes_[slot >> 3] = static_cast<std::uint8_t>(bytes_[slot >> 3] | (1U << (slot & 7)));
  }
  // Bit i tells whether slot first + i is occupied, for i < 57.
  std::uint64_t Window(std::int64_t first) const noexcept {
    return LoadUnaligned<std::uint64_t>(bytes_.data() + (first >> 3)) >> (first & 7);
  }

 private:
  AlignedBuffer<std::uint8_t> bytes_;
};

// Buckets above this size are bumped unseen; none is that big for uniform codes.
constexpr std::int64_t kMaxBucket = 64;

bool HasEqual(const std::int64_t* values, std::int64_t size) noexcept {
  for (std::int64_t i = 1; i < size; ++i)
    for (std::int64_t j = 0; j < i; ++j)
      if (values[i] == values[j]) return true;
  return false;
}

// Places the keys of one level, bucket by bucket.
class LevelBuilder {
 public:
  LevelBuilder(Span<const KeyCode> codes, const LevelShape& shape, int group_bits)
      : codes_(codes),
        shape_(shape),
        level_(shape, group_bits, /*level_first_bucket=*/0, /*level_first_slot=*/0),
        group_bits_(group_bits),
        starts_(static_cast<std::size_t>(shape.num_buckets) + 1),
        occupied_(shape.num_slots) {
    std::int64_t next = 0;
    for (std::int64_t bucket = 0; bucket < shape.num_buckets; ++bucket) {
      starts_[static_cast<std::size_t>(bucket)] = next;
      while (next < codes.size() && level_.Bucket(codes[next]) == bucket) ++next;
    }
    starts_.back() = next;
  }

  // Writes the seed of every bucket and appends the codes of the next level to `bumped`.
  //
  // Big buckets go first, because they are the hardest to place, but only within a window that
  // moves from left to right, because the slices of far buckets do not meet (the paper
  // keeps a priority queue for it). Here bucket b of size k is due at time b - lead(k), so time t
  // looks at one bucket per size, b = t + lead(k), and every bucket comes up exactly once.
  void Run(std::uint8_t* seeds, std::vector<KeyCode>* bumped) {
    std::int64_t leads[kNumSizes + 1];
    // In buckets, how far the biggest ones run ahead.
    const double lead = kLeadShare * static_cast<double>(level_.offset_mask + 1) *
                        static_cast<double>(shape_.num_buckets) /
                        static_cast<double>(shape_.num_slots);
    for (std::int64_t size = 1; size <= kNumSizes; ++size)
      leads[size] = static_cast<std::int64_t>(lead * static_cast<double>(size - 1) /
                                              static_cast<double>(kNumSizes - 1));
    for (std::int64_t time = -leads[kNumSizes]; time < shape_.num_buckets; ++time)
      for (std::int64_t size = kNumSizes; size >= 1; --size) {
        const std::int64_t bucket = time + leads[size];
        if (bucket < 0 || bucket >= shape_.num_buckets) continue;
        const Span<const KeyCode> keys = Bucket(bucket);
        if (std::min(keys.size(), kNumSizes) != size) continue;
        seeds[bucket] = static_cast<std::uint8_t>(FindSeed(keys));
        if (seeds[bucket] != 0)
          Place(keys, seeds[bucket]);
        else
          for (const KeyCode code : keys) bumped->push_back(Remix(code));
      }
  }

  SlotSet TakeOccupied() && noexcept { return std::move(occupied_); }

 private:
  // Sizes from kNumSizes on are one class. It and the share of a slice that the biggest buckets run
  // ahead were found by a search over 10^5 keys; the optimum is flat.
  static constexpr std::int64_t kNumSizes = 8;
  static constexpr double kLeadShare = 0.75;

  Span<const KeyCode> Bucket(std::int64_t bucket) const noexcept {
    const std::int64_t start = starts_[static_cast<std::size_t>(bucket)];
    return codes_.subspan(start, starts_[static_cast<std::size_t>(bucket) + 1] - start);
  }

  // The seed that puts all keys on free slots with the smallest sum of slots (so that the left
  // fills up before the window leaves it); the smaller seed of two equal ones; 0 if there is none.
  std::uint64_t FindSeed(Span<const KeyCode> keys) const noexcept {
    if (keys.size() > kMaxBucket) return 0;
    const std::int64_t size = keys.size();
    std::int64_t slices[kMaxBucket];
    KeyCode codes[kMaxBucket];
    for (std::int64_t i = 0; i < size; ++i) {
      codes[i] = keys[i];
      slices[i] = level_.Slice(codes[i]);
    }
    const std::uint64_t no_shift = ~std::uint64_t{0} << (1 << (8 - group_bits_));
    std::uint64_t best_seed = 0;
    std::int64_t best_sum = 0;
    for (std::uint64_t group = 0; group < std::uint64_t{1} << group_bits_; ++group) {
      // Shift 0 of group 0 would be seed 0.
      std::uint64_t taken = group == 0 ? no_shift | 1 : no_shift;
      std::int64_t firsts[kMaxBucket];
      std::int64_t sum = 0;
      std::int64_t i = 0;
      for (; i < size && ~taken != 0; ++i) {
        firsts[i] = slices[i] + level_.Offset(codes[i], group);
        sum += firsts[i];
        taken |= occupied_.Window(firsts[i]);
      }
      if (~taken == 0) continue;
      const int shift = __builtin_ctzll(~taken);
      sum += shift * size;
      if ((best_seed != 0 && sum >= best_sum) || HasEqual(firsts, i)) continue;
      best_sum = sum;
      best_seed = static_cast<std::uint64_t>(shift) << group_bits_ | group;
    }
    return best_seed;
  }

  void Place(Span<const KeyCode> keys, std::uint64_t seed) noexcept {
    const std::uint64_t group = seed & ((std::uint64_t{1} << group_bits_) - 1);
    const auto shift = static_cast<std::int64_t>(seed >> group_bits_);
    for (const KeyCode code : keys)
      occupied_.Insert(level_.Slice(code) + level_.Offset(code, group) + shift);
  }

  Span<const KeyCode> codes_;
  LevelShape shape_;
  Level level_;
  int group_bits_;
  std::vector<std::int64_t> starts_;  // bucket b holds codes [starts[b], starts[b + 1])
  SlotSet occupied_;
};

// Where each value of one byte begins in a range that is sorted by that byte.
struct Partition {
  KeyCode* begins[257];
};

// Moves the codes of a range in place so that they ascend by the byte at `shift`.
Partition PartitionByByte(KeyCode* first, KeyCode* last, int shift) noexcept {
  const auto digit = [shift](KeyCode code) { return (code >> shift) & 255; };
  std::int64_t counts[256] = {};
  for (const KeyCode* p = first; p != last; ++p) ++counts[digit(*p)];
  Partition partition;
  partition.begins[0] = first;
  for (int d = 0; d < 256; ++d) partition.begins[d + 1] = partition.begins[d] + counts[d];
  KeyCode* heads[256];
  std::copy_n(partition.begins, 256, heads);
  for (std::uint64_t d = 0; d < 256; ++d)
    while (heads[d] != partition.begins[d + 1]) {
      KeyCode code = *heads[d];
      while (digit(code) != d) std::swap(code, *heads[digit(code)]++);
      *heads[d]++ = code;
    }
  return partition;
}

// Radix sort by the byte at `shift` and those below; uniform codes soon leave small ranges.
void SortRange(KeyCode* first, KeyCode* last, int shift) noexcept {
  if (last - first <= 256 || shift < 0) {
    std::sort(first, last);
    return;
  }
  const Partition partition = PartitionByByte(first, last, shift);
  for (int d = 0; d < 256; ++d) SortRange(partition.begins[d], partition.begins[d + 1], shift - 8);
}

// The holes of slots num_keys.. of all levels, in slot order. A slot that no key has repeats the
// hole before it, which keeps the sequence non-descending.
std::vector<std::int64_t> MapHoles(const std::vector<LevelShape>& shapes,
                                   const std::vector<SlotSet>& occupied, std::int64_t num_keys) {
  std::vector<std::int64_t> holes;
  std::int64_t hole = 0;
  std::int64_t next = 0;  // holes below are taken; only level 0 has slots below num_keys
  for (std::size_t level = 0; level < shapes.size(); ++level)
    for (std::int64_t slot = level == 0 ? num_keys : 0; slot < shapes[level].num_slots; ++slot) {
      if (occupied[level].Contains(slot)) {
        while (occupied[0].Contains(next)) ++next;
        hole = next++;
      }
      holes.push_back(hole);
    }
  return holes;
}

}  // namespace

void SortCodes(Span<KeyCode> codes, int threads) {
  const Partition partition = PartitionByByte(codes.begin(), codes.end(), /*shift=*/56);
  ParallelFor(256, /*grain=*/1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t d = begin; d < end; ++d)
      SortRange(partition.begins[d], partition.begins[d + 1], /*shift=*/48);
  });
}

StatusOr<PerfectHashParts> BuildPerfectHash(Span<const KeyCode> codes,
                                            const PerfectHashOptions& options) {
  const std::int64_t num_keys = codes.size();
  PerfectHashParts parts;
  std::vector<SlotSet> occupied;
  std::vector<KeyCode> level_codes;
  for (Span<const KeyCode> rest = codes; !rest.empty(); rest = level_codes) {
    if (parts.levels.size() == kMaxLevels)
      return FailedPrecondition("perfect hash: ", rest.size(), " of ", num_keys,
                                " keys have no slot after ", kMaxLevels, " levels");
    LevelShape shape;
    // Level 0 has a slot per key. Later levels get an eighth more, so that their number stays
    // small; it costs two bits of the hole sequence per slot.
    shape.num_slots = parts.levels.empty() ? rest.size() : rest.size() + rest.size() / 8;
    shape.num_slots = std::max(shape.num_slots, kMinLevelSlots);
    shape.num_buckets = static_cast<std::int64_t>(
        std::ceil(static_cast<double>(rest.size()) / options.keys_per_bucket));
    const std::size_t first_bucket = parts.seeds.size();
    parts.seeds.resize(first_bucket + static_cast<std::size_t>(shape.num_buckets));
    std::vector<KeyCode> bumped;
    LevelBuilder builder(rest, shape, options.group_bits);
    builder.Run(parts.seeds.data() + first_bucket, &bumped);
    SortCodes(bumped, /*threads=*/1);
    parts.levels.push_back(shape);
    occupied.push_back(std::move(builder).TakeOccupied());
    level_codes = std::move(bumped);
  }
  parts.holes = MapHoles(parts.levels, occupied, num_keys);
  return parts;
}

}  // namespace feedfast::mph
