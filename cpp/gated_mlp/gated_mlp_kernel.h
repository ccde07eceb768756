#ifndef FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_
#define FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_

#include <cstdint>

// What gated_mlp.cc and the kernels of every CPU target agree on. Plain data only.
namespace feedfast::gated_mlp {

// Columns of one packed panel: 4 AVX-512 vectors, which with 6 rows fill the register file.
inline constexpr std::int64_t kPanelColumns = 64;
// The last panel's width is a multiple of this: one AVX-512 vector, two tiles of every other
// target.
inline constexpr std::int64_t kColumnAlign = 16;

enum class Epilogue {
  kStore,  // y = s
  kRelu,   // y = s < 0 ? 0 : s
  kGate,   // y = hidden * sigmoid(s)
};

// y[r, j] = epilogue(init[j] + sum over k in [k_begin, k_end), ascending, of x[r, k - k_begin] *
// W[k, j]) for r < num_rows and j < y_columns. The sum is computed for all padded_out columns.
struct DenseArgs {
  const float* x;
  std::int64_t x_stride;
  std::int64_t num_rows;
  const float* panels;  // W, as GatedMlp::PackedMatrix
  std::int64_t num_k;   // rows of W
  std::int64_t k_begin;
  std::int64_t k_end;
  std::int64_t padded_out;
  const float* init;  // [padded_out]
  Epilogue epilogue;
  const float* hidden;  // [num_rows, >= padded_out], may be y; read by Epilogue::kGate alone
  std::int64_t hidden_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t y_columns;  // columns that exist in y, at most padded_out
};

}  // namespace feedfast::gated_mlp

#endif  // FEEDFAST_CPP_GATED_MLP_GATED_MLP_KERNEL_H_
