#include "cpp/allreduce/row_index.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace feedfast::allreduce {
namespace {

// Rows whose slots are asked for before the first of them is read.
constexpr std::int64_t kGroup = 16;
constexpr int kMinSlotBits = 10;

}  // namespace

std::uint64_t RowIndex::SlotOf(std::int64_t row) const noexcept {
  // Fibonacci hashing: rows of a table are dense, and the multiplication spreads neighbours.
  return (static_cast<std::uint64_t>(row) * 0x9E3779B97F4A7C15u) >> (64 - slot_bits_);
}

void RowIndex::Reserve(std::int64_t size) {
  int bits = std::max(slot_bits_, kMinSlotBits);
  while ((std::int64_t{1} << bits) < 2 * size) ++bits;
  rows_.reserve(std::size_t{1} << (bits - 1));
  if (bits == slot_bits_) return;
  std::vector<Slot> slots(std::size_t{1} << bits, Slot{0, 0, 0});
  slots_.swap(slots);
  slot_bits_ = bits;
  const std::uint64_t mask = slots_.size() - 1;
  for (std::size_t position = 0; position < rows_.size(); ++position) {
    std::uint64_t at = SlotOf(rows_[position]);
    while (slots_[at].window == window_) at = (at + 1) & mask;
    slots_[at] = {rows_[position], window_, static_cast<std::uint32_t>(position)};
  }
}

void RowIndex::Insert(Span<const std::int64_t> rows, Span<std::int64_t> positions) {
  assert(positions.size() == rows.size());
  std::uint64_t slots[kGroup];
  for (std::int64_t begin = 0; begin < rows.size(); begin += kGroup) {
    const std::int64_t count = std::min(kGroup, rows.size() - begin);
    Reserve(size() + count);
    const std::uint64_t mask = slots_.size() - 1;
    for (std::int64_t i = 0; i < count; ++i) {
      slots[i] = SlotOf(rows[begin + i]);
      __builtin_prefetch(slots_.data() + slots[i], 1);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = rows[begin + i];
      std::uint64_t at = slots[i];
      while (slots_[at].window == window_ && slots_[at].row != row) at = (at + 1) & mask;
      Slot& slot = slots_[at];
      if (slot.window != window_) {
        slot = {row, window_, static_cast<std::uint32_t>(rows_.size())};
        rows_.push_back(row);
      }
      positions[begin + i] = slot.position;
    }
  }
}

void RowIndex::StartWindow() noexcept {
  rows_.clear();
  if (window_ == std::numeric_limits<std::uint32_t>::max()) {
    for (Slot& slot : slots_) slot.window = 0;
    window_ = 0;
  }
  ++window_;
}

}  // namespace feedfast::allreduce
