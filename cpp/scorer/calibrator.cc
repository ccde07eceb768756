#include "cpp/scorer/calibrator.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace feedfast::scorer {
namespace {

// NaN is outside, too.
Status RequireUnitInterval(const char* name, Span<const float> values) {
  for (std::int64_t i = 0; i < values.size(); ++i)
    if (!(values[i] >= 0.0f && values[i] <= 1.0f))
      return InvalidArgument("calibrator: ", name, "[", i, "] = ", values[i], "; allowed: 0 to 1");
  return OkStatus();
}

}  // namespace

StatusOr<Calibrator> Calibrator::Create(Span<const float> x, Span<const float> y) {
  if (x.size() != y.size() || x.empty())
    return InvalidArgument("calibrator: x has ", x.size(), " knots and y ", y.size(),
                           "; both need the same number, at least 1");
  FEEDFAST_RETURN_IF_ERROR(RequireUnitInterval("x", x));
  FEEDFAST_RETURN_IF_ERROR(RequireUnitInterval("y", y));
  for (std::int64_t i = 1; i < x.size(); ++i) {
    if (!(x[i] > x[i - 1])) return InvalidArgument("calibrator: x[", i, "] does not ascend");
    if (y[i] < y[i - 1]) return InvalidArgument("calibrator: y[", i, "] does not ascend");
  }
  Calibrator calibrator;
  calibrator.x_.assign(x.begin(), x.end());
  calibrator.y_.assign(y.begin(), y.end());
  for (std::int64_t i = 1; i < x.size(); ++i) {
    const float slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1]);
    if (!std::isfinite(slope))
      return InvalidArgument("calibrator: x[", i, "] is too close to x[", i - 1,
                             "]: the slope between them is not finite");
    calibrator.slope_.push_back(slope);
  }
  return calibrator;
}

float Calibrator::operator()(float p) const noexcept {
  if (is_identity()) return p;
  if (p <= x_.front()) return y_.front();
  if (p >= x_.back()) return y_.back();
  if (p != p) return p;
  const auto right = std::upper_bound(x_.begin(), x_.end(), p);
  const auto left = static_cast<std::size_t>(right - x_.begin()) - 1;
  return y_[left] + (p - x_[left]) * slope_[left];
}

}  // namespace feedfast::scorer
