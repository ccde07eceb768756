#include "cpp/mph/perfect_hash_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpp/common/parallel_for.h"

namespace feedfast::mph {
namespace {

LevelShape ShapeOf(std::int64_t num_keys, std::int64_t num_slots,
                   const PerfectHashOptions& options) noexcept {
  const std::int64_t segment_buckets = std::int64_t{1} << options.format().scheme.segment_bits;
  LevelShape shape;
  shape.num_slots = std::max(num_slots, kMinLevelSlots);
  shape.num_buckets =
      segment_buckets * static_cast<std::int64_t>(std::ceil(
                            static_cast<double>(num_keys) /
                            (options.keys_per_bucket * static_cast<double>(segment_buckets))));
  return shape;
}

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

}  // namespace

void SortCodes(Span<KeyCode> codes, int threads) {
  const Partition partition = PartitionByByte(codes.begin(), codes.end(), /*shift=*/56);
  ParallelFor(256, /*grain=*/1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t d = begin; d < end; ++d)
      SortRange(partition.begins[d], partition.begins[d + 1], /*shift=*/48);
  });
}

LevelBuilder FirstLevel(std::int64_t num_keys, const PerfectHashOptions& options) {
  return {ShapeOf(num_keys, num_keys, options), options.format()};
}

StatusOr<PerfectHashParts> CompletePerfectHash(LevelBuilder* first, std::vector<KeyCode> bumped,
                                               std::int64_t num_keys,
                                               const PerfectHashOptions& options, int threads,
                                               BuildMonitor* monitor) {
  PerfectHashParts parts;
  parts.levels.push_back(first->shape());
  parts.seeds = first->TakeSeeds();
  FreeSlots free(*first);
  std::int64_t hole = 0;
  // Slots from num_keys on get the free slots in order. One that no key has repeats the hole before
  // it, which keeps the sequence non-descending.
  const auto fill_holes = [&](const LevelBuilder& level, std::int64_t begin) {
    for (std::int64_t slot = begin; slot < level.shape().num_slots; ++slot) {
      if (level.Contains(slot)) hole = free.Next();
      parts.holes.push_back(hole);
    }
  };
  bumped.shrink_to_fit();
  parts.holes.reserve(bumped.size() + bumped.size() / 8 + 1024);  // later levels are far smaller
  fill_holes(*first, num_keys);
  while (!bumped.empty()) {
    const auto num_bumped = static_cast<std::int64_t>(bumped.size());
    if (parts.levels.size() == kMaxLevels)
      return FailedPrecondition("perfect hash: ", num_bumped, " of ", num_keys,
                                " keys have no slot after ", kMaxLevels, " levels");
    // A slot of a later level costs an element of the hole sequence, so there are few more than
    // keys; small levels get an eighth more, so that their number stays small.
    const std::int64_t num_slots = num_bumped + std::min<std::int64_t>(num_bumped / 8, 64);
    LevelBuilder level(ShapeOf(num_bumped, num_slots, options), options.format());
    for (KeyCode& code : bumped) code = Remix(code);
    SortCodes(bumped, threads);
    BuildMonitor uncounted;
    level.Place(bumped, level.num_chunks(), threads, &uncounted);
    bumped.erase(std::remove_if(bumped.begin(), bumped.end(),
                                [&](KeyCode code) { return level.SettledSlot(code) >= 0; }),
                 bumped.end());
    fill_holes(level, 0);
    parts.levels.push_back(level.shape());
    const std::vector<std::uint8_t> seeds = level.TakeSeeds();
    parts.seeds.insert(parts.seeds.end(), seeds.begin(), seeds.end());
    FEEDFAST_RETURN_IF_ERROR(monitor->Check());
  }
  return parts;
}

StatusOr<PerfectHashParts> BuildPerfectHash(Span<const KeyCode> codes,
                                            const PerfectHashOptions& options, int threads,
                                            BuildMonitor* monitor) {
  LevelBuilder first = FirstLevel(codes.size(), options);
  first.Place(codes, first.num_chunks(), threads, monitor);
  FEEDFAST_RETURN_IF_ERROR(monitor->Check());
  constexpr std::int64_t kGrain = 1 << 16;
  std::vector<std::vector<KeyCode>> bumped(
      static_cast<std::size_t>((codes.size() + kGrain - 1) / kGrain));
  ParallelFor(codes.size(), kGrain, threads, [&](std::int64_t begin, std::int64_t end) {
    for (const KeyCode code : codes.subspan(begin, end - begin))
      if (first.SettledSlot(code) < 0)
        bumped[static_cast<std::size_t>(begin / kGrain)].push_back(code);
  });
  std::vector<KeyCode> all;
  for (const std::vector<KeyCode>& part : bumped) all.insert(all.end(), part.begin(), part.end());
  bumped.clear();
  return CompletePerfectHash(&first, std::move(all), codes.size(), options, threads, monitor);
}

}  // namespace feedfast::mph
