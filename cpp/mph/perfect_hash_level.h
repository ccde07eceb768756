#ifndef FEEDFAST_CPP_MPH_PERFECT_HASH_LEVEL_H_
#define FEEDFAST_CPP_MPH_PERFECT_HASH_LEVEL_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/mph/build_progress.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/perfect_hash.h"
#include "cpp/mph/perfect_hash_placer.h"

namespace feedfast::mph {

// Places the keys of one level in chunks of consecutive segments: first the insides of chunks,
// independent of each other, then the buckets at the end of a chunk, whose slots may lie in the
// next one. Chunks are a function of the shape, so the result does not depend on threads or on how
// many chunks are placed at a time.
class LevelBuilder {
 public:
  LevelBuilder(const LevelShape& shape, const HashFormat& format);

  const LevelShape& shape() const noexcept { return shape_; }
  std::int64_t num_chunks() const noexcept { return static_cast<std::int64_t>(chunks_.size()); }
  // Codes below it belong to the chunks before. Requires 0 <= chunk < num_chunks().
  KeyCode FirstCode(std::int64_t chunk) const noexcept;

  // Places the next `count` chunks, at least one. `codes` are, ascending, those that the call
  // before left unsettled, then all of these chunks. Returns how many of them, from the first on,
  // are settled: all after the last chunk, else all but the ones that wait for the next chunk. The
  // result means nothing once the monitor is cancelled. Throws std::bad_alloc.
  std::int64_t Place(Span<const KeyCode> codes, std::int64_t count, int threads,
                     BuildMonitor* monitor);

  // The slot of a code that the last call of Place settled; -1 when it is bumped.
  std::int64_t SettledSlot(KeyCode code) const noexcept {
    const std::uint16_t seed =
        seeds_[static_cast<std::size_t>(level_.Bucket(code) - first_bucket_)];
    if (seed == 0) return -1;
    const std::uint64_t group = seed & ((std::uint64_t{1} << format_.group_bits) - 1);
    return level_.Slice(code) + level_.Offset(code, group) + (seed >> format_.group_bits);
  }

  // Once all chunks are placed: the packed seeds.
  std::vector<std::uint8_t> TakeSeeds() noexcept { return std::move(packed_seeds_); }
  bool Contains(std::int64_t slot) const noexcept;

 private:
  friend class FreeSlots;

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
  std::int64_t FirstSlot(std::int64_t segment) const noexcept;
  // Places the buckets of segments [first, end), whose codes are among `codes`; returns how many
  // codes these are.
  std::int64_t PlaceSegments(BucketPlacer* placer, Span<const KeyCode> codes, std::int64_t first,
                             std::int64_t end, SlotSet* occupied);
  std::int64_t PlaceBorder(BucketPlacer* placer, Span<const KeyCode> codes, Chunk* left,
                           Chunk* right);
  void PackSeeds(std::int64_t num_buckets);

  LevelShape shape_;
  HashFormat format_;
  Level level_;
  std::int64_t segment_buckets_;
  std::vector<Chunk> chunks_;
  std::int64_t num_placed_ = 0;       // chunks
  std::int64_t first_bucket_ = 0;     // of seeds_
  std::int64_t num_packed_ = 0;       // buckets, all before them are settled
  std::vector<std::uint16_t> seeds_;  // of the buckets that the last call of Place met
  std::vector<std::uint8_t> packed_seeds_;
};

// The slots of a level that has all its chunks, in ascending order, that no key took.
class FreeSlots {
 public:
  explicit FreeSlots(const LevelBuilder& level) noexcept : level_(level) {}

  // The next one. Requires that there is one.
  std::int64_t Next() noexcept;

 private:
  const LevelBuilder& level_;
  std::size_t chunk_ = 0;
  std::int64_t slot_ = 0;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PERFECT_HASH_LEVEL_H_
