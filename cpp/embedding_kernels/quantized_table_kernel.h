#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"

namespace feedfast::embedding_kernels {

FEEDFAST_DECLARE_KERNEL(void, Quantize,
                        (const float* table, std::int64_t num_rows, std::int64_t dim,
                         std::uint8_t* packed));
FEEDFAST_DECLARE_KERNEL(void, Dequantize,
                        (const std::uint8_t* packed, std::int64_t num_rows, std::int64_t dim,
                         float* table));

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_KERNEL_H_
