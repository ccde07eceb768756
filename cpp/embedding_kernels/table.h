#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_H_

#include <cstdint>

#include "cpp/common/host_device.h"

namespace feedfast::embedding_kernels {

// How one row of a table lies in memory; rows follow each other without gaps.
enum class RowFormat {
  kFloat32,      // dim floats
  kFloat16,      // dim IEEE halves
  kBfloat16,     // dim bfloat16
  kInt8Rowwise,  // half scale, half bias, dim uint8 codes q: w = scale * q + bias
  kInt4Rowwise,  // the same with two codes a byte: column 2k in the low bits of byte k, column
                 // 2k + 1 in the high ones, which are 0 behind the last column of an odd dim
};

// Of a row of codes: scale and bias.
inline constexpr std::int64_t kInt8HeaderBytes = 4;

// Whether rows hold codes with a scale and a bias instead of numbers.
FEEDFAST_HOST_DEVICE constexpr bool IsQuantized(RowFormat format) {
  return format == RowFormat::kInt8Rowwise || format == RowFormat::kInt4Rowwise;
}

// Bytes from one row to the next.
FEEDFAST_HOST_DEVICE constexpr std::int64_t RowBytes(RowFormat format, std::int64_t dim) {
  switch (format) {
    case RowFormat::kFloat32:
      return 4 * dim;
    case RowFormat::kFloat16:
    case RowFormat::kBfloat16:
      return 2 * dim;
    case RowFormat::kInt8Rowwise:
      return kInt8HeaderBytes + dim;
    case RowFormat::kInt4Rowwise:
      break;
  }
  return kInt8HeaderBytes + (dim + 1) / 2;
}

// A view of an embedding table [num_rows, dim] that somebody else owns. No alignment is required;
// rows of whole cache lines that start on one are read fastest.
struct Table {
  const void* data = nullptr;
  std::int64_t num_rows = 0;
  std::int64_t dim = 0;  // >= 1
  RowFormat format = RowFormat::kFloat32;
};

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_H_
