#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_KERNEL_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::embedding_kernels {

struct ReadRowsArgs {
  const std::uint8_t* table;
  std::int64_t row_bytes;
  std::int64_t row_lines;  // RowLines(table, row_bytes)
  const std::int64_t* rows;
  std::int64_t num_rows;  // of `rows`
  std::int64_t prefetch_rows;
};

FEEDFAST_DECLARE_KERNEL(std::uint32_t, ReadRows, (const ReadRowsArgs& args));

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_READ_PROBE_KERNEL_H_
