#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_

#include <cstdint>

// All functions are static: kernel objects of different CPU targets include this file and must not
// share code.
namespace feedfast::embedding_kernels {

constexpr std::int64_t kLine = 64;  // bytes of a cache line

// The most cache lines that one row of row_bytes can touch, when rows lie end to end from `table`.
static inline std::int64_t RowLines(const void* table, std::int64_t row_bytes) {
  // Every row starts at a multiple of the lowest bit set.
  const std::int64_t starts =
      static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(table)) | row_bytes | kLine;
  const std::int64_t alignment = starts & -starts;
  return (kLine - alignment + row_bytes + kLine - 1) / kLine;
}

// Prefetches a row of row_bytes that touches up to `lines` = RowLines(...) cache lines. Without a
// loop: a branch for every line costs wide rows a quarter of their time (`feedfast bench lookup`).
// Inlined wherever it is called: GCC 12 drops calls of a function of prefetches alone.
__attribute__((always_inline)) static inline void PrefetchRow(const std::uint8_t* row,
                                                              std::int64_t row_bytes,
                                                              std::int64_t lines) {
  __builtin_prefetch(row);
  __builtin_prefetch(row + row_bytes - 1);
  if (lines <= 2) return;  // ahead of the switch, whose jump costs narrow rows up to 0.3 ns
  switch (lines) {
    default:
      for (std::int64_t line = 8; line + 1 < lines; ++line) __builtin_prefetch(row + kLine * line);
      __builtin_prefetch(row + kLine * 7);
      [[fallthrough]];
    case 8:
      __builtin_prefetch(row + kLine * 6);
      [[fallthrough]];
    case 7:
      __builtin_prefetch(row + kLine * 5);
      [[fallthrough]];
    case 6:
      __builtin_prefetch(row + kLine * 4);
      [[fallthrough]];
    case 5:
      __builtin_prefetch(row + kLine * 3);
      [[fallthrough]];
    case 4:
      __builtin_prefetch(row + kLine * 2);
      [[fallthrough]];
    case 3:
      __builtin_prefetch(row + kLine);
  }
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_PREFETCH_H_
