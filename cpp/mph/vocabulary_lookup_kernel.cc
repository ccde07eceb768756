// Compiled once per CPU target: kernels only, everything but the entry point has internal linkage.
// The loops are plain and of fixed length, so that the compiler makes vectors of them; the reads at
// computed places stay scalar, which is no slower than gathers.
#include "cpp/mph/vocabulary_lookup_kernel.h"

#if defined(__BMI2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

// Only constants: inline functions of these would be shared with other objects.
#include "cpp/mph/key_hash.h"
#include "cpp/mph/monotone_sequence.h"
#include "cpp/mph/perfect_hash.h"

namespace feedfast::mph::FEEDFAST_TARGET {
namespace {

template <typename T>
T Load(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// MultiplyHigh(code, size) << 32 and the 32 bits below it, by products of 32 bits. Exact: what is
// dropped, the low 32 bits of (low half * size), carries nothing into the sum.
std::uint64_t MultiplyHigh32(std::uint64_t code, std::uint32_t size) {
  const std::uint64_t low = std::uint64_t{static_cast<std::uint32_t>(code)} * size;
  const std::uint64_t high = std::uint64_t{static_cast<std::uint32_t>(code >> 32)} * size;
  return high + (low >> 32);
}

// Bit i = flags[i], each 0 or 1. The factor moves the flag of byte k of a word to bit 56 + k.
std::uint32_t PackFlags(const std::uint8_t* flags) {
  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < kGroupKeys; i += 8)
    bits |=
        static_cast<std::uint32_t>((Load<std::uint64_t>(flags + i) * 0x0102040810204080ULL) >> 56)
        << i;
  return bits;
}

// Level::Bucket, and where LoadPackedByEnd finds its seed. Loops of one element width each, which
// take no shuffles.
void FindSeeds(const LookupTables& tables, KeyGroup* group) {
  const std::uint32_t num_segments = tables.num_segments;
  const std::uint32_t num_slices = tables.num_slices;
  const std::uint32_t skew = tables.skew;
  const std::uint32_t bend = 65536 - skew;
  const std::uint32_t seed_bits = tables.seed_bits;
  const int segment_bits = tables.segment_bits;
  std::uint64_t products[kGroupKeys];
  for (std::int64_t i = 0; i < kGroupKeys; ++i)
    products[i] = MultiplyHigh32(group->codes[i], num_segments);
  for (std::int64_t i = 0; i < kGroupKeys; ++i) {
    const auto segment = static_cast<std::uint32_t>(products[i] >> 32);
    const std::uint32_t place = static_cast<std::uint32_t>(products[i]) >> 16;
    const std::uint32_t bent = place * (skew + ((place * bend) >> 16));
    const std::uint32_t bucket = (segment << segment_bits) +
                                 ((bent >> 1) >> (31 - segment_bits));  // 31: segment_bits may be 0
    const std::uint32_t bit = bucket * seed_bits;
    const std::uint32_t end = (bit + seed_bits + 7) >> 3;
    group->seed_ends[i] = end;
    group->seed_shifts[i] = 32 + bit - 8 * end;
  }
  for (std::int64_t i = 0; i < kGroupKeys; ++i)
    group->slices[i] =
        static_cast<std::uint32_t>(MultiplyHigh32(group->codes[i], num_slices) >> 32);
}

// Offset is std::uint32_t where all bits of an offset are in the low half of its product.
template <typename Offset>
void FindSlots(const LookupTables& tables, KeyGroup* group) {
  const std::uint32_t seed_mask = (1U << tables.seed_bits) - 1;
  const std::uint32_t group_mask = (1U << tables.group_bits) - 1;
  const auto offset_base = static_cast<Offset>(tables.offset_base);
  const auto offset_step = static_cast<Offset>(tables.offset_step);
  const std::uint32_t offset_mask = tables.offset_mask;
  const std::uint32_t last_slot = tables.num_keys - 1;
  const int group_bits = tables.group_bits;
  const int offset_shift = tables.offset_shift;
  const std::uint8_t* seed_words = tables.seeds - 4;  // a seed ends with the word it is read from
  std::uint32_t seeds[kGroupKeys];
  std::uint8_t bumped[kGroupKeys];
  std::uint8_t beyond[kGroupKeys];
  for (std::int64_t i = 0; i < kGroupKeys; ++i)
    seeds[i] = Load<std::uint32_t>(seed_words + group->seed_ends[i]);
  for (std::int64_t i = 0; i < kGroupKeys; ++i) {
    const std::uint32_t seed = (seeds[i] >> group->seed_shifts[i]) & seed_mask;
    const Offset factor = offset_base + (seed & group_mask) * offset_step;
    const Offset product = static_cast<Offset>(group->codes[i]) * factor;
    const std::uint32_t slot = group->slices[i] + (seed >> group_bits) +
                               (static_cast<std::uint32_t>(product >> offset_shift) & offset_mask);
    group->slots[i] = slot <= last_slot ? slot : last_slot;
    bumped[i] = seed == 0;
    beyond[i] = slot > last_slot;
  }
  group->bumped = PackFlags(bumped);
  group->beyond = PackFlags(beyond) & ~group->bumped;
}

void WriteRows(const KeyGroup& group, std::int64_t* rows) {
  for (std::int64_t i = 0; i < kGroupKeys; ++i) rows[i] = std::int64_t{group.slots[i]} + 1;
}

template <typename Stored>
void WriteRows(const KeyGroup& group, const std::uint8_t* fingerprints, std::int64_t* rows) {
  constexpr int kShift = 64 - 8 * static_cast<int>(sizeof(Stored));
  Stored stored[kGroupKeys];
  for (std::int64_t i = 0; i < kGroupKeys; ++i)
    std::memcpy(stored + i, fingerprints + std::uint64_t{group.slots[i]} * sizeof(Stored),
                sizeof(Stored));
  for (std::int64_t i = 0; i < kGroupKeys; ++i) {
    const std::uint64_t code = group.codes[i];
    const std::uint64_t fingerprint = ((code ^ (code >> 29)) * kFingerprintFactor) >> kShift;
    rows[i] = fingerprint == stored[i] ? std::int64_t{group.slots[i]} + 1 : 0;
  }
}

std::uint64_t LoadWord(const std::uint8_t* words, std::int64_t i) {
  return Load<std::uint64_t>(words + 8 * i);
}

// Position of the set bit of `word` that has `rank` set bits below it. Requires one.
int SelectBit(std::uint64_t word, std::int64_t rank) {
#if defined(__BMI2__)
  return static_cast<int>(_tzcnt_u64(_pdep_u64(std::uint64_t{1} << rank, word)));
#else
  for (; rank > 0; --rank) word &= word - 1;
  return __builtin_ctzll(word);
#endif
}

std::int64_t Hole(const HoleTables& holes, std::int64_t i) {
  const std::uint64_t start = LoadWord(holes.samples, i / MonotoneShape::kSampleDistance);
  if (start >= static_cast<std::uint64_t>(holes.high_words) * 64) return -1;
  // Skip `skip` set bits from `start` on, which is itself the first of them.
  std::int64_t skip = i % MonotoneShape::kSampleDistance;
  auto at = static_cast<std::int64_t>(start >> 6);
  std::uint64_t word = LoadWord(holes.high, at) & (~std::uint64_t{0} << (start & 63));
  for (int ones = __builtin_popcountll(word); ones <= skip; ones = __builtin_popcountll(word)) {
    skip -= ones;
    if (++at == holes.high_words) return -1;
    word = LoadWord(holes.high, at);
  }
  const std::int64_t high = at * 64 + SelectBit(word, skip) - i;
  if (high < 0) return -1;
  const std::int64_t bit = i * holes.low_bits;
  const std::uint64_t low = (Load<std::uint64_t>(holes.low + (bit >> 3)) >> (bit & 7)) &
                            ((std::uint64_t{1} << holes.low_bits) - 1);
  const std::int64_t hole = (high << holes.low_bits) | static_cast<std::int64_t>(low);
  return hole < holes.num_keys ? hole : -1;
}

}  // namespace

void FillSlots(const HoleTables& holes, std::int64_t* slots, std::int64_t count) noexcept {
  constexpr std::int64_t kDistance = MonotoneShape::kSampleDistance;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t i = slots[k] - holes.num_keys;
    if (i < 0) continue;
    __builtin_prefetch(holes.samples + 8 * (i / kDistance));
    __builtin_prefetch(holes.low + ((i * holes.low_bits) >> 3));
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t i = slots[k] - holes.num_keys;
    if (i >= 0) __builtin_prefetch(holes.high + (LoadWord(holes.samples, i / kDistance) >> 3));
  }
  for (std::int64_t k = 0; k < count; ++k)
    if (slots[k] >= holes.num_keys) slots[k] = Hole(holes, slots[k] - holes.num_keys);
}

void AdvanceGroups(const AdvanceArgs& args) noexcept {
  FindSeeds(args.tables, args.hashed);
  if (args.tables.low_offsets)
    FindSlots<std::uint32_t>(args.tables, args.located);
  else
    FindSlots<std::uint64_t>(args.tables, args.located);
  switch (args.tables.fingerprint_bits) {
    case 0:
      return WriteRows(*args.placed, args.rows);
    case 8:
      return WriteRows<std::uint8_t>(*args.placed, args.tables.fingerprints, args.rows);
    case 16:
      return WriteRows<std::uint16_t>(*args.placed, args.tables.fingerprints, args.rows);
    default:
      return WriteRows<std::uint32_t>(*args.placed, args.tables.fingerprints, args.rows);
  }
}

}  // namespace feedfast::mph::FEEDFAST_TARGET
