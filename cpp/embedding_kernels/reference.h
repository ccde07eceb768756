#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_REFERENCE_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpp/embedding_kernels/bags.h"

// Double-precision oracles, short enough to be believed by reading. For tests and benchmarks only.
namespace feedfast::embedding_kernels::reference {

inline double Weight(const Bags& bags, std::int64_t i) {
  return bags.weights ? (*bags.weights)[i] : 1.0;
}

inline double Divisor(const Bags& bags, std::int64_t bag, Pooling pooling) {
  double sum = 0.0;
  double sum_of_squares = 0.0;
  for (std::int64_t i = bags.offsets[bag]; i < bags.offsets[bag + 1]; ++i) {
    sum += Weight(bags, i);
    sum_of_squares += Weight(bags, i) * Weight(bags, i);
  }
  if (pooling == Pooling::kSum) return 1.0;
  return pooling == Pooling::kMean ? sum : std::sqrt(sum_of_squares);
}

// table [num_rows, dim], already decoded to doubles; returns [num_bags, dim].
inline std::vector<double> PooledLookup(const std::vector<double>& table, std::int64_t dim,
                                        const Bags& bags, Pooling pooling) {
  std::vector<double> out(static_cast<std::size_t>(bags.num_bags() * dim), 0.0);
  for (std::int64_t b = 0; b < bags.num_bags(); ++b) {
    const double divisor = Divisor(bags, b, pooling);
    if (divisor == 0.0) continue;
    for (std::int64_t i = bags.offsets[b]; i < bags.offsets[b + 1]; ++i)
      for (std::int64_t j = 0; j < dim; ++j)
        out[static_cast<std::size_t>(b * dim + j)] +=
            Weight(bags, i) * table[static_cast<std::size_t>(bags.values[i] * dim + j)] / divisor;
  }
  return out;
}

// Gradient by the table, dense: grad [num_bags, dim]; returns [num_rows, dim].
inline std::vector<double> PooledLookupGrad(const std::vector<double>& grad, std::int64_t num_rows,
                                            std::int64_t dim, const Bags& bags, Pooling pooling) {
  std::vector<double> out(static_cast<std::size_t>(num_rows * dim), 0.0);
  for (std::int64_t b = 0; b < bags.num_bags(); ++b) {
    const double divisor = Divisor(bags, b, pooling);
    if (divisor == 0.0) continue;
    for (std::int64_t i = bags.offsets[b]; i < bags.offsets[b + 1]; ++i)
      for (std::int64_t j = 0; j < dim; ++j)
        out[static_cast<std::size_t>(bags.values[i] * dim + j)] +=
            Weight(bags, i) * grad[static_cast<std::size_t>(b * dim + j)] / divisor;
  }
  return out;
}

}  // namespace feedfast::embedding_kernels::reference

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_REFERENCE_H_
