#ifndef FEEDFAST_CPP_SCORER_CALIBRATOR_H_
#define FEEDFAST_CPP_SCORER_CALIBRATOR_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::scorer {

// A monotone piecewise-linear map of probabilities; without knots it is the identity.
//   f(p) = y[0]                                                    p <= x[0]
//        = y[i] + (p - x[i]) ((y[i + 1] - y[i]) / (x[i + 1] - x[i]))  x[i] <= p < x[i + 1]
//        = y[last]                                                 p >= x[last]
// Numerics: float32, every step rounded.
class Calibrator {
 public:
  // The identity.
  Calibrator() = default;

  // Copies the knots. InvalidArgument: the lengths differ or are 0, a value is outside [0, 1], x
  // does not ascend strictly, y falls, or two x are so close that float32 cannot hold the slope.
  static StatusOr<Calibrator> Create(Span<const float> x, Span<const float> y);

  bool is_identity() const noexcept { return x_.empty(); }
  // NaN gives NaN.
  float operator()(float p) const noexcept;

 private:
  std::vector<float> x_;
  std::vector<float> y_;
  std::vector<float> slope_;  // [knots - 1]
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_CALIBRATOR_H_
