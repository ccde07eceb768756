#include "cpp/mph/live_sightings.h"

#include <algorithm>

namespace feedfast::mph {
namespace {

constexpr std::uint64_t kCountMask = LiveSightings::kMaxCount;

constexpr std::uint64_t TagOf(KeyCode code) noexcept { return code << 16; }

// The way that holds the tag, else the first free one, else kWays.
std::int64_t FindWay(const LiveSightings::Entry* set, std::uint64_t tag) noexcept {
  std::int64_t way = 0;
  while (way < LiveSightings::kWays && set[way].tag_and_count != 0 &&
         (set[way].tag_and_count & ~kCountMask) != tag)
    ++way;
  return way;
}

}  // namespace

int LiveSightings::Count(KeyCode code, double time, double forget_before, int limit) noexcept {
  Entry* const set = entries_.data() + SetBegin(code);
  const std::uint64_t tag = TagOf(code);
  const std::int64_t way = FindWay(set, tag);
  int count = 1;
  if (way < kWays && set[way].tag_and_count != 0 && set[way].last_seen >= forget_before)
    count = std::min(static_cast<int>(set[way].tag_and_count & kCountMask) + 1, limit);
  const std::int64_t end = std::min(way, kWays - 1);
  std::move_backward(set, set + end, set + end + 1);
  set[0] = {tag | static_cast<std::uint64_t>(count), time};
  return count;
}

void LiveSightings::Forget(KeyCode code) noexcept {
  Entry* const set = entries_.data() + SetBegin(code);
  const std::int64_t way = FindWay(set, TagOf(code));
  if (way == kWays || set[way].tag_and_count == 0) return;
  std::move(set + way + 1, set + kWays, set + way);
  set[kWays - 1] = {};
}

void LiveSightings::Prefetch(KeyCode code) const noexcept {
  const Entry* const set = entries_.data() + SetBegin(code);
  __builtin_prefetch(set, 1);
  __builtin_prefetch(set + kWays / 2, 1);
}

void LiveSightings::FillSet(std::int64_t i, Span<const Entry> entries) noexcept {
  std::copy(entries.begin(), entries.end(), entries_.data() + i * kWays);
}

}  // namespace feedfast::mph
