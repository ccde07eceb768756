#include "cpp/allreduce/row_accumulator_kernel.h"

namespace feedfast::allreduce {
namespace FEEDFAST_TARGET {
namespace {

// Floats of sums that are asked for ahead of the row that is added: 64 cache lines.
constexpr std::int64_t kFloatsAhead = 1024;

}  // namespace

void AccumulateRows(const AccumulateRowsArgs& args) noexcept {
  const std::int64_t dim = args.dim;
  const std::int64_t ahead = dim < kFloatsAhead ? kFloatsAhead / dim : 1;
  std::int64_t known = args.known;
  for (std::int64_t i = 0; i < args.count; ++i) {
    if (i + ahead < args.count) {
      const float* later = args.sums + args.positions[i + ahead] * dim;
      for (std::int64_t j = 0; j < dim; j += 16) __builtin_prefetch(later + j, 1);
    }
    const std::int64_t position = args.positions[i];
    const float* __restrict value = args.values + i * dim;
    float* __restrict sum = args.sums + position * dim;
    if (position < known) {
      for (std::int64_t j = 0; j < dim; ++j) sum[j] += value[j];
    } else {
      for (std::int64_t j = 0; j < dim; ++j) sum[j] = value[j];
      known = position + 1;
    }
  }
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
