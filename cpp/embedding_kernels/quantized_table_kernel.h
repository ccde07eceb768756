#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

struct QuantizeArgs {
  const float* table;
  std::int64_t num_rows;
  std::int64_t dim;
  RowFormat format;
  RangeMethod method;
  const std::int64_t* rows;  // where row i goes; nullptr: to row i
  std::uint8_t* packed;
};

struct DequantizeArgs {
  const std::uint8_t* packed;
  std::int64_t num_rows;
  std::int64_t dim;
  RowFormat format;
  float* table;
};

FEEDFAST_DECLARE_KERNEL(void, Quantize, (const QuantizeArgs& args));
FEEDFAST_DECLARE_KERNEL(void, Dequantize, (const DequantizeArgs& args));

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_
