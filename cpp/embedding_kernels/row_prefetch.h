#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_

#include <cstdint>

// All functions are static: kernel objects of different CPU targets include this file and must not
// share code.
namespace feedfast::embedding_kernels {

// The most cache lines that one row of row_bytes can touch, when rows lie end to end from `table`.
static inline std::int64_t RowLines(const void* table, std::int64_t row_bytes) {
  constexpr std::uint64_t kLine = 64;
  // Every row starts at a multiple of the lowest bit set.
  const std::uint64_t starts =
      reinterpret_cast<std::uintptr_t>(table) | static_cast<std::uint64_t>(row_bytes) | kLine;
  const std::uint64_t alignment = starts & (~starts + 1);
  return static_cast<std::int64_t>(
      (kLine - alignment + static_cast<std::uint64_t>(row_bytes) + kLine - 1) / kLine);
}

// Prefetches a row of row_bytes that touches up to `lines` = RowLines(...) cache lines.
static inline void PrefetchRow(const std::uint8_t* row, std::int64_t row_bytes,
                               std::int64_t lines) {
  for (std::int64_t line = 0; line + 1 < lines; ++line) __builtin_prefetch(row + 64 * line);
  __builtin_prefetch(row + row_bytes - 1);
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_
