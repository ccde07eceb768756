#ifndef FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_
#define FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_

#include <cstdint>

// What the callers and the kernels of every CPU target agree on. Plain data only.
namespace feedfast::gated_mlp {

// Columns of one packed panel: 4 AVX-512 vectors, which with 6 rows fill the register file.
inline constexpr std::int64_t kPanelColumns = 64;
// The last panel's width is a multiple of this: one AVX-512 vector, two tiles of every other
// target.
inline constexpr std::int64_t kColumnAlign = 16;

// In every precision an element of a packed matrix, and of a row that meets it, is a word of 4
// bytes: a group of 1 float, 2 bfloat16 or 4 bytes with consecutive k, the smallest k in the lowest
// bits.

// How the bytes q of one row of int8 inputs are read: x = scale * (q - zero). A row with NaN or
// infinity has a scale of NaN.
struct RowScale {
  float scale;
  std::int32_t zero;  // 0..255
};

enum class Epilogue {
  kStore,  // y = s
  kRelu,   // y = s < 0 ? 0 : s
  kGate,   // y = hidden * sigmoid(s)
  kCross,  // y = hidden * s + addend, fused where the target can
};

// y[r, j] = epilogue(s[r, j]) for r < num_rows and j < y_columns; s is computed for all padded_out
// columns. With fp32 and bf16
//   s[r, j] = init[r, j] + sum over k, ascending, of x[r, k] * W[k, j],
// one float32 accumulator that starts as init; with int8
//   s[r, j] = init[r, j] + (rows[r].scale * column_scales[j]) *
//             float(sum over k of (q[r, k] - rows[r].zero) * W[k, j]),
// where the sum is an exact int32 and product and sum of the last step are fused where the target
// can. k runs over the groups [group_begin, group_end).
struct DenseArgs {
  const void* x;          // words; the first belongs to group_begin
  std::int64_t x_stride;  // words
  std::int64_t num_rows;
  const void* panels;       // words of W, as PackedMatrix
  std::int64_t num_groups;  // of W
  std::int64_t group_begin;
  std::int64_t group_end;
  std::int64_t padded_out;
  const float* init;  // [padded_out], or [num_rows, padded_out]
  std::int64_t init_stride;
  const RowScale* rows;             // [num_rows]; int8 alone, as the next two
  const float* column_scales;       // [padded_out]
  const std::int32_t* column_sums;  // [padded_out]: sum of W[k, j] over the groups of this call
  Epilogue epilogue;
  const float* hidden;  // [num_rows, y_columns], may be y; read by kGate and kCross alone
  std::int64_t hidden_stride;
  const float* addend;  // [num_rows, y_columns], may be y; read by kCross alone
  std::int64_t addend_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t y_columns;  // columns that exist in y, at most padded_out
};

// Rows of float32 inputs to words of another precision. The inputs of a row are `num_lead` values
// that all rows begin with and `num_own` of its own; its groups are filled up with zeros.
struct ConvertArgs {
  const float* lead;
  std::int64_t num_lead;  // always 0 for int8
  const float* x;
  std::int64_t x_stride;
  std::int64_t num_own;
  std::int64_t num_rows;
  void* words;
  std::int64_t words_stride;
  RowScale* rows;  // [num_rows], written by int8 alone
};

}  // namespace feedfast::gated_mlp

#endif  // FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_
