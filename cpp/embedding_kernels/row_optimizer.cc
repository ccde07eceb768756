#include "cpp/embedding_kernels/row_optimizer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/cpu_target.h"
#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/row_optimizer_kernel.h"

namespace feedfast::embedding_kernels {
namespace {

// Rows of a gradient are handled in blocks, which also fix the order of the sum of kNorm.
constexpr std::int64_t kBlockRows = 256;

// Cache lines of rows and states that are prefetched ahead, as for lookups.
constexpr std::int64_t kLinesInFlight = 128;

Status RequireFinite(const char* name, float value, bool in_range, const char* range) {
  if (std::isfinite(value) && in_range) return OkStatus();
  return InvalidArgument(name, " = ", value, " must be ", range);
}

std::uint64_t RandomKey(std::uint64_t seed, std::int64_t step) {
  // The golden-ratio steps of SplitMix64 keep the keys of neighbouring steps apart; every row mixes
  // the sum again.
  std::uint64_t x = seed + static_cast<std::uint64_t>(step) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
  return x ^ (x >> 33);
}

// The factor that kNorm puts on all gradients.
float NormScale(const RowGradient& gradient, float max_norm, const RangeRunner& run) {
  static constexpr KernelTable<decltype(&scalar::SumSquaresOfRows)> kKernels =
      FEEDFAST_KERNEL_TABLE(SumSquaresOfRows);
  const auto kernel = kKernels.Get();
  const std::int64_t blocks = (gradient.num_rows + kBlockRows - 1) / kBlockRows;
  std::vector<double> squares(static_cast<std::size_t>(blocks));
  run(blocks, kBlockRows * gradient.dim, [&](std::int64_t begin, std::int64_t end) {
    AlignedBuffer<float> scratch(gradient.dim);
    for (std::int64_t block = begin; block < end; ++block)
      squares[static_cast<std::size_t>(block)] =
          kernel({gradient, scratch.data(), block * kBlockRows,
                  std::min((block + 1) * kBlockRows, gradient.num_rows)});
  });
  double sum = 0.0;
  for (const double square : squares) sum += square;
  const double norm = std::sqrt(sum);
  return norm > max_norm ? static_cast<float>(max_norm / norm) : 1.0f;
}

}  // namespace

StatusOr<UpdateRule> ParseUpdateRule(std::string_view name) {
  if (name == "sgd") return UpdateRule::kSgd;
  if (name == "adagrad") return UpdateRule::kAdagrad;
  if (name == "rowwise_adagrad") return UpdateRule::kRowwiseAdagrad;
  if (name == "adam") return UpdateRule::kAdam;
  if (name == "rowwise_adam") return UpdateRule::kRowwiseAdam;
  return InvalidArgument(
      "rule must be one of 'sgd', 'adagrad', 'rowwise_adagrad', 'adam', 'rowwise_adam'; got '",
      name, "'");
}

StatusOr<GradientClipping> ParseGradientClipping(std::string_view name) {
  if (name == "none") return GradientClipping::kNone;
  if (name == "value") return GradientClipping::kValue;
  if (name == "row_norm") return GradientClipping::kRowNorm;
  if (name == "norm") return GradientClipping::kNorm;
  return InvalidArgument("clipping must be one of 'none', 'value', 'row_norm', 'norm'; got '", name,
                         "'");
}

StatusOr<WeightDecayMode> ParseWeightDecayMode(std::string_view name) {
  if (name == "l2") return WeightDecayMode::kL2;
  if (name == "decouple") return WeightDecayMode::kDecouple;
  return InvalidArgument("weight_decay_mode must be one of 'l2', 'decouple'; got '", name, "'");
}

std::int64_t StateSize(UpdateRule rule, int slot, std::int64_t dim) noexcept {
  switch (rule) {
    case UpdateRule::kSgd:
      return 0;
    case UpdateRule::kAdagrad:
      return slot == 0 ? dim : 0;
    case UpdateRule::kRowwiseAdagrad:
      return slot == 0 ? 1 : 0;
    case UpdateRule::kAdam:
      return dim;
    case UpdateRule::kRowwiseAdam:
      return slot == 0 ? dim : 1;
  }
  return 0;
}

Status ValidateRowOptimizer(const RowOptimizer& o) {
  FEEDFAST_RETURN_IF_ERROR(RequireFinite("learning_rate", o.learning_rate, o.learning_rate >= 0.0f,
                                         "finite and at least 0"));
  if (o.rule != UpdateRule::kSgd)  // a row without a gradient yet would be 0 / 0
    FEEDFAST_RETURN_IF_ERROR(
        RequireFinite("epsilon", o.epsilon, o.epsilon > 0.0f, "finite and above 0"));
  FEEDFAST_RETURN_IF_ERROR(
      RequireFinite("beta1", o.beta1, o.beta1 >= 0.0f && o.beta1 < 1.0f, "in [0, 1)"));
  FEEDFAST_RETURN_IF_ERROR(
      RequireFinite("beta2", o.beta2, o.beta2 >= 0.0f && o.beta2 < 1.0f, "in [0, 1)"));
  FEEDFAST_RETURN_IF_ERROR(RequireFinite("weight_decay", o.weight_decay, o.weight_decay >= 0.0f,
                                         "finite and at least 0"));
  if (o.clipping != GradientClipping::kNone)
    FEEDFAST_RETURN_IF_ERROR(
        RequireFinite("max_gradient", o.max_gradient, o.max_gradient > 0.0f, "finite and above 0"));
  if (o.step < 1) return InvalidArgument("step = ", o.step, " must be at least 1");
  if (o.first_row < 0 || o.first_column < 0)
    return InvalidArgument("the first row and column, ", o.first_row, " and ", o.first_column,
                           ", must be at least 0");
  return OkStatus();
}

RangeRunner RunOnThreads(int threads) {
  return [threads](std::int64_t size, std::int64_t,
                   const std::function<void(std::int64_t, std::int64_t)>& body) {
    const std::int64_t ranges = threads == 1 ? 1 : 8 * std::int64_t{threads};
    ParallelFor(size, std::max<std::int64_t>(1, (size + ranges - 1) / ranges), threads, body);
  };
}

void ApplyRowGradient(const TrainableTable& table, const RowOptimizer& optimizer,
                      const RowGradient& gradient, const RangeRunner& run) {
  assert(gradient.dim == table.dim && !IsQuantized(table.format));
  static constexpr KernelTable<decltype(&scalar::ApplyRows)> kKernels =
      FEEDFAST_KERNEL_TABLE(ApplyRows);
  if (gradient.num_rows == 0) return;
  double rate = optimizer.learning_rate;
  if (optimizer.rule == UpdateRule::kAdam || optimizer.rule == UpdateRule::kRowwiseAdam) {
    const auto step = static_cast<double>(optimizer.step);
    rate *= std::sqrt(1.0 - std::pow(double{optimizer.beta2}, step)) /
            (1.0 - std::pow(double{optimizer.beta1}, step));
  }
  const bool l2 = optimizer.weight_decay_mode == WeightDecayMode::kL2;
  const bool by_norm = optimizer.clipping == GradientClipping::kNorm;
  std::int64_t row_lines = RowBytes(table.format, table.dim) / kCacheLineBytes + 1;
  for (int slot = 0; slot < kMaxStates; ++slot)
    row_lines +=
        (StateSize(optimizer.rule, slot, table.dim) * 4 + kCacheLineBytes - 1) / kCacheLineBytes;
  ApplyRowsArgs args{gradient,
                     table,
                     optimizer.rule,
                     by_norm ? GradientClipping::kNone : optimizer.clipping,
                     optimizer.stochastic_rounding,
                     static_cast<float>(rate),
                     l2 ? 1.0f : 1.0f - optimizer.learning_rate * optimizer.weight_decay,
                     l2 ? optimizer.weight_decay : 0.0f,
                     optimizer.epsilon,
                     optimizer.beta1,
                     optimizer.beta2,
                     optimizer.max_gradient,
                     by_norm ? NormScale(gradient, optimizer.max_gradient, run) : 1.0f,
                     RandomKey(optimizer.seed, optimizer.step),
                     optimizer.first_row,
                     optimizer.first_column,
                     nullptr,
                     0,
                     0,
                     std::clamp<std::int64_t>(kLinesInFlight / row_lines, 2, 64)};
  const auto kernel = kKernels.Get();
  const std::int64_t blocks = (gradient.num_rows + kBlockRows - 1) / kBlockRows;
  run(blocks, kBlockRows * (2 * gradient.dim + 40), [&](std::int64_t begin, std::int64_t end) {
    AlignedBuffer<float> scratch(kUpdateRows * gradient.dim);
    ApplyRowsArgs range = args;
    range.scratch = scratch.data();
    range.begin = begin * kBlockRows;
    range.end = std::min(end * kBlockRows, gradient.num_rows);
    kernel(range);
  });
}

}  // namespace feedfast::embedding_kernels
