#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_H_

#include <cstdint>
#include <functional>
#include <string_view>

#include "cpp/common/status.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

// How a touched row w follows its gradient g, with states that start at 0 (a caller may start
// Adagrad's higher); all operations are per element except mean(g^2), the mean over the row:
//   kSgd             w -= lr g
//   kAdagrad         a += g^2;        w -= lr g / (sqrt(a) + epsilon)
//   kRowwiseAdagrad  a += mean(g^2);  w -= lr g / (sqrt(a) + epsilon),   one a per row
//   kAdam            m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
//                    w -= lr sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + epsilon)
//   kRowwiseAdam     the same with v = beta2 v + (1 - beta2) mean(g^2),  one v per row
// where mean(g^2) is over gradient.row_dim columns when gradient.row_squares is given.
// Sources: Adagrad, Duchi et al. 2011, as ResourceSparseApplyAdagradV2 of TensorFlow; the row-wise
// rules as EXACT_ROWWISE_ADAGRAD and PARTIAL_ROWWISE_ADAM of FBGEMM; Adam, Kingma and Ba 2015,
// section 2, with epsilon where Keras has it. Moments are lazy: a row that a step does not touch
// keeps w, m and v, where the dense rule would decay m and v and move w on.
enum class UpdateRule { kSgd, kAdagrad, kRowwiseAdagrad, kAdam, kRowwiseAdam };

// "sgd", "adagrad", "rowwise_adagrad", "adam" or "rowwise_adam".
StatusOr<UpdateRule> ParseUpdateRule(std::string_view name);

// What happens to the summed gradient before anything else, with `max_gradient` = c:
//   kValue    every element is clamped to [-c, c]
//   kRowNorm  a row with |g| > c becomes c g / |g|
//   kNorm     if the norm n of all rows of the gradient together is above c, all become c g / n
// kValue and kNorm are GradientClipping.VALUE and NORM of TorchRec, clipvalue and clipnorm of
// Keras.
enum class GradientClipping { kNone, kValue, kRowNorm, kNorm };

// "none", "value", "row_norm" or "norm".
StatusOr<GradientClipping> ParseGradientClipping(std::string_view name);

// With weight_decay = d, for the touched rows and after clipping:
//   kL2        g += d w
//   kDecouple  w -= lr d w, before the rule
// The names of FBGEMM's WeightDecayMode.
enum class WeightDecayMode { kL2, kDecouple };

// "l2" or "decouple".
StatusOr<WeightDecayMode> ParseWeightDecayMode(std::string_view name);

struct RowOptimizer {
  UpdateRule rule = UpdateRule::kSgd;
  float learning_rate = 0.0f;
  float epsilon = 1e-8f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float weight_decay = 0.0f;
  WeightDecayMode weight_decay_mode = WeightDecayMode::kL2;
  GradientClipping clipping = GradientClipping::kNone;
  float max_gradient = 0.0f;  // > 0 when there is clipping
  // Rounds new fp16 and bf16 weights up or down at random, with the probabilities that make the
  // mean exact; else to nearest even. The random number of an element is a function of seed, step,
  // row and column: reproducible, and independent of threads and of the other rows.
  bool stochastic_rounding = true;
  std::uint64_t seed = 0;
  std::int64_t step = 1;  // of this table, from 1
  // Where this table begins in a larger one, whose rows and columns the random numbers follow.
  std::int64_t first_row = 0;
  std::int64_t first_column = 0;
};

inline constexpr int kMaxStates = 2;

// Floats per row of state `slot` (0 or 1) under `rule`: dim, 1 or, where there is none, 0. Adam's
// states are m, v.
std::int64_t StateSize(UpdateRule rule, int slot, std::int64_t dim) noexcept;

// A table that can be trained, with its states [num_rows, StateSize(rule, slot, dim)].
struct TrainableTable {
  void* data = nullptr;
  std::int64_t num_rows = 0;
  std::int64_t dim = 0;
  RowFormat format = RowFormat::kFloat32;  // not quantized
  float* states[kMaxStates] = {};
};

// Ok when the numbers are finite and in their ranges: learning_rate, weight_decay >= 0; epsilon > 0
// in rules with a root; 0 <= beta < 1; max_gradient > 0 when there is clipping; step >= 1;
// first_row, first_column >= 0.
Status ValidateRowOptimizer(const RowOptimizer& optimizer);

// Runs body(begin, end) over ranges that cover [0, size), on whatever threads; `cost` is about the
// number of cycles of one unit. Returns when all are done.
using RangeRunner =
    std::function<void(std::int64_t size, std::int64_t cost,
                       const std::function<void(std::int64_t begin, std::int64_t end)>& body)>;

// The caller's thread and threads - 1 more.
RangeRunner RunOnThreads(int threads);

// Updates the rows of `gradient` in place. An empty gradient changes nothing.
// Requires: ValidateRowOptimizer is ok; gradient.row_squares is nullptr, or there is neither
// clipping nor L2 decay, which would change the gradient behind them; gradient.rows are unique rows
// of the table; gradient.dim = table.dim; nothing aliases. Numerics: float32; sums ascending; the
// bits depend neither on the threads nor, but for kNorm, on the other rows.
void ApplyRowGradient(const TrainableTable& table, const RowOptimizer& optimizer,
                      const RowGradient& gradient, const RangeRunner& run);

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_OPTIMIZER_H_
