#include "cpp/allreduce/row_gather.h"

#include <algorithm>
#include <cstring>

namespace feedfast::allreduce {
namespace {

constexpr std::size_t kLineBytes = 64;
// Lines on their way at once; a core has 10 to 48 buffers for them.
constexpr std::size_t kLinesAhead = 32;

}  // namespace

template <typename Row>
void GatherRows(const std::byte* table, std::size_t row_bytes, Span<const Row> rows, std::byte* out,
                std::size_t out_stride) noexcept {
  const auto row_at = [&](std::int64_t i) {
    return table + static_cast<std::size_t>(rows[i]) * row_bytes;
  };
  const auto prefetch = [&](std::int64_t i) {
    const std::byte* const row = row_at(i);
    for (std::size_t at = 0; at < row_bytes; at += kLineBytes) __builtin_prefetch(row + at);
  };
  const std::size_t lines = row_bytes / kLineBytes + 1;
  const std::int64_t ahead =
      static_cast<std::int64_t>(std::max<std::size_t>(1, kLinesAhead / lines));
  for (std::int64_t i = 0; i < std::min(ahead, rows.size()); ++i) prefetch(i);
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    if (i + ahead < rows.size()) prefetch(i + ahead);
    std::memcpy(out + static_cast<std::size_t>(i) * out_stride, row_at(i), row_bytes);
  }
}

template void GatherRows(const std::byte* table, std::size_t row_bytes,
                         Span<const std::int32_t> rows, std::byte* out,
                         std::size_t out_stride) noexcept;
template void GatherRows(const std::byte* table, std::size_t row_bytes,
                         Span<const std::int64_t> rows, std::byte* out,
                         std::size_t out_stride) noexcept;

}  // namespace feedfast::allreduce
