#include "cpp/embedding_kernels/bags.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace feedfast::embedding_kernels {
namespace {

std::string Violation(const std::vector<std::int64_t>& values,
                      const std::vector<std::int64_t>& offsets, std::int64_t num_rows,
                      std::optional<Span<const float>> weights = std::nullopt) {
  return ValidateBags({values, offsets, weights}, num_rows).message();
}

TEST(BagsTest, EmptyBatchEmptyBagsAndBothEndsOfTheTableAreValid) {
  EXPECT_EQ(Violation({}, {0}, 0), "");
  EXPECT_EQ(Violation({}, {0, 0, 0}, 0), "");
  EXPECT_EQ(Violation({0, 9, 9}, {0, 0, 3}, 10), "");
}

TEST(BagsTest, ViolationsNameArgumentPositionValueAndLimit) {
  EXPECT_EQ(Violation({}, {}, 10), "offsets is empty; it needs num_bags + 1 values");
  EXPECT_EQ(Violation({1}, {1, 1}, 10), "offsets[0] = 1 must be 0");
  EXPECT_EQ(Violation({1, 2}, {0, 2, 1, 2}, 10), "offsets[2] = 1 is below offsets[1] = 2");
  EXPECT_EQ(Violation({1, 2}, {0, 1}, 10), "offsets[1] = 1 must equal the number of values, 2");
  EXPECT_EQ(Violation({1}, {0, 2}, 10), "offsets[1] = 2 must equal the number of values, 1");
  EXPECT_EQ(Violation({3, 10}, {0, 2}, 10), "values[1] = 10 is not a row of a table with 10 rows");
  EXPECT_EQ(Violation({-1}, {0, 1}, 10), "values[0] = -1 is not a row of a table with 10 rows");
  EXPECT_EQ(Violation({0}, {0, 1}, 0), "values[0] = 0 is not a row of a table with 0 rows");
  const std::vector<float> weights = {1.0f, NAN};
  EXPECT_EQ(Violation({1, 2}, {0, 2}, 10, weights), "weights[1] = nan is not finite");
  const std::vector<float> infinite = {-INFINITY, 1.0f};
  EXPECT_EQ(Violation({1}, {0, 1}, 10, weights),
            "weights has 2 values; it must have one for each of 1 ids");
  EXPECT_EQ(Violation({1}, {0, 1}, 10, Span<const float>()),
            "weights has 0 values; it must have one for each of 1 ids");
  EXPECT_EQ(Violation({1, 2}, {0, 2}, 10, infinite), "weights[0] = -inf is not finite");
}

TEST(BagsTest, Int32ViolationsReadLikeInt64Ones) {
  const std::vector<std::int32_t> values = {3, -2147483647 - 1};
  const std::vector<std::int32_t> offsets = {0, 2};
  EXPECT_EQ(ValidateBags({values, offsets}, 10).message(),
            "values[1] = -2147483648 is not a row of a table with 10 rows");
  EXPECT_EQ(ValidateBags({{}, offsets}, 10).message(),
            "offsets[1] = 2 must equal the number of values, 0");
}

TEST(BagsTest, IdsAtTheEndsOfInt64AreNoRows) {
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kGreatest = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t id : {kLeast, kLeast + 1, std::int64_t{-1}, kGreatest})
    for (const std::int64_t num_rows : {std::int64_t{0}, std::int64_t{1}, kGreatest})
      EXPECT_EQ(
          ValidateBags({std::vector<std::int64_t>{id}, std::vector<std::int64_t>{0, 1}}, num_rows)
              .code(),
          StatusCode::kOutOfRange)
          << id << " in " << num_rows;
}

TEST(BagsTest, OnlyAnIdOutsideTheTableIsOutOfRange) {
  const std::vector<std::int64_t> values = {7};
  const std::vector<std::int64_t> offsets = {0, 1};
  EXPECT_EQ(ValidateBags({values, offsets}, 7).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ValidateBags({{}, offsets}, 7).code(), StatusCode::kInvalidArgument);
}

TEST(BagsTest, OffsetsOfBagsCountWhatIsBelow) {
  const auto offsets = [](const std::vector<std::int64_t>& bag_of, std::int64_t num_bags,
                          std::int64_t stride = 1) {
    std::vector<std::int64_t> found(static_cast<std::size_t>(num_bags) + 1, -1);
    const auto num_values = static_cast<std::int64_t>(bag_of.size()) / stride;
    const Status status =
        OffsetsOfBags("rows", bag_of.data(), num_values, stride, num_bags, found.data());
    EXPECT_EQ(status.message(), "");
    return found;
  };
  using Offsets = std::vector<std::int64_t>;
  EXPECT_EQ(offsets({}, 0), Offsets({0}));
  EXPECT_EQ(offsets({}, 2), Offsets({0, 0, 0}));
  EXPECT_EQ(offsets({1, 1, 1, 4}, 6), Offsets({0, 0, 3, 3, 3, 4, 4}));
  EXPECT_EQ(offsets({0, 9, 0, 8, 2, 7}, 3, 2), Offsets({0, 2, 2, 3}));
}

TEST(BagsTest, OffsetsOfBagsRefuseRowsOutOfOrderOrRange) {
  const auto violation = [](const std::vector<std::int64_t>& bag_of) {
    std::int64_t offsets[4];
    const auto num_values = static_cast<std::int64_t>(bag_of.size());
    return OffsetsOfBags("rows", bag_of.data(), num_values, 1, 3, offsets).message();
  };
  EXPECT_EQ(violation({0, 2, 1}), "rows[2] = 1 is below rows[1] = 2; they must ascend");
  EXPECT_EQ(violation({0, 3}), "rows[1] = 3 is not one of 3 rows");
  EXPECT_EQ(violation({-1}), "rows[0] = -1 is not one of 3 rows");
  EXPECT_EQ(violation({std::numeric_limits<std::int64_t>::max()}),
            "rows[0] = 9223372036854775807 is not one of 3 rows");
}

TEST(BagsTest, PoolingNames) {
  EXPECT_EQ(ParsePooling("sqrtn").value(), Pooling::kSqrtN);
  EXPECT_EQ(ParsePooling("max").status().message(),
            "pooling 'max' is unknown; allowed: sum, mean, sqrtn");
}

}  // namespace
}  // namespace feedfast::embedding_kernels
