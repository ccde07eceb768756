#include "cpp/embedding_kernels/quantized_table.h"

#include <cmath>

#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/half.h"
#include "cpp/embedding_kernels/quantized_table_kernel.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kRowsPerRange = 1024;

}  // namespace

Status ValidateQuantizable(const float* table, std::int64_t num_rows, std::int64_t dim) {
  for (std::int64_t i = 0; i < num_rows * dim; ++i)
    if (!(std::fabs(table[i]) <= kMaxHalf))
      return InvalidArgument("table[", i / dim, ", ", i % dim, "] = ", table[i],
                             " is outside [-65504, 65504], what an int8 table can hold");
  return OkStatus();
}

void QuantizeRows(const float* table, std::int64_t num_rows, std::int64_t dim, std::uint8_t* packed,
                  int threads) {
  static constexpr KernelTable<decltype(&scalar::Quantize)> kKernels =
      FEEDFAST_KERNEL_TABLE(Quantize);
  ParallelFor(num_rows, kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    kKernels.Get()(table + begin * dim, end - begin, dim,
                   packed + begin * RowBytes(RowFormat::kInt8Rowwise, dim));
  });
}

void DequantizeRows(const std::uint8_t* packed, std::int64_t num_rows, std::int64_t dim,
                    float* table, int threads) {
  static constexpr KernelTable<decltype(&scalar::Dequantize)> kKernels =
      FEEDFAST_KERNEL_TABLE(Dequantize);
  ParallelFor(num_rows, kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    kKernels.Get()(packed + begin * RowBytes(RowFormat::kInt8Rowwise, dim), end - begin, dim,
                   table + begin * dim);
  });
}

}  // namespace feedfast::embedding_kernels
