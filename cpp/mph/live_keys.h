#ifndef FEEDFAST_CPP_MPH_LIVE_KEYS_H_
#define FEEDFAST_CPP_MPH_LIVE_KEYS_H_

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/key_source.h"

namespace feedfast::mph {

// An exact, mutable map from byte strings to rows that knows the order in which its keys were last
// seen: open addressing over 8-byte slots, entries of 32 bytes, one arena for the strings. The
// caller gives every key a code; equal keys must have equal codes.
// Any number of threads may read while none changes the keys; Touch reads and writes nothing that
// readers read.
class LiveKeys {
 public:
  static constexpr std::int64_t kMaxKeys = std::int64_t{1} << 30;
  static constexpr std::int64_t kMaxKeyBytes = (1 << 16) - 1;
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
  // When a key that cannot expire was last seen.
  static constexpr double kAlways = std::numeric_limits<double>::infinity();

  std::int64_t size() const noexcept { return size_; }
  // Keys that can expire.
  std::int64_t num_transient() const noexcept { return num_transient_; }
  std::int64_t nbytes() const noexcept;

  // entries[i] = entry of keys[i], kNone when there is none. Requires keys.size() <= kKeyBlock.
  void Find(Span<const std::string_view> keys, const KeyCode* codes,
            std::uint32_t* entries) const noexcept;
  std::uint32_t Find(std::string_view key, KeyCode code) const noexcept {
    std::uint32_t entry = kNone;
    Find({&key, 1}, &code, &entry);
    return entry;
  }

  std::int64_t row(std::uint32_t entry) const noexcept { return entries_[entry].row; }
  KeyCode code(std::uint32_t entry) const noexcept { return entries_[entry].code; }
  double last_seen(std::uint32_t entry) const noexcept { return entries_[entry].last_seen; }
  std::string_view key(std::uint32_t entry) const noexcept;

  // Adds a key that is not there. Requires size() < kMaxKeys, key.size() <= kMaxKeyBytes, row > 0,
  // and last_seen either kAlways or not below that of any other transient key. Throws
  // std::bad_alloc and leaves the map as it was.
  void Add(std::string_view key, KeyCode code, std::int64_t row, double last_seen);
  // The key was seen again. Requires `time` not to be below last_seen of any transient key.
  void Touch(std::uint32_t entry, double time) noexcept;
  // The transient key seen longest ago, kNone without one.
  std::uint32_t oldest() const noexcept { return oldest_; }
  void Remove(std::uint32_t entry) noexcept;
  void Clear() noexcept { *this = LiveKeys(); }
  // Makes every key permanent.
  void MakePermanent() noexcept;

  // Calls body(entry) for the permanent keys, then for the others, those seen longest ago first.
  template <typename Body>
  void ForEach(const Body& body) const {
    if (size_ > num_transient_)
      for (std::uint32_t e = 0; e < static_cast<std::uint32_t>(entries_.size()); ++e)
        if (entries_[e].row > 0 && entries_[e].last_seen == kAlways) body(e);
    for (std::uint32_t e = oldest_; e != kNone; e = links_[e].newer) body(e);
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;  // high half of the code; its low bits are the first slot to probe
    std::uint32_t entry = kNone;
  };
  struct Entry {
    KeyCode code;
    std::uint64_t where;  // begin in bytes_ << 16 | size
    std::int64_t row;     // 0: free
    double last_seen;
  };
  struct Link {
    std::uint32_t newer = kNone;
    std::uint32_t older = kNone;
  };

  static std::uint32_t TagOf(KeyCode code) noexcept {
    return static_cast<std::uint32_t>(code >> 32);
  }
  std::size_t mask() const noexcept { return slots_.size() - 1; }
  bool Holds(std::uint32_t entry, std::string_view key, KeyCode code) const noexcept;
  void GrowSlots();
  void GrowEntries();
  void RepackBytes();
  void Append(std::uint32_t entry) noexcept;
  void Unlink(std::uint32_t entry) noexcept;

  std::vector<Slot> slots_;  // a power of two, at most half used
  std::vector<Entry> entries_;
  std::vector<Link> links_;  // of transient keys, by last_seen
  std::vector<std::uint32_t> free_entries_;
  std::vector<char> bytes_;
  std::size_t dead_bytes_ = 0;
  std::int64_t size_ = 0;
  std::int64_t num_transient_ = 0;
  std::uint32_t oldest_ = kNone;
  std::uint32_t newest_ = kNone;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LIVE_KEYS_H_
