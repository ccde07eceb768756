#include "cpp/embedding_kernels/pooled_lookup.h"

#include <algorithm>

#include "cpp/embedding_kernels/grouped_lookup.h"
#include "cpp/embedding_kernels/pooled_lookup_kernel.h"
#include "cpp/embedding_kernels/row_prefetch.h"

namespace feedfast::embedding_kernels {
namespace {

// Cache lines in flight that hide the memory latency of random rows, on the machine of
// `feedfast bench lookup`: below, rows of 36 to 128 bytes wait; above, nothing is gained.
constexpr std::int64_t kLinesInFlight = 192;
constexpr std::int64_t kMaxRowsInFlight = 128;

}  // namespace

BagRange MakeBagRange(const Table& table, const Bags& bags, Pooling pooling, std::int64_t begin_bag,
                      std::int64_t end_bag) noexcept {
  const std::int64_t row_bytes = RowBytes(table.format, table.dim);
  const std::int64_t row_lines = RowLines(table.data, row_bytes);
  return {static_cast<const std::uint8_t*>(table.data),
          row_bytes,
          row_lines,
          table.dim,
          table.format,
          bags.values.indexes(),
          bags.offsets.indexes(),
          bags.weights_or_null(),
          pooling,
          begin_bag,
          end_bag,
          std::clamp<std::int64_t>(kLinesInFlight / row_lines, 1, kMaxRowsInFlight)};
}

void PooledLookupRange(const Table& table, const Bags& bags, Pooling pooling, float* out,
                       std::int64_t out_stride, std::int64_t begin_bag,
                       std::int64_t end_bag) noexcept {
  static constexpr KernelTable<decltype(&scalar::PoolBags)> kKernels =
      FEEDFAST_KERNEL_TABLE(PoolBags);
  const PoolBagsArgs job{MakeBagRange(table, bags, pooling, begin_bag, end_bag), out, out_stride};
  kKernels.Get()(&job, 1);
}

void PooledLookup(const Table& table, const Bags& bags, Pooling pooling, float* out,
                  std::int64_t out_stride, int threads) {
  if (threads == 1) {
    PooledLookupRange(table, bags, pooling, out, out_stride, 0, bags.num_bags());
    return;
  }
  const PooledFeature feature{table, bags, pooling, 0};
  GroupedPooledLookup({&feature, 1}, out, out_stride, threads);
}

}  // namespace feedfast::embedding_kernels
