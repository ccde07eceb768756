#include "cpp/mph/perfect_hash_placer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace feedfast::mph {
namespace {

constexpr KernelTable<decltype(&scalar::FindSeed)> kFindSeed = FEEDFAST_KERNEL_TABLE(FindSeed);

// Slots that a bucket of `size` keys runs ahead, over 2^offset_bits. The shape is a fit to the best
// leads per size that a random search found for a million keys; the optimum is flat.
double Lead(int size) noexcept { return size <= 2 ? 0 : 1.15 * (1 - 2.0 / size); }

}  // namespace

void SlotSet::Merge(const SlotSet& other) noexcept {
  const std::int64_t begin = std::max(first_word_, other.first_word_);
  const std::int64_t end =
      std::min(first_word_ + bytes_.size() / 8, other.first_word_ + other.bytes_.size() / 8);
  for (std::int64_t word = begin; word < end; ++word) {
    std::uint8_t* to = bytes_.data() + (word - first_word_) * 8;
    const std::uint64_t merged =
        LoadUnaligned<std::uint64_t>(to) |
        LoadUnaligned<std::uint64_t>(other.bytes_.data() + (word - other.first_word_) * 8);
    std::memcpy(to, &merged, sizeof(merged));
  }
}

std::int64_t SlotSet::NextFree(std::int64_t slot) const noexcept {
  const auto free_of = [&](std::int64_t word) {
    return ~LoadUnaligned<std::uint64_t>(bytes_.data() + (word - first_word_) * 8);
  };
  std::int64_t word = slot / 64;
  std::uint64_t free = free_of(word) & (~std::uint64_t{0} << (slot % 64));
  while (free == 0) free = free_of(++word);
  return word * 64 + __builtin_ctzll(free);
}

BucketPlacer::BucketPlacer(const LevelShape& shape, const Level& level, const HashFormat& format)
    : level_(level), group_bits_(format.group_bits), find_seed_(kFindSeed.Get()) {
  for (std::uint64_t group = 0; group < std::uint64_t{1} << group_bits_; ++group)
    multipliers_.push_back(
        static_cast<std::uint32_t>(level.offset_base + group * level.offset_step));
  const double buckets_per_window = static_cast<double>(std::int64_t{1} << level.offset_bits) *
                                    static_cast<double>(shape.num_buckets) /
                                    static_cast<double>(shape.num_slots);
  for (int size = 0; size <= kMaxBucketKeys; ++size)
    leads_[size] = static_cast<std::int64_t>(Lead(size) * buckets_per_window);
  std::size_t ring = 1;
  while (ring <= static_cast<std::size_t>(leads_[kMaxBucketKeys])) ring *= 2;
  first_due_.assign(ring, -1);
  next_due_.assign(ring, -1);
}

void BucketPlacer::Place(Span<const KeyCode> codes, std::int64_t first_bucket,
                         Span<std::uint16_t> seeds, SlotSet* occupied) {
  const std::int64_t num_buckets = seeds.size();
  starts_.resize(static_cast<std::size_t>(num_buckets) + 1);
  std::int64_t next_code = 0;
  for (std::int64_t bucket = 0; bucket < num_buckets; ++bucket) {
    starts_[static_cast<std::size_t>(bucket)] = static_cast<std::uint32_t>(next_code);
    while (next_code < codes.size() && level_.Bucket(codes[next_code]) == first_bucket + bucket)
      ++next_code;
  }
  starts_.back() = static_cast<std::uint32_t>(next_code);
  const auto keys_of = [&](std::int64_t bucket) {
    const std::int64_t start = starts_[static_cast<std::size_t>(bucket)];
    return codes.subspan(start, starts_[static_cast<std::size_t>(bucket) + 1] - start);
  };

  // Bucket b enters at time b and is due max_lead - lead later. Those due at one time form a list,
  // the last one to enter, which is the biggest, in front.
  const std::int64_t max_lead = leads_[kMaxBucketKeys];
  const auto slot_of = [&](std::int64_t time) {
    return static_cast<std::size_t>(time) & (first_due_.size() - 1);
  };
  for (std::int64_t time = 0; time < num_buckets + max_lead; ++time) {
    if (time < num_buckets) {
      seeds[time] = 0;
      const std::int64_t size = std::min<std::int64_t>(keys_of(time).size(), kMaxBucketKeys);
      if (size > 0) {
        std::int32_t& first = first_due_[slot_of(time + max_lead - leads_[size])];
        next_due_[slot_of(time)] = first;
        first = static_cast<std::int32_t>(time);
      }
    }
    std::int64_t bucket = std::exchange(first_due_[slot_of(time)], -1);
    for (; bucket >= 0; bucket = next_due_[slot_of(bucket)]) {
      const Span<const KeyCode> keys = keys_of(bucket);
      const std::uint16_t seed = FindSeed(keys, *occupied);
      seeds[bucket] = seed;
      if (seed == 0) continue;
      const std::uint64_t group = seed & ((std::uint64_t{1} << group_bits_) - 1);
      const std::int64_t shift = seed >> group_bits_;
      for (const KeyCode code : keys)
        occupied->Insert(level_.Slice(code) + level_.Offset(code, group) + shift);
    }
  }
}

std::uint16_t BucketPlacer::FindSeed(Span<const KeyCode> keys,
                                     const SlotSet& occupied) const noexcept {
  if (keys.size() > kMaxBucketKeys) return 0;
  const std::int64_t window = level_.Slice(keys[0]) & ~std::int64_t{15};
  // Codes that are not uniform can make a bucket wider than the window.
  if (level_.Slice(keys[keys.size() - 1]) - window + (std::int64_t{1} << level_.offset_bits) >
      kWindowSlots)
    return 0;
  std::uint32_t codes[kMaxBucketKeys];
  std::uint32_t slices[kMaxBucketKeys];
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    codes[i] = static_cast<std::uint32_t>(keys[i]);
    slices[i] = static_cast<std::uint32_t>(level_.Slice(keys[i]) - window);
  }
  return static_cast<std::uint16_t>(
      find_seed_({codes, slices, static_cast<int>(keys.size()), group_bits_, level_.offset_bits,
                  multipliers_.data(), occupied.BytesFrom(window)}));
}

}  // namespace feedfast::mph
