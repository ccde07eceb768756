#ifndef FEEDFAST_CPP_MPH_LIVE_SIGHTINGS_H_
#define FEEDFAST_CPP_MPH_LIVE_SIGHTINGS_H_

#include <cstdint>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/mph/key_hash.h"

namespace feedfast::mph {

// Counts the sightings of keys in a fixed amount of memory: 8-way sets of 16-byte entries, the
// entry that was seen longest ago gives way. So a count never exceeds the true one (but for keys
// that share 48 bits of their code and the set: one in 2^45 sightings), and falls behind when more
// other keys than a set holds came to it since the last sighting. A count-min sketch errs the other
// way: a flood of keys seen once would admit keys too early.
// Not safe for concurrent use.
class LiveSightings {
 public:
  static constexpr std::int64_t kWays = 8;
  static constexpr int kMaxCount = (1 << 16) - 1;

  struct Entry {
    std::uint64_t tag_and_count = 0;  // low 48 bits of the code above 16 bits of count; 0: free
    double last_seen = 0;
  };

  LiveSightings() = default;  // without memory; counts nothing
  // Room for kWays * num_sets keys.
  explicit LiveSightings(std::int64_t num_sets) : entries_(kWays * num_sets) {}

  std::int64_t num_sets() const noexcept { return entries_.size() / kWays; }
  std::int64_t nbytes() const noexcept {
    return entries_.size() * static_cast<std::int64_t>(sizeof(Entry));
  }

  // Counts a sighting of the key with this code and returns its sightings, at most `limit`. A key
  // last seen before `forget_before` starts from 1. Requires num_sets() > 0, 1 <= limit <=
  // kMaxCount.
  int Count(KeyCode code, double time, double forget_before, int limit) noexcept;
  void Forget(KeyCode code) noexcept;
  void Prefetch(KeyCode code) const noexcept;

  // The entries of a set, the last seen first, free ones behind; for files.
  Span<const Entry> set(std::int64_t i) const noexcept {
    return entries_.span().subspan(i * kWays, kWays);
  }
  // Requires 0 <= i < num_sets(), entries.size() <= kWays, counts in 1..kMaxCount.
  void FillSet(std::int64_t i, Span<const Entry> entries) noexcept;

 private:
  // The first entry of the code's set; the high bits choose it, which the tag lacks.
  std::int64_t SetBegin(KeyCode code) const noexcept {
    return kWays *
           static_cast<std::int64_t>(MultiplyHigh(code, static_cast<std::uint64_t>(num_sets())));
  }

  AlignedBuffer<Entry> entries_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LIVE_SIGHTINGS_H_
