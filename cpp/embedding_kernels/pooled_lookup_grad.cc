#include "cpp/embedding_kernels/pooled_lookup_grad.h"

#include <cassert>

#include "cpp/embedding_kernels/pooled_lookup_kernel.h"

namespace feedfast::embedding_kernels {

void PooledLookupWeightsGradRange(const Table& table, const Bags& bags, Pooling pooling,
                                  const float* pooled, const float* grad, float* grad_weights,
                                  std::int64_t begin_bag, std::int64_t end_bag) noexcept {
  assert(bags.weights && !IsQuantized(table.format));
  static constexpr KernelTable<decltype(&scalar::GradWeights)> kKernels =
      FEEDFAST_KERNEL_TABLE(GradWeights);
  kKernels.Get()(
      {MakeBagRange(table, bags, pooling, begin_bag, end_bag), pooled, grad, grad_weights});
}

}  // namespace feedfast::embedding_kernels
