#include "cpp/scorer/utility.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace feedfast::scorer {
namespace {

double Coefficient(Group group, const Tradeoff& tradeoff, std::int64_t k) {
  const double factor = group == Group::kPassive  ? tradeoff.alpha
                        : group == Group::kActive ? 1.0 - tradeoff.alpha
                                                  : tradeoff.lambda;
  return factor * tradeoff.weights[static_cast<std::size_t>(k)];
}

}  // namespace

StatusOr<Group> ParseGroup(std::string_view name) {
  if (name == "passive") return Group::kPassive;
  if (name == "active") return Group::kActive;
  if (name == "other") return Group::kOther;
  return InvalidArgument("group '", name, "' is unknown; allowed: passive, active, other");
}

Status ValidateTradeoff(const Tradeoff& tradeoff, Span<const Group> groups) {
  if (!(tradeoff.alpha >= 0.0 && tradeoff.alpha <= 1.0))
    return InvalidArgument("alpha = ", tradeoff.alpha, "; allowed: 0 to 1");
  if (!(std::isfinite(tradeoff.lambda) && tradeoff.lambda >= 0.0))
    return InvalidArgument("lambda = ", tradeoff.lambda, "; must be finite and >= 0");
  const auto size = static_cast<std::int64_t>(tradeoff.weights.size());
  if (size != groups.size())
    return InvalidArgument("weights has ", size, " values; the model has ", groups.size(),
                           " objectives");
  for (std::size_t k = 0; k < tradeoff.weights.size(); ++k)
    if (!(std::isfinite(tradeoff.weights[k]) && tradeoff.weights[k] >= 0.0))
      return InvalidArgument("weights[", k, "] = ", tradeoff.weights[k],
                             "; must be finite and >= 0");
  double largest = 0.0;
  for (std::int64_t k = 0; k < size; ++k) largest += Coefficient(groups[k], tradeoff, k);
  if (!(largest <= kLargestUtility))
    return InvalidArgument("weights times alpha, 1 - alpha and lambda add up to ", largest,
                           "; allowed: at most ", kLargestUtility);
  return OkStatus();
}

void UtilityCoefficients(Span<const Group> groups, const Tradeoff& tradeoff,
                         Span<float> coefficients) {
  for (std::int64_t k = 0; k < groups.size(); ++k)
    coefficients[k] = static_cast<float>(Coefficient(groups[k], tradeoff, k));
}

void ScoreUtility(Span<const float> coefficients, const float* probabilities, Span<float> scores) {
  const std::int64_t num_objectives = coefficients.size();
  for (std::int64_t i = 0; i < scores.size(); ++i) {
    float score = 0.0f;
    for (std::int64_t k = 0; k < num_objectives; ++k)
      score += coefficients[k] * probabilities[i * num_objectives + k];
    scores[i] = score;
  }
}

void OrderByScore(Span<const float> scores, std::int64_t top_k, Span<std::int64_t> order) {
  const auto key = [&scores](std::int64_t i) {
    return std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i];
  };
  const auto before = [&key](std::int64_t a, std::int64_t b) {
    return key(a) != key(b) ? key(a) > key(b) : a < b;
  };
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (top_k >= order.size()) {
    std::sort(order.begin(), order.end(), before);
    return;
  }
  std::partial_sort(order.begin(), order.begin() + top_k, order.end(), before);
  std::fill(order.begin() + top_k, order.end(), std::int64_t{-1});
}

}  // namespace feedfast::scorer
