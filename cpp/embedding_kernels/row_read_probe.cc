#include "cpp/embedding_kernels/row_read_probe.h"

#include <algorithm>
#include <atomic>

#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/row_prefetch.h"
#include "cpp/embedding_kernels/row_read_probe_kernel.h"

namespace feedfast::embedding_kernels {

std::uint32_t ReadRows(const void* table, std::int64_t row_bytes, Span<const std::int64_t> rows,
                       std::int64_t lines_in_flight, int threads) {
  static constexpr KernelTable<decltype(&scalar::ReadRows)> kKernels =
      FEEDFAST_KERNEL_TABLE(ReadRows);
  const std::int64_t row_lines = RowLines(table, row_bytes);
  const std::int64_t ranges = threads == 1 ? 1 : 8 * std::int64_t{threads};
  std::atomic<std::uint32_t> sum{0};
  ParallelFor(rows.size(), std::max<std::int64_t>(1, rows.size() / ranges), threads,
              [&](std::int64_t begin, std::int64_t end) {
                sum +=
                    kKernels.Get()({static_cast<const std::uint8_t*>(table), row_bytes, row_lines,
                                    rows.data() + begin, end - begin, lines_in_flight / row_lines});
              });
  return sum;
}

}  // namespace feedfast::embedding_kernels
