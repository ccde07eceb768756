#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// Tables of codes with a scale and a bias in every row: kInt8Rowwise and kInt4Rowwise of table.h.

// Which interval of a row's values the codes 0 to kMax (255 or 15) cover:
//   kMinMax  all of them, so that none saturates
//   kClip    the one with the least sum of squared errors that a greedy search finds: from both
//            ends inwards in steps of 1/64 of the range, always the end whose step costs less
enum class RangeMethod { kMinMax, kClip };

// "minmax" or "clip".
StatusOr<RangeMethod> ParseRangeMethod(std::string_view name);

// Ok when every element of table [num_rows, dim] is finite and within +-65504, the range of a half.
Status ValidateQuantizable(const float* table, std::int64_t num_rows, std::int64_t dim);

// Packs table [num_rows, dim] into packed [num_rows, RowBytes(format, dim)]. Per row, with
// [low, high] the interval of `method`,
//   bias = low rounded down, scale = (high - bias) / kMax rounded up  (to halves)
//   q = (w - bias) / scale to nearest, ties to even, clamped to [0, kMax]; 0 when scale is 0
// so that |w - (scale * q + bias)| <= scale / 2 for every w that is not clamped. The bytes are the
// same on every CPU target and for any `threads`. Requires: IsQuantized(format),
// ValidateQuantizable is ok, threads >= 1.
void QuantizeRows(const float* table, std::int64_t num_rows, std::int64_t dim, RowFormat format,
                  RangeMethod method, std::uint8_t* packed, int threads);

// Ok when `rows` holds rows of a table with num_rows rows, none twice.
Status ValidateRowsToUpdate(Span<const std::int64_t> rows, std::int64_t num_rows);

// packed row rows[i] = row i of values [rows.size(), dim], as QuantizeRows packs it; every other
// row keeps its bytes. Requires: ValidateRowsToUpdate and ValidateQuantizable are ok.
void QuantizeRowsAt(const float* values, Span<const std::int64_t> rows, std::int64_t dim,
                    RowFormat format, RangeMethod method, std::uint8_t* packed, int threads);

// out[r, j] = scale * q + bias: what a lookup of row r alone gives, bit for bit. out [num_rows,
// dim]. Requires: IsQuantized(table.format), threads >= 1.
void DequantizeRows(const Table& table, float* out, int threads);

struct QuantizationError {
  double greatest = 0.0;          // of |w - (scale * q + bias)| over all elements
  double root_mean_square = 0.0;  // over all elements
  double saturated_share = 0.0;   // of the rows that hold an element beyond scale / 2 outside
                                  // [bias, bias + kMax * scale]
};

// How far `quantized` is from the table [num_rows, dim] it was made from; zeros for an empty one.
// Sums are doubles in ascending order: one result for any `threads`.
QuantizationError MeasureQuantizationError(const float* original, const Table& quantized,
                                           int threads);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_QUANTIZED_TABLE_H_
