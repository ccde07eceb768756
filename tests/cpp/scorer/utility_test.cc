#include "cpp/scorer/utility.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "cpp/scorer/calibrator.h"

namespace feedfast::scorer {
namespace {

TEST(UtilityTest, ClosedForm) {
  const std::vector<Group> groups = {Group::kPassive, Group::kActive, Group::kOther};
  const Tradeoff tradeoff{0.25, 3.0, {2.0, 8.0, 1.0}};
  std::vector<float> coefficients(3);
  UtilityCoefficients(groups, tradeoff, coefficients);
  EXPECT_EQ(coefficients, (std::vector<float>{0.5f, 6.0f, 3.0f}));
  const std::vector<float> probabilities = {0.5f, 0.25f, 0.125f, 0.0f, 0.0f, 1.0f};
  std::vector<float> scores(2);
  ScoreUtility(coefficients, probabilities.data(), scores);
  EXPECT_EQ(scores, (std::vector<float>{0.25f + 1.5f + 0.375f, 3.0f}));
}

TEST(UtilityTest, RefusesTradeoffsWhoseScoresFloatsCannotHold) {
  const std::vector<Group> groups = {Group::kPassive, Group::kActive, Group::kOther};
  EXPECT_EQ(ValidateTradeoff({0.5, 1.0, {1e300, 1.0, 1.0}}, groups).message(),
            "weights times alpha, 1 - alpha and lambda add up to 5e+299; allowed: at most 1e+38");
  EXPECT_FALSE(ValidateTradeoff({0.5, 1e300, {1.0, 1.0, 1e300}}, groups).ok());
  EXPECT_FALSE(ValidateTradeoff({0.5, 1.0, {0.9e38, 0.9e38, 0.9e38}}, groups).ok());
  EXPECT_TRUE(ValidateTradeoff({0.0, 1.0, {1e300, 1.0, 1.0}}, groups).ok());
  const Tradeoff largest{1.0, 0.0, {1e38, 1.0, 1.0}};
  ASSERT_TRUE(ValidateTradeoff(largest, groups).ok());
  std::vector<float> coefficients(3);
  UtilityCoefficients(groups, largest, coefficients);
  std::vector<float> scores(1);
  ScoreUtility(coefficients, std::vector<float>{1.0f, 1.0f, 1.0f}.data(), scores);
  EXPECT_LE(scores[0], std::numeric_limits<float>::max());
}

TEST(UtilityTest, GroupNames) {
  EXPECT_EQ(ParseGroup("active").value(), Group::kActive);
  EXPECT_EQ(ParseGroup("dwell").status().message(),
            "group 'dwell' is unknown; allowed: passive, active, other");
}

TEST(OrderTest, DescendingWithTiesByIndexAndNanLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> scores = {1.0f, nan, 2.0f, 1.0f, -inf, 2.0f, 0.0f, -0.0f};
  std::vector<std::int64_t> order(8);
  OrderByScore(scores, 8, order);
  EXPECT_EQ(order, (std::vector<std::int64_t>{2, 5, 0, 3, 6, 7, 1, 4}));
  OrderByScore(scores, 3, order);
  EXPECT_EQ(order, (std::vector<std::int64_t>{2, 5, 0, -1, -1, -1, -1, -1}));
  OrderByScore({}, 3, {});
}

TEST(CalibratorTest, InterpolatesAndStaysConstantOutside) {
  const std::vector<float> x = {0.25f, 0.5f, 0.75f};
  const std::vector<float> y = {0.125f, 0.25f, 0.75f};
  const Calibrator calibrator = Calibrator::Create(x, y).value();
  EXPECT_EQ(calibrator(0.0f), 0.125f);
  EXPECT_EQ(calibrator(0.25f), 0.125f);
  EXPECT_EQ(calibrator(0.375f), 0.1875f);
  EXPECT_EQ(calibrator(0.5f), 0.25f);
  EXPECT_EQ(calibrator(0.625f), 0.5f);
  EXPECT_EQ(calibrator(1.0f), 0.75f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(calibrator(nan), calibrator(nan));
  EXPECT_EQ(Calibrator()(0.3f), 0.3f);
  const std::vector<float> one_x = {0.5f};
  const std::vector<float> one_y = {0.25f};
  const Calibrator constant = Calibrator::Create(one_x, one_y).value();
  EXPECT_EQ(constant(0.1f), 0.25f);
  EXPECT_EQ(constant(0.9f), 0.25f);
}

TEST(CalibratorTest, RefusesKnotsThatAreNoMonotoneMap) {
  const auto message = [](const std::vector<float>& x, const std::vector<float>& y) {
    return Calibrator::Create(x, y).status().message();
  };
  EXPECT_EQ(message({}, {}),
            "calibrator: x has 0 knots and y 0; both need the same number, at least 1");
  EXPECT_EQ(message({0.5f}, {0.5f, 0.6f}),
            "calibrator: x has 1 knots and y 2; both need the same number, at least 1");
  EXPECT_EQ(message({0.5f, 0.5f}, {0.1f, 0.2f}), "calibrator: x[1] does not ascend");
  EXPECT_EQ(message({0.5f, 0.75f}, {0.5f, 0.25f}), "calibrator: y[1] does not ascend");
  EXPECT_EQ(message({0.5f}, {1.5f}), "calibrator: y[0] = 1.5; allowed: 0 to 1");
  EXPECT_EQ(message({0.0f, 0.5f, 1.0f}, {0.0f, 0.0f, 1.0f}), "");
  EXPECT_EQ(message({0.0f, std::numeric_limits<float>::denorm_min(), 1.0f}, {0.0f, 0.5f, 1.0f}),
            "calibrator: x[1] is too close to x[0]: the slope between them is not finite");
  EXPECT_EQ(message({std::numeric_limits<float>::quiet_NaN()}, {0.5f}),
            "calibrator: x[0] = nan; allowed: 0 to 1");
}

}  // namespace
}  // namespace feedfast::scorer
