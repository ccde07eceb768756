#include "cpp/allreduce/row_merge_kernel.h"

namespace feedfast::allreduce {
namespace FEEDFAST_TARGET {

void MergeRows(const MergeRowsArgs& args) noexcept {
  const std::int64_t dim = args.dim;
  const float scale = args.scale;
  for (std::int64_t k = 0; k < args.num_rows; ++k) {
    const std::int64_t row = args.rows[k];
    float* __restrict sum = args.sums + k * dim;
    bool stored = false;
    for (std::int64_t l = 0; l < args.num_lists; ++l) {
      const RowList& list = args.lists[l];
      const std::int64_t at = args.cursors[l];
      if (at == list.count || list.rows[at] != row) continue;
      args.cursors[l] = at + 1;
      const float* __restrict value = list.values + at * dim;
      if (stored) {
        for (std::int64_t j = 0; j < dim; ++j) sum[j] += value[j];
      } else {
        for (std::int64_t j = 0; j < dim; ++j) sum[j] = value[j];
        stored = true;
      }
    }
    for (std::int64_t j = 0; j < dim; ++j) sum[j] *= scale;
  }
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
