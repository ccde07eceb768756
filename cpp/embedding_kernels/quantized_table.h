#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_

#include <cstdint>

#include "cpp/common/status.h"

namespace feedfast::embedding_kernels {

// Row-wise int8 tables. A packed row is kInt8HeaderBytes + dim bytes: half scale, half bias (both
// little-endian), then dim codes q; w = scale * q + bias.

// Ok when every element of table [num_rows, dim] is finite and within +-65504, the range of a half.
Status ValidateQuantizable(const float* table, std::int64_t num_rows, std::int64_t dim);

// Packs table [num_rows, dim] into packed [num_rows, kInt8HeaderBytes + dim]. Per row
//   bias = min w rounded down, scale = (max w - bias) / 255 rounded up  (to halves)
//   q = round((w - bias) / scale), to nearest, ties to even; 0 when scale is 0
// so that no code saturates and |w - (scale * q + bias)| <= scale / 2. The bytes are the same on
// every CPU target and for any `threads`. Requires: ValidateQuantizable is ok, threads >= 1.
void QuantizeRows(const float* table, std::int64_t num_rows, std::int64_t dim, std::uint8_t* packed,
                  int threads);

// table[r, j] = scale * q + bias: what a lookup of row r alone gives, bit for bit. threads >= 1.
void DequantizeRows(const std::uint8_t* packed, std::int64_t num_rows, std::int64_t dim,
                    float* table, int threads);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_
