#include "cpp/mph/vocabulary_lookup.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {
namespace {

constexpr KernelTable<decltype(&scalar::AdvanceGroups)> kAdvanceGroups =
    FEEDFAST_KERNEL_TABLE(AdvanceGroups);
constexpr KernelTable<decltype(&scalar::FillSlots)> kFillSlots = FEEDFAST_KERNEL_TABLE(FillSlots);

}  // namespace

VocabularyLookup::VocabularyLookup(Span<const std::uint8_t> image, const ImageShape& shape) noexcept
    : hash_seed_(shape.hash_seed), num_rows_(shape.num_rows), row_bits_(shape.row_bits) {
  const ImageLayout layout(shape);
  const auto section = [&](Section s) { return image.data() + layout.sections[s].begin; };
  hash_ = PerfectHash(shape.num_keys, shape.format, shape.level_span(), section(kSeeds),
                      MonotoneSequence(layout.holes, section(kHolesLow), section(kHolesHigh),
                                       section(kHolesSamples)));
  packed_rows_ = section(kRows);
  holes_ = {shape.num_keys,     layout.holes.high_words, layout.holes.low_bits,
            section(kHolesLow), section(kHolesHigh),     section(kHolesSamples)};
  tables_.seed_bits = static_cast<std::uint32_t>(shape.format.seed_bits);
  tables_.group_bits = shape.format.group_bits;
  tables_.fingerprint_bits = shape.fingerprint_bits;
  tables_.seeds = section(kSeeds);
  tables_.fingerprints = section(kFingerprints);
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max() - 32;
  if (shape.num_levels == 0 || shape.levels[0].num_slots > kMost ||
      shape.levels[0].num_buckets * shape.format.seed_bits > kMost)
    return;
  const Level level(shape.levels[0], shape.format, 0, 0);
  tables_.num_keys = static_cast<std::uint32_t>(shape.num_keys);
  tables_.num_segments = static_cast<std::uint32_t>(level.num_segments);
  tables_.skew = static_cast<std::uint32_t>(level.skew);
  tables_.segment_bits = level.segment_bits;
  tables_.num_slices = static_cast<std::uint32_t>(level.num_slices);
  tables_.offset_base = level.offset_base;
  tables_.offset_step = level.offset_step;
  tables_.offset_shift = level.offset_shift;
  tables_.offset_mask = (1U << level.offset_bits) - 1;
  tables_.low_offsets = level.offset_shift + level.offset_bits <= 32;
}

inline void VocabularyLookup::PrefetchFingerprint(std::int64_t slot) const noexcept {
  __builtin_prefetch(tables_.fingerprints + slot * (tables_.fingerprint_bits / 8));
}

inline void VocabularyLookup::PrefetchRow(std::int64_t slot) const noexcept {
  __builtin_prefetch(packed_rows_ + ((slot * row_bits_) >> 3));
}

inline std::int64_t VocabularyLookup::StoredRow(std::int64_t row) const noexcept {
  if (row_bits_ == 0 || row == 0) return row;
  row = static_cast<std::int64_t>(LoadPacked(packed_rows_, row_bits_, row - 1));
  return row < num_rows_ ? row : 0;  // only an altered image has others
}

std::int64_t VocabularyLookup::RowOf(KeyCode code, std::int64_t slot) const noexcept {
  if (slot < 0) return 0;
  const int bits = tables_.fingerprint_bits;
  const std::uint8_t* stored = tables_.fingerprints + slot * (bits / 8);
  if ((bits == 8 && *stored != Fingerprint(code, 8)) ||
      (bits == 16 && LoadUnaligned<std::uint16_t>(stored) != Fingerprint(code, 16)) ||
      (bits == 32 && LoadUnaligned<std::uint32_t>(stored) != Fingerprint(code, 32)))
    return 0;
  return StoredRow(slot + 1);
}

// The state of one call: groups of keys that stand at different stages, and the few keys that need
// more than level 0.
class LookupPipeline {
 public:
  LookupPipeline(const VocabularyLookup& lookup, Span<std::int64_t> rows) noexcept
      : lookup_(lookup), rows_(rows) {}

  void Run(const KeySource& keys, std::int64_t begin) noexcept {
    std::int64_t first = 0;
    if (lookup_.tables_.num_keys != 0 && rows_.size() >= kGroupKeys) first = RunGroups(keys, begin);
    for (; first < rows_.size(); first += kGroupKeys) {
      const std::int64_t count = std::min(kGroupKeys, rows_.size() - first);
      std::string_view views[kGroupKeys];
      KeyCode codes[kGroupKeys];
      keys.Views(begin + first, {views, count});
      HashKeys({views, count}, lookup_.hash_seed_, codes);
      FindCodes({codes, count}, first);
    }
    FindPending();
  }

  void Run(Span<const KeyCode> codes) noexcept {
    for (std::int64_t first = 0; first < codes.size(); first += kMaxPending)
      FindCodes(codes.subspan(first, std::min(kMaxPending, codes.size() - first)), first);
    FindPending();
  }

 private:
  struct Pending {
    KeyCode code;
    std::int64_t position;
    int first_level;  // the first that may have a seed
  };

  // Strings are prefetched one group ahead, so two groups of views are held, in blocks of as many.
  static constexpr std::int64_t kViews = 4 * kGroupKeys;
  // Hashed, seed prefetched, slot found, fingerprint prefetched, row found.
  static constexpr std::int64_t kStages = 5;
  static constexpr std::int64_t kMaxPending = 64;

  // Looks up the full groups and returns how many keys these are.
  std::int64_t RunGroups(const KeySource& source, std::int64_t begin) noexcept {
    const auto advance = kAdvanceGroups.Get();
    const std::int64_t size = rows_.size() / kGroupKeys * kGroupKeys;
    std::string_view views[kViews];
    KeyGroup groups[kStages] = {};
    std::int64_t ignored[kGroupKeys];
    std::int64_t num_views = 0;
    AdvanceArgs args;
    args.tables = lookup_.tables_;
    const std::uint8_t* seed_words = args.tables.seeds - 4;
    const std::uint8_t* fingerprints = args.tables.fingerprints;
    const std::int64_t fingerprint_bytes = args.tables.fingerprint_bits / 8;
    const std::uint64_t hash_seed = lookup_.hash_seed_;
    for (std::int64_t first = 0; first < size + (kStages - 1) * kGroupKeys; first += kGroupKeys) {
      const std::int64_t step = first / kGroupKeys;
      const auto group = [&](std::int64_t age) -> KeyGroup& {
        return groups[(step + kStages - age) % kStages];
      };
      KeyGroup& hashed = group(0);
      KeyGroup& seeking = group(1);
      KeyGroup& located = group(2);
      KeyGroup& fetched = group(3);
      KeyGroup& placed = group(4);
      if (num_views < size && num_views < first + 2 * kGroupKeys) {
        const std::int64_t count = std::min(kViews / 2, size - num_views);
        source.Views(begin + num_views, {views + num_views % kViews, count});
        num_views += count;
      }
      if (first < size) {
        const std::string_view* now = views + first % kViews;
        const std::string_view* next = views + (first + kGroupKeys) % kViews;
        for (std::int64_t i = 0; i < kGroupKeys; ++i) {
          __builtin_prefetch(next[i].data());
          __builtin_prefetch(seed_words + seeking.seed_ends[i]);
          __builtin_prefetch(fingerprints + fetched.slots[i] * fingerprint_bytes);
          hashed.codes[i] = XXH3_64bits_withSeed(now[i].data(), now[i].size(), hash_seed);
        }
      } else {
        for (std::int64_t i = 0; i < kGroupKeys; ++i) {
          __builtin_prefetch(seed_words + seeking.seed_ends[i]);
          __builtin_prefetch(fingerprints + fetched.slots[i] * fingerprint_bytes);
        }
      }
      if (lookup_.row_bits_ != 0)
        for (const std::uint32_t slot : fetched.slots) lookup_.PrefetchRow(slot);
      const std::int64_t done = first - (kStages - 1) * kGroupKeys;
      args.hashed = &hashed;
      args.located = &located;
      args.placed = &placed;
      args.rows = done >= 0 ? rows_.data() + done : ignored;
      advance(args);
      if (done >= 0) Finish(placed, done);
    }
    return size;
  }

  // Completes rows [first, first + kGroupKeys) that the kernel wrote.
  void Finish(const KeyGroup& group, std::int64_t first) noexcept {
    if (lookup_.row_bits_ != 0)
      for (std::int64_t i = 0; i < kGroupKeys; ++i)
        rows_[first + i] = lookup_.StoredRow(rows_[first + i]);
    for (std::uint32_t keys = group.bumped; keys != 0; keys &= keys - 1) {
      const int i = __builtin_ctz(keys);
      lookup_.hash_.PrefetchBumpedSeed(group.codes[i]);
      Add({group.codes[i], first + i, 1});
    }
    for (std::uint32_t keys = group.beyond; keys != 0; keys &= keys - 1) {
      const int i = __builtin_ctz(keys);
      Add({group.codes[i], first + i, 0});
    }
  }

  // Takes keys first, first + 1, ... of the call up.
  void FindCodes(Span<const KeyCode> codes, std::int64_t first) noexcept {
    for (const KeyCode code : codes) lookup_.hash_.PrefetchSeed(code);
    for (std::int64_t i = 0; i < codes.size(); ++i) Add({codes[i], first + i, 0});
  }

  void Add(const Pending& pending) noexcept {
    if (num_pending_ == kMaxPending) FindPending();
    pending_[num_pending_++] = pending;
  }

  // Pass by pass, so that the reads of many keys overlap.
  void FindPending() noexcept {
    std::int64_t slots[kMaxPending];
    for (std::int64_t i = 0; i < num_pending_; ++i) {
      const Pending& key = pending_[i];
      slots[i] = lookup_.hash_.PlacedSlot(key.first_level == 0 ? key.code : Remix(key.code),
                                          key.first_level);
    }
    kFillSlots.Get()(lookup_.holes_, slots, num_pending_);
    for (std::int64_t i = 0; i < num_pending_; ++i) lookup_.PrefetchFingerprint(slots[i]);
    if (lookup_.row_bits_ != 0)
      for (std::int64_t i = 0; i < num_pending_; ++i) lookup_.PrefetchRow(slots[i]);
    for (std::int64_t i = 0; i < num_pending_; ++i)
      rows_[pending_[i].position] = lookup_.RowOf(pending_[i].code, slots[i]);
    num_pending_ = 0;
  }

  const VocabularyLookup& lookup_;
  Span<std::int64_t> rows_;
  Pending pending_[kMaxPending];
  std::int64_t num_pending_ = 0;
};

void VocabularyLookup::Find(const KeySource& keys, std::int64_t begin,
                            Span<std::int64_t> rows) const noexcept {
  LookupPipeline(*this, rows).Run(keys, begin);
}

void VocabularyLookup::FindCodes(Span<const KeyCode> codes,
                                 Span<std::int64_t> rows) const noexcept {
  LookupPipeline(*this, rows).Run(codes);
}

}  // namespace feedfast::mph
