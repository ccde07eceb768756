#include "cpp/mph/perfect_hash_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/parallel_for.h"
#include "cpp/mph/packed_ints.h"
#include "cpp/mph/perfect_hash_placer.h"

namespace feedfast::mph {
namespace {

// The least code of a segment. Requires 0 <= segment < num_segments.
KeyCode FirstCode(std::int64_t segment, std::uint64_t num_segments) noexcept {
  __extension__ using Wide = unsigned __int128;
  return static_cast<KeyCode>(((static_cast<Wide>(segment) << 64) + num_segments - 1) /
                              num_segments);
}

// Places the keys of one level, in chunks of consecutive segments: the insides of all chunks first,
// independent of each other, then the buckets whose slots may lie in the next chunk. Chunks are a
// function of the shape, so the result does not depend on the number of threads.
class LevelBuilder {
 public:
  LevelBuilder(Span<const KeyCode> codes, const LevelShape& shape, const HashFormat& format)
      : codes_(codes),
        shape_(shape),
        format_(format),
        level_(shape, format, /*level_first_bucket=*/0, /*level_first_slot=*/0),
        segment_buckets_(std::int64_t{1} << level_.segment_bits),
        seeds_(shape.num_buckets) {
    const std::int64_t num_segments = shape.num_buckets / segment_buckets_;
    const std::int64_t num_chunks = std::max<std::int64_t>(num_segments / kChunkSegments, 1);
    for (std::int64_t i = 0; i < num_chunks; ++i) {
      Chunk chunk;
      chunk.first_segment = i * kChunkSegments;
      chunk.end_segment = i + 1 < num_chunks ? (i + 1) * kChunkSegments : num_segments;
      chunk.first_slot = FirstSlot(chunk.first_segment);
      chunk.end_slot = i + 1 < num_chunks ? FirstSlot(chunk.end_segment) : shape.num_slots;
      chunk.inside_segment = chunk.end_segment;
      if (i + 1 < num_chunks)
        while (FirstSlot(chunk.inside_segment) + level_.reach > chunk.end_slot)
          --chunk.inside_segment;
      chunks_.push_back(std::move(chunk));
    }
  }

  void Run(int threads) {
    const auto num_chunks = static_cast<std::int64_t>(chunks_.size());
    ParallelFor(num_chunks, /*grain=*/1, threads, [&](std::int64_t begin, std::int64_t end) {
      BucketPlacer placer(shape_, level_, format_);
      for (std::int64_t i = begin; i < end; ++i) PlaceInside(&placer, &At(i));
    });
    ParallelFor(num_chunks - 1, /*grain=*/1, threads, [&](std::int64_t begin, std::int64_t end) {
      BucketPlacer placer(shape_, level_, format_);
      for (std::int64_t i = begin; i < end; ++i) PlaceBorder(&placer, &At(i), &At(i + 1));
    });
  }

  // The packed seeds.
  void WriteSeeds(std::uint8_t* packed) const noexcept {
    std::uint64_t word = 0;
    int width = 0;
    for (const std::uint16_t seed : seeds_.span()) {
      word |= static_cast<std::uint64_t>(seed) << width;
      for (width += format_.seed_bits; width >= 8; width -= 8, word >>= 8)
        *packed++ = static_cast<std::uint8_t>(word);
    }
  }

  // The codes that the next level places, ascending.
  std::vector<KeyCode> BumpedCodes(int threads) const {
    std::vector<KeyCode> bumped;
    for (const KeyCode code : codes_)
      if (seeds_[level_.Bucket(code)] == 0) bumped.push_back(Remix(code));
    SortCodes(bumped, threads);
    return bumped;
  }

  bool Contains(std::int64_t slot) const noexcept {
    const auto after = std::upper_bound(
        chunks_.begin(), chunks_.end(), slot,
        [](std::int64_t value, const Chunk& chunk) { return value < chunk.first_slot; });
    return std::prev(after)->occupied.Contains(slot);
  }

  // Calls body(slot) for each slot below `end` without a key, ascending.
  template <typename Body>
  void ForEachFree(std::int64_t end, const Body& body) const {
    for (const Chunk& chunk : chunks_)
      chunk.occupied.ForEachFree(chunk.first_slot, std::min(chunk.end_slot, end), body);
  }

 private:
  // About 400 000 keys. A border costs some holes: bits per key grow by 0.1% over a single chunk.
  static constexpr std::int64_t kChunkSegments = 4096;

  struct Chunk {
    std::int64_t first_segment = 0;
    std::int64_t inside_segment = 0;  // from here on slots may lie in the next chunk
    std::int64_t end_segment = 0;
    std::int64_t first_slot = 0;
    std::int64_t end_slot = 0;
    SlotSet occupied;
  };

  Chunk& At(std::int64_t i) noexcept { return chunks_[static_cast<std::size_t>(i)]; }

  std::int64_t FirstSlot(std::int64_t segment) const noexcept {
    return level_.Slice(FirstCode(segment, level_.num_segments));
  }

  void PlaceSegments(BucketPlacer* placer, std::int64_t first, std::int64_t end,
                     SlotSet* occupied) {
    const auto begin_of = [&](std::int64_t segment) {
      if (static_cast<std::uint64_t>(segment) == level_.num_segments) return codes_.end();
      return std::lower_bound(codes_.begin(), codes_.end(),
                              FirstCode(segment, level_.num_segments));
    };
    const KeyCode* begin = begin_of(first);
    placer->Place({begin, begin_of(end) - begin}, first * segment_buckets_,
                  seeds_.span().subspan(first * segment_buckets_, (end - first) * segment_buckets_),
                  occupied);
  }

  void PlaceInside(BucketPlacer* placer, Chunk* chunk) {
    chunk->occupied = SlotSet(chunk->first_slot, chunk->end_slot);
    PlaceSegments(placer, chunk->first_segment, chunk->inside_segment, &chunk->occupied);
  }

  void PlaceBorder(BucketPlacer* placer, Chunk* left, Chunk* right) {
    SlotSet occupied(FirstSlot(left->inside_segment), left->end_slot + level_.reach);
    occupied.Merge(left->occupied);
    occupied.Merge(right->occupied);
    PlaceSegments(placer, left->inside_segment, left->end_segment, &occupied);
    left->occupied.Merge(occupied);
    right->occupied.Merge(occupied);
  }

  Span<const KeyCode> codes_;
  LevelShape shape_;
  HashFormat format_;
  Level level_;
  std::int64_t segment_buckets_;
  AlignedBuffer<std::uint16_t> seeds_;
  std::vector<Chunk> chunks_;
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

}  // namespace

void SortCodes(Span<KeyCode> codes, int threads) {
  const Partition partition = PartitionByByte(codes.begin(), codes.end(), /*shift=*/56);
  ParallelFor(256, /*grain=*/1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t d = begin; d < end; ++d)
      SortRange(partition.begins[d], partition.begins[d + 1], /*shift=*/48);
  });
}

StatusOr<PerfectHashParts> BuildPerfectHash(Span<const KeyCode> codes,
                                            const PerfectHashOptions& options, int threads) {
  const std::int64_t num_keys = codes.size();
  const HashFormat format = options.format();
  const std::int64_t segment_buckets = std::int64_t{1} << format.scheme.segment_bits;
  PerfectHashParts parts;
  std::vector<std::int64_t> free;  // of level 0, ascending
  std::size_t next_free = 0;
  std::int64_t hole = 0;
  std::vector<KeyCode> level_codes;
  for (Span<const KeyCode> rest = codes; !rest.empty(); rest = level_codes) {
    if (parts.levels.size() == kMaxLevels)
      return FailedPrecondition("perfect hash: ", rest.size(), " of ", num_keys,
                                " keys have no slot after ", kMaxLevels, " levels");
    const bool first = parts.levels.empty();
    LevelShape shape;
    // A slot of a later level costs an element of the hole sequence, so there are few more than
    // keys; small levels get an eighth more, so that their number stays small.
    shape.num_slots = rest.size() + (first ? 0 : std::min<std::int64_t>(rest.size() / 8, 64));
    shape.num_slots = std::max(shape.num_slots, kMinLevelSlots);
    shape.num_buckets =
        segment_buckets * static_cast<std::int64_t>(std::ceil(
                              static_cast<double>(rest.size()) /
                              (options.keys_per_bucket * static_cast<double>(segment_buckets))));
    LevelBuilder builder(rest, shape, format);
    builder.Run(threads);
    const std::size_t seeds_before = parts.seeds.size();
    parts.seeds.resize(seeds_before +
                       static_cast<std::size_t>(SeedBytes(shape.num_buckets, format.seed_bits)));
    builder.WriteSeeds(parts.seeds.data() + seeds_before);
    if (first) builder.ForEachFree(num_keys, [&](std::int64_t slot) { free.push_back(slot); });
    // Slots from num_keys on get the free slots in order. One that no key has repeats the hole
    // before it, which keeps the sequence non-descending.
    for (std::int64_t slot = first ? num_keys : 0; slot < shape.num_slots; ++slot) {
      if (builder.Contains(slot)) hole = free[next_free++];
      parts.holes.push_back(hole);
    }
    parts.levels.push_back(shape);
    level_codes = builder.BumpedCodes(threads);
  }
  return parts;
}

}  // namespace feedfast::mph
