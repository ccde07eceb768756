#ifndef FEEDFAST_CPP_SCORER_UTILITY_H_
#define FEEDFAST_CPP_SCORER_UTILITY_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::scorer {

// What kind of action an objective predicts.
enum class Group { kPassive, kActive, kOther };

// "passive", "active" or "other".
StatusOr<Group> ParseGroup(std::string_view name);

// The balance between objectives in one request's score:
//   utility = alpha sum_passive(w_k p_k) + (1 - alpha) sum_active(w_k p_k)
//             + lambda sum_other(w_k p_k)
struct Tradeoff {
  double alpha = 0.5;
  double lambda = 1.0;
  std::vector<double> weights;  // w_k, one per objective
};

// InvalidArgument unless alpha is in [0, 1], lambda and the weights are finite and not negative,
// there is a weight per group, and no score can exceed kLargestUtility, which float32 holds.
Status ValidateTradeoff(const Tradeoff& tradeoff, Span<const Group> groups);

// Bound of the sum of all coefficients, that is, of the score of probabilities of 1.
inline constexpr double kLargestUtility = 1e38;

// coefficients[k] = the factor of k's group times w_k, in double, rounded once to float32.
// Requires ValidateTradeoff; coefficients.size() == groups.size().
void UtilityCoefficients(Span<const Group> groups, const Tradeoff& tradeoff,
                         Span<float> coefficients);

// scores[i] = sum_k coefficients[k] * probabilities[i, k]; probabilities is [scores.size(), K],
// row-major. One float32 accumulator that starts at 0, k ascending, products and sums rounded
// apart.
void ScoreUtility(Span<const float> coefficients, const float* probabilities, Span<float> scores);

// order[j] = index of the (j + 1)th highest score for j < top_k, equal scores by ascending index,
// NaN like -inf; -1 behind. Requires order.size() == scores.size(), top_k >= 0.
void OrderByScore(Span<const float> scores, std::int64_t top_k, Span<std::int64_t> order);

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_UTILITY_H_
