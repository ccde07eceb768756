#include "cpp/allreduce/row_order.h"

#include <cstddef>

namespace feedfast::allreduce {
namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

}  // namespace

Span<const std::int64_t> RowOrder::Ascending(Span<const std::int64_t> rows) {
  entries_.resize(static_cast<std::size_t>(rows.size()));
  scratch_.resize(entries_.size());
  std::uint64_t differ = 0;
  bool sorted = true;
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    entries_[static_cast<std::size_t>(i)] = {rows[i], i};
    differ |= static_cast<std::uint64_t>(rows[i] ^ rows[0]);
    sorted = sorted && (i == 0 || rows[i - 1] <= rows[i]);
  }
  for (int shift = 0; !sorted && shift < 64 && (differ >> shift) != 0; shift += kDigitBits) {
    const auto digit = [shift](std::int64_t row) {
      return static_cast<std::size_t>(static_cast<std::uint64_t>(row) >> shift) & (kDigits - 1);
    };
    if (((differ >> shift) & (kDigits - 1)) == 0) continue;
    std::size_t next[kDigits] = {};
    for (const Entry& entry : entries_) ++next[digit(entry.row)];
    std::size_t first = 0;
    for (std::size_t& each : next) {
      const std::size_t count = each;
      each = first;
      first += count;
    }
    for (const Entry& entry : entries_) scratch_[next[digit(entry.row)]++] = entry;
    entries_.swap(scratch_);
  }
  positions_.resize(entries_.size());
  for (std::size_t k = 0; k < entries_.size(); ++k) positions_[k] = entries_[k].position;
  return positions_;
}

}  // namespace feedfast::allreduce
