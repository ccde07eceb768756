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

// Prefetches a row of row_bytes that touches up to `lines` = RowLines(...) cache lines. Without a
// loop: a branch for every line costs wide rows a quarter of their time (`feedfast bench lookup`).
// Inlined wherever it is called: GCC 12 drops calls of a function of prefetches alone.
__attribute__((always_inline)) static inline void PrefetchRow(const std::uint8_t* row,
                                                              std::int64_t row_bytes,
                                                              std::int64_t lines) {
  switch (lines) {
    default:
      for (std::int64_t line = 8; line + 1 < lines; ++line) __builtin_prefetch(row + 64 * line);
      __builtin_prefetch(row + 64 * 7);
      [[fallthrough]];
    case 8:
      __builtin_prefetch(row + 64 * 6);
      [[fallthrough]];
    case 7:
      __builtin_prefetch(row + 64 * 5);
      [[fallthrough]];
    case 6:
      __builtin_prefetch(row + 64 * 4);
      [[fallthrough]];
    case 5:
      __builtin_prefetch(row + 64 * 3);
      [[fallthrough]];
    case 4:
      __builtin_prefetch(row + 64 * 2);
      [[fallthrough]];
    case 3:
      __builtin_prefetch(row + 64);
      [[fallthrough]];
    case 2:
      __builtin_prefetch(row);
      [[fallthrough]];
    case 1:
      __builtin_prefetch(row + row_bytes - 1);
  }
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_
