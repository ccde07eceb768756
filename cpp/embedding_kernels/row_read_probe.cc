#include "cpp/embedding_kernels/row_read_probe.h"

#include "cpp/embedding_kernels/row_prefetch.h"
#include "cpp/embedding_kernels/row_read_probe_kernel.h"

namespace feedfast::embedding_kernels {

std::uint32_t ReadRows(const void* table, std::int64_t row_bytes, Span<const std::int64_t> rows,
                       std::int64_t lines_in_flight) noexcept {
  static constexpr KernelTable<decltype(&scalar::ReadRows)> kKernels =
      FEEDFAST_KERNEL_TABLE(ReadRows);
  const std::int64_t row_lines = RowLines(table, row_bytes);
  return kKernels.Get()({static_cast<const std::uint8_t*>(table), row_bytes, row_lines, rows.data(),
                         rows.size(), lines_in_flight / row_lines});
}

}  // namespace feedfast::embedding_kernels
