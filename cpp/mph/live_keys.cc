#include "cpp/mph/live_keys.h"

#include <cassert>
#include <cstring>
#include <utility>

namespace feedfast::mph {
namespace {

constexpr std::size_t kMinSlots = 64;
constexpr std::size_t kMinRepackBytes = 4096;
constexpr int kSizeBits = 16;
constexpr std::uint64_t kSizeMask = (std::uint64_t{1} << kSizeBits) - 1;

template <typename T>
std::int64_t BytesOf(const std::vector<T>& v) noexcept {
  return static_cast<std::int64_t>(v.capacity() * sizeof(T));
}

}  // namespace

std::int64_t LiveKeys::nbytes() const noexcept {
  return BytesOf(slots_) + BytesOf(entries_) + BytesOf(links_) + BytesOf(free_entries_) +
         BytesOf(bytes_);
}

std::string_view LiveKeys::key(std::uint32_t entry) const noexcept {
  const std::uint64_t where = entries_[entry].where;
  return {bytes_.data() + (where >> kSizeBits), where & kSizeMask};
}

bool LiveKeys::Holds(std::uint32_t entry, std::string_view key, KeyCode code) const noexcept {
  const Entry& e = entries_[entry];
  return e.code == code && (e.where & kSizeMask) == key.size() &&
         (key.empty() ||
          std::memcmp(bytes_.data() + (e.where >> kSizeBits), key.data(), key.size()) == 0);
}

void LiveKeys::Find(Span<const std::string_view> keys, const KeyCode* codes,
                    std::uint32_t* entries) const noexcept {
  const std::int64_t size = keys.size();
  assert(size <= kKeyBlock);
  if (size_ == 0) {
    for (std::int64_t i = 0; i < size; ++i) entries[i] = kNone;
    return;
  }
  // Passes over the block, so that the reads of one pass are in flight together: slots, entries,
  // strings.
  std::size_t at[kKeyBlock];
  const auto next_match = [&](std::int64_t i) {
    const std::uint32_t tag = TagOf(codes[i]);
    std::size_t slot = at[i];
    while (slots_[slot].entry != kNone && slots_[slot].tag != tag) slot = (slot + 1) & mask();
    at[i] = slot;
    entries[i] = slots_[slot].entry;
  };
  for (std::int64_t i = 0; i < size; ++i) {
    at[i] = TagOf(codes[i]) & mask();
    __builtin_prefetch(&slots_[at[i]]);
  }
  for (std::int64_t i = 0; i < size; ++i) {
    next_match(i);
    if (entries[i] != kNone) __builtin_prefetch(&entries_[entries[i]]);
  }
  for (std::int64_t i = 0; i < size; ++i)
    if (entries[i] != kNone)
      __builtin_prefetch(bytes_.data() + (entries_[entries[i]].where >> kSizeBits));
  for (std::int64_t i = 0; i < size; ++i)
    while (entries[i] != kNone && !Holds(entries[i], keys[i], codes[i])) {
      at[i] = (at[i] + 1) & mask();
      next_match(i);
    }
}

void LiveKeys::Add(std::string_view key, KeyCode code, std::int64_t row, double last_seen) {
  assert(size_ < kMaxKeys && row > 0);
  assert(static_cast<std::int64_t>(key.size()) <= kMaxKeyBytes);
  assert(Find(key, code) == kNone);
  // Everything that can throw comes first.
  if (2 * static_cast<std::size_t>(size_ + 1) > slots_.size()) GrowSlots();
  if (dead_bytes_ > kMinRepackBytes && 2 * dead_bytes_ > bytes_.size()) RepackBytes();
  if (free_entries_.empty() && entries_.size() == entries_.capacity()) GrowEntries();
  const std::size_t begin = bytes_.size();
  bytes_.insert(bytes_.end(), key.begin(), key.end());
  if (free_entries_.empty()) {
    free_entries_.push_back(static_cast<std::uint32_t>(entries_.size()));
    entries_.emplace_back();
    links_.emplace_back();
  }
  const std::uint32_t entry = free_entries_.back();
  free_entries_.pop_back();
  entries_[entry] = {code, begin << kSizeBits | key.size(), row, last_seen};
  if (last_seen != kAlways) {
    Append(entry);
    ++num_transient_;
  }
  std::size_t slot = TagOf(code) & mask();
  while (slots_[slot].entry != kNone) slot = (slot + 1) & mask();
  slots_[slot] = {TagOf(code), entry};
  ++size_;
}

void LiveKeys::Touch(std::uint32_t entry, double time) noexcept {
  if (entries_[entry].last_seen >= time) return;
  Unlink(entry);
  entries_[entry].last_seen = time;
  Append(entry);
}

void LiveKeys::Remove(std::uint32_t entry) noexcept {
  if (entries_[entry].last_seen != kAlways) {
    Unlink(entry);
    --num_transient_;
  }
  std::size_t hole = TagOf(entries_[entry].code) & mask();
  while (slots_[hole].entry != entry) hole = (hole + 1) & mask();
  // Moves later keys of the run over the hole, so that no probe ends too early.
  for (std::size_t slot = (hole + 1) & mask(); slots_[slot].entry != kNone;
       slot = (slot + 1) & mask()) {
    const std::size_t home = slots_[slot].tag & mask();
    if (((slot - home) & mask()) < ((slot - hole) & mask())) continue;
    slots_[hole] = slots_[slot];
    hole = slot;
  }
  slots_[hole] = Slot();
  dead_bytes_ += entries_[entry].where & kSizeMask;
  entries_[entry].row = 0;
  free_entries_.push_back(entry);
  --size_;
}

void LiveKeys::MakePermanent() noexcept {
  for (std::uint32_t e = oldest_; e != kNone; e = links_[e].newer) entries_[e].last_seen = kAlways;
  oldest_ = newest_ = kNone;
  num_transient_ = 0;
}

void LiveKeys::GrowSlots() {
  std::vector<Slot> slots(slots_.empty() ? kMinSlots : 2 * slots_.size());
  const std::size_t slot_mask = slots.size() - 1;
  for (const Slot& old : slots_) {
    if (old.entry == kNone) continue;
    std::size_t slot = old.tag & slot_mask;
    while (slots[slot].entry != kNone) slot = (slot + 1) & slot_mask;
    slots[slot] = old;
  }
  slots_ = std::move(slots);
}

void LiveKeys::GrowEntries() {
  const std::size_t size = entries_.empty() ? kMinSlots : 2 * entries_.size();
  links_.reserve(size);
  free_entries_.reserve(size);  // so that Remove cannot fail
  entries_.reserve(size);       // last, because its capacity stands for all three
}

void LiveKeys::RepackBytes() {
  std::vector<char> bytes;
  bytes.reserve(bytes_.size() - dead_bytes_);
  for (Entry& entry : entries_) {
    if (entry.row == 0) continue;
    const char* const begin = bytes_.data() + (entry.where >> kSizeBits);
    const std::uint64_t size = entry.where & kSizeMask;
    entry.where = bytes.size() << kSizeBits | size;
    bytes.insert(bytes.end(), begin, begin + size);
  }
  bytes_ = std::move(bytes);
  dead_bytes_ = 0;
}

void LiveKeys::Append(std::uint32_t entry) noexcept {
  links_[entry] = {kNone, newest_};
  (newest_ == kNone ? oldest_ : links_[newest_].newer) = entry;
  newest_ = entry;
}

void LiveKeys::Unlink(std::uint32_t entry) noexcept {
  const Link link = links_[entry];
  (link.older == kNone ? oldest_ : links_[link.older].newer) = link.newer;
  (link.newer == kNone ? newest_ : links_[link.newer].older) = link.older;
}

}  // namespace feedfast::mph
