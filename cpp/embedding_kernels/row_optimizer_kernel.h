#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_KERNEL_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/row_optimizer.h"

namespace feedfast::embedding_kernels {

struct SumRowsArgs {
  RowGradient gradient;
  float* out;  // [num_rows, dim]
  std::int64_t begin;
  std::int64_t end;
};

// Rows that ApplyRows updates together.
inline constexpr std::int64_t kUpdateRows = 16;

// The rows [begin, end) of a gradient, applied to a table.
struct ApplyRowsArgs {
  RowGradient gradient;
  TrainableTable table;
  UpdateRule rule;
  GradientClipping clipping;  // not kNorm: that is in norm_scale
  bool stochastic_rounding;
  float rate;         // what multiplies the rule's direction: lr, or Adam's corrected one
  float keep_weight;  // 1 - lr d for decoupled decay, else 1
  float l2_decay;     // d for L2 decay, else 0
  float epsilon;
  float beta1;
  float beta2;
  float max_gradient;
  float norm_scale;           // factor of all gradients
  std::uint64_t key;          // of the random numbers, from seed and step
  std::int64_t first_row;     // of the table in that of the random numbers
  std::int64_t first_column;  // the same
  float* scratch;             // [kUpdateRows, dim], of the calling thread
  std::int64_t begin;
  std::int64_t end;
  std::int64_t prefetch_rows;  // how many rows ahead table and states are prefetched
};

FEEDFAST_DECLARE_KERNEL(void, SumRows, (const SumRowsArgs& args));
// The sum of the squares of the elements of rows [begin, end); `out` is a scratch row [dim].
FEEDFAST_DECLARE_KERNEL(double, SumSquaresOfRows, (const SumRowsArgs& args));
FEEDFAST_DECLARE_KERNEL(void, ApplyRows, (const ApplyRowsArgs& args));

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_KERNEL_H_
