#ifndef FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_
#define FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_

#include <cstddef>
#include <vector>

namespace feedfast::allreduce::reference {

// The sum of one gradient over the micro-batches of a window, times `scale`, in double.
template <typename T>
std::vector<double> WindowSum(const std::vector<std::vector<T>>& micro_batches, double scale) {
  std::vector<double> sum(micro_batches.front().size(), 0.0);
  for (const std::vector<T>& gradient : micro_batches)
    for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += static_cast<double>(gradient[j]);
  for (double& element : sum) element *= scale;
  return sum;
}

}  // namespace feedfast::allreduce::reference

#endif  // FEEDFAST_CPP_ALLREDUCE_REFERENCE_H_
