#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_H_

#include <cstdint>

#include "cpp/common/span.h"

namespace feedfast::embedding_kernels {

// The limit probe beside which benchmarks put pooled lookups: reads the rows rows[i] of a table in
// that order, prefetching lines_in_flight cache lines ahead, and adds their words up in vectors; no
// bags, no weights, no decoding, no output. Threads share the rows as they share bags. Returns a
// sum of what was read, which keeps the loop alive. The caller takes the time. Requires: every row
// lies in `table`; row_bytes >= 8; lines_in_flight >= 0; threads >= 1.
std::uint32_t ReadRows(const void* table, std::int64_t row_bytes, Span<const std::int64_t> rows,
                       std::int64_t lines_in_flight, int threads = 1);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_H_
