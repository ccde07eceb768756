#include "cpp/mph/perfect_hash_level.h"

#include <algorithm>
#include <cassert>
#include <iterator>

#include "cpp/common/parallel_for.h"

namespace feedfast::mph {
namespace {

// The least code of a segment. Requires 0 <= segment < num_segments.
KeyCode FirstCodeOf(std::int64_t segment, std::uint64_t num_segments) noexcept {
  __extension__ using Wide = unsigned __int128;
  return static_cast<KeyCode>(((static_cast<Wide>(segment) << 64) + num_segments - 1) /
                              num_segments);
}

}  // namespace

LevelBuilder::LevelBuilder(const LevelShape& shape, const HashFormat& format)
    : shape_(shape),
      format_(format),
      level_(shape, format, /*level_first_bucket=*/0, /*level_first_slot=*/0),
      segment_buckets_(std::int64_t{1} << level_.segment_bits) {
  const std::int64_t num_segments = shape.num_buckets / segment_buckets_;
  const std::int64_t num_chunks = std::max<std::int64_t>(num_segments / kChunkSegments, 1);
  for (std::int64_t i = 0; i < num_chunks; ++i) {
    const bool last = i + 1 == num_chunks;
    Chunk chunk;
    chunk.first_segment = i * kChunkSegments;
    chunk.end_segment = last ? num_segments : (i + 1) * kChunkSegments;
    chunk.first_slot = FirstSlot(chunk.first_segment);
    chunk.end_slot = last ? shape.num_slots : FirstSlot(chunk.end_segment);
    chunk.inside_segment = chunk.end_segment;
    while (!last && FirstSlot(chunk.inside_segment) + level_.reach > chunk.end_slot)
      --chunk.inside_segment;
    chunks_.push_back(std::move(chunk));
  }
  packed_seeds_.reserve(static_cast<std::size_t>(SeedBytes(shape.num_buckets, format.seed_bits)));
}

KeyCode LevelBuilder::FirstCode(std::int64_t chunk) const noexcept {
  return FirstCodeOf(chunks_[static_cast<std::size_t>(chunk)].first_segment, level_.num_segments);
}

std::int64_t LevelBuilder::FirstSlot(std::int64_t segment) const noexcept {
  return level_.Slice(FirstCodeOf(segment, level_.num_segments));
}

bool LevelBuilder::Contains(std::int64_t slot) const noexcept {
  const auto after = std::upper_bound(
      chunks_.begin(), chunks_.end(), slot,
      [](std::int64_t value, const Chunk& chunk) { return value < chunk.first_slot; });
  return std::prev(after)->occupied.Contains(slot);
}

std::int64_t LevelBuilder::Place(Span<const KeyCode> codes, std::int64_t count, int threads,
                                 BuildMonitor* monitor) {
  const std::int64_t begin = num_placed_;
  const std::int64_t end = begin + count;
  assert(count >= 1 && end <= num_chunks());
  const bool last = end == num_chunks();
  const std::int64_t settled_end = last ? At(end - 1).end_segment : At(end - 1).inside_segment;
  first_bucket_ = num_packed_;
  seeds_.assign(
      static_cast<std::size_t>(At(end - 1).end_segment * segment_buckets_ - first_bucket_), 0);
  for (std::int64_t i = begin; i < end; ++i)
    At(i).occupied = SlotSet(At(i).first_slot, At(i).end_slot);

  ParallelFor(count, /*grain=*/1, threads, [&](std::int64_t first_chunk, std::int64_t end_chunk) {
    if (monitor->cancelled()) return;
    BucketPlacer placer(shape_, level_, format_);
    for (std::int64_t i = begin + first_chunk; i < begin + end_chunk; ++i)
      monitor->Add(PlaceSegments(&placer, codes, At(i).first_segment, At(i).inside_segment,
                                 &At(i).occupied));
  });
  // Borders (i, i + 1), from the one that the call before left over on.
  const std::int64_t first_left = std::max<std::int64_t>(begin - 1, 0);
  ParallelFor(end - 1 - first_left, /*grain=*/1, threads,
              [&](std::int64_t first_border, std::int64_t end_border) {
                if (monitor->cancelled()) return;
                BucketPlacer placer(shape_, level_, format_);
                for (std::int64_t i = first_left + first_border; i < first_left + end_border; ++i)
                  monitor->Add(PlaceBorder(&placer, codes, &At(i), &At(i + 1)));
              });
  num_placed_ = end;
  PackSeeds(settled_end * segment_buckets_ - num_packed_);
  if (last) return codes.size();
  return std::lower_bound(codes.begin(), codes.end(),
                          FirstCodeOf(settled_end, level_.num_segments)) -
         codes.begin();
}

std::int64_t LevelBuilder::PlaceSegments(BucketPlacer* placer, Span<const KeyCode> codes,
                                         std::int64_t first, std::int64_t end, SlotSet* occupied) {
  const auto begin_of = [&](std::int64_t segment) {
    if (static_cast<std::uint64_t>(segment) == level_.num_segments) return codes.end();
    return std::lower_bound(codes.begin(), codes.end(), FirstCodeOf(segment, level_.num_segments));
  };
  const KeyCode* begin = begin_of(first);
  const Span<const KeyCode> keys(begin, begin_of(end) - begin);
  const std::int64_t first_bucket = first * segment_buckets_;
  placer->Place(keys, first_bucket,
                {seeds_.data() + (first_bucket - first_bucket_), (end - first) * segment_buckets_},
                occupied);
  return keys.size();
}

std::int64_t LevelBuilder::PlaceBorder(BucketPlacer* placer, Span<const KeyCode> codes, Chunk* left,
                                       Chunk* right) {
  SlotSet occupied(FirstSlot(left->inside_segment), left->end_slot + level_.reach);
  occupied.Merge(left->occupied);
  occupied.Merge(right->occupied);
  const std::int64_t num_keys =
      PlaceSegments(placer, codes, left->inside_segment, left->end_segment, &occupied);
  left->occupied.Merge(occupied);
  right->occupied.Merge(occupied);
  return num_keys;
}

// A segment is a whole number of bytes, so that packing can stop behind any.
void LevelBuilder::PackSeeds(std::int64_t num_buckets) {
  std::uint64_t word = 0;
  int width = 0;
  for (std::int64_t i = 0; i < num_buckets; ++i) {
    word |= std::uint64_t{seeds_[static_cast<std::size_t>(i)]} << width;
    for (width += format_.seed_bits; width >= 8; width -= 8, word >>= 8)
      packed_seeds_.push_back(static_cast<std::uint8_t>(word));
  }
  num_packed_ += num_buckets;
}

std::int64_t FreeSlots::Next() noexcept {
  while (true) {
    const LevelBuilder::Chunk& chunk = level_.chunks_[chunk_];
    slot_ = chunk.occupied.NextFree(std::max(slot_, chunk.first_slot));
    if (slot_ < chunk.end_slot) return slot_++;
    slot_ = chunk.end_slot;
    ++chunk_;
  }
}

}  // namespace feedfast::mph
