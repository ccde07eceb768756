#ifndef FEEDFAST_CPP_ALLREDUCE_ROW_GATHER_H_
#define FEEDFAST_CPP_ALLREDUCE_ROW_GATHER_H_

#include <cstddef>
#include <cstdint>

#include "cpp/common/span.h"

namespace feedfast::allreduce {

// Copies row rows[i] of `table` (rows of `row_bytes` bytes, one after the other) to
// out + i * out_stride. Rows far from each other wait for memory; the lines of the next ones are
// asked for while one is copied. Requires rows of the table; Row: std::int32_t or std::int64_t.
template <typename Row>
void GatherRows(const std::byte* table, std::size_t row_bytes, Span<const Row> rows, std::byte* out,
                std::size_t out_stride) noexcept;

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ROW_GATHER_H_
