#include "cpp/embedding_kernels/row_optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/row_optimizer_reference.h"
#include "tests/cpp/embedding_kernels/random_batch.h"
#include "tests/cpp/testing.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kNumRows = 700;
constexpr UpdateRule kRules[] = {UpdateRule::kSgd, UpdateRule::kAdagrad,
                                 UpdateRule::kRowwiseAdagrad, UpdateRule::kAdam,
                                 UpdateRule::kRowwiseAdam};
constexpr RowFormat kTrainable[] = {RowFormat::kFloat32, RowFormat::kFloat16, RowFormat::kBfloat16};

// A table with states that owns its memory.
struct OwnedTrainable {
  OwnedTrainable(OwnedTable rows, UpdateRule rule)
      : table(std::move(rows)),
        state0(static_cast<std::size_t>(table.view.num_rows * StateSize(rule, 0, table.view.dim))),
        state1(static_cast<std::size_t>(table.view.num_rows * StateSize(rule, 1, table.view.dim))) {
  }
  TrainableTable View() {
    return {table.bytes.data(),
            table.view.num_rows,
            table.view.dim,
            table.view.format,
            {state0.data(), state1.data()}};
  }
  double Weight(std::int64_t row, std::int64_t column) const {
    const std::uint8_t* at = table.bytes.data() + row * RowBytes(table.view.format, table.view.dim);
    if (table.view.format == RowFormat::kFloat32) {
      float x;
      std::memcpy(&x, at + 4 * column, 4);
      return x;
    }
    std::uint16_t x;
    std::memcpy(&x, at + 2 * column, 2);
    return table.view.format == RowFormat::kFloat16 ? HalfToFloat(x) : Bfloat16ToFloat(x);
  }

  OwnedTable table;
  std::vector<float> state0;
  std::vector<float> state1;
};

reference::DenseRows Rows(const RowGradient& gradient) {
  std::vector<float> sums(static_cast<std::size_t>(gradient.num_rows * gradient.dim));
  SumRowGradient(gradient, sums.data(), 0, gradient.num_rows);
  reference::DenseRows rows;
  for (std::int64_t g = 0; g < gradient.num_rows; ++g)
    rows[gradient.rows[g]].assign(sums.begin() + g * gradient.dim,
                                  sums.begin() + (g + 1) * gradient.dim);
  return rows;
}

std::vector<RowOptimizer> Variants(UpdateRule rule) {
  RowOptimizer plain;
  plain.rule = rule;
  plain.learning_rate = 0.05f;
  std::vector<RowOptimizer> variants = {plain};
  for (const WeightDecayMode mode : {WeightDecayMode::kL2, WeightDecayMode::kDecouple}) {
    variants.push_back(plain);
    variants.back().weight_decay = 0.1f;
    variants.back().weight_decay_mode = mode;
  }
  for (const GradientClipping clipping :
       {GradientClipping::kValue, GradientClipping::kRowNorm, GradientClipping::kNorm}) {
    variants.push_back(plain);
    variants.back().clipping = clipping;
    variants.back().max_gradient = clipping == GradientClipping::kNorm ? 20.0f : 0.7f;
    variants.back().weight_decay = 0.1f;
  }
  return variants;
}

TEST(RowOptimizerTest, Float32FollowsTheOracleForManySteps) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    for (const std::int64_t dim : {1, 9, 64, 100})
      for (const UpdateRule rule : kRules)
        for (const RowOptimizer& variant : Variants(rule)) {
          OwnedTrainable trained(RandomTable(RowFormat::kFloat32, kNumRows, dim, rng), rule);
          reference::OptimizedTable oracle;
          oracle.dim = dim;
          oracle.weights = trained.table.decoded;
          for (auto& state : oracle.states) state.assign(oracle.weights.size(), 0.0);
          RowOptimizer optimizer = variant;
          RowGroups groups;
          for (int step = 1; step <= 12; ++step) {
            optimizer.step = step;
            const OwnedBags bags = RandomBags(kNumRows, 60, rng);
            const std::vector<float> grad = RandomFloats(bags.View().num_bags() * dim, rng);
            ASSERT_TRUE(groups.Group(bags.WeightedView(), Pooling::kMean).ok());
            const RowGradient gradient = groups.Gradient(grad.data(), dim);
            oracle.Step(optimizer, Rows(gradient));
            ApplyRowGradient(trained.View(), optimizer, gradient, RunOnThreads(1));
          }
          for (std::int64_t r = 0; r < kNumRows; ++r)
            for (std::int64_t j = 0; j < dim; ++j) {
              const double want = oracle.weights[static_cast<std::size_t>(r * dim + j)];
              // 12 float32 steps of size 0.05; m / sqrt(v) amplifies the rounding of small sums.
              ASSERT_NEAR(trained.Weight(r, j), want, 1e-4 * (1.0 + std::abs(want)))
                  << "rule " << static_cast<int>(rule) << " row " << r << " column " << j;
            }
        }
  });
}

TEST(RowOptimizerTest, BitsDependNeitherOnThreadsNorOnHowTheRowsCame) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    const std::int64_t dim = 33;
    for (const RowFormat format : kTrainable)
      for (const UpdateRule rule : kRules)
        for (const RowOptimizer& optimizer : Variants(rule)) {
          const OwnedTable start = RandomTable(format, kNumRows, dim, rng);
          const OwnedBags bags = RandomBags(kNumRows, 400, rng);
          const std::vector<float> grad = RandomFloats(bags.View().num_bags() * dim, rng);
          RowGroups groups;
          ASSERT_TRUE(groups.Group(bags.View(), Pooling::kMean).ok());
          const RowGradient gradient = groups.Gradient(grad.data(), dim);
          ASSERT_GT(gradient.num_rows, 512);
          OwnedTrainable one(start, rule);
          ApplyRowGradient(one.View(), optimizer, gradient, RunOnThreads(1));
          OwnedTrainable three(start, rule);
          ApplyRowGradient(three.View(), optimizer, gradient, RunOnThreads(3));
          EXPECT_EQ(one.table.bytes, three.table.bytes);
          EXPECT_EQ(one.state0, three.state0);
          EXPECT_EQ(one.state1, three.state1);

          std::vector<float> sums(static_cast<std::size_t>(gradient.num_rows * dim));
          SumRowGradient(gradient, sums.data(), 0, gradient.num_rows);
          OwnedTrainable summed(start, rule);
          ApplyRowGradient(
              summed.View(), optimizer,
              {gradient.num_rows, gradient.rows, nullptr, nullptr, nullptr, sums.data(), dim},
              RunOnThreads(1));
          EXPECT_EQ(one.table.bytes, summed.table.bytes);
          EXPECT_EQ(one.state0, summed.state0);
        }
  });
}

TEST(RowOptimizerTest, ColumnsOfWiderRowsFollowTheSquaresOfTheWholeRows) {
  testing::ForEachCpuTarget([] {
    std::mt19937 rng(kSeed);
    const std::int64_t dim = 19;
    const std::int64_t cut = 7;
    for (const UpdateRule rule : {UpdateRule::kRowwiseAdagrad, UpdateRule::kRowwiseAdam}) {
      const OwnedTable start = RandomTable(RowFormat::kFloat32, kNumRows, dim, rng);
      std::vector<std::int64_t> rows(kNumRows);
      std::iota(rows.begin(), rows.end(), 0);
      const std::vector<float> grad = RandomFloats(kNumRows * dim, rng);
      std::vector<float> squares(rows.size());
      for (std::int64_t r = 0; r < kNumRows; ++r)
        for (std::int64_t j = 0; j < dim; ++j)
          squares[static_cast<std::size_t>(r)] += grad[static_cast<std::size_t>(r * dim + j)] *
                                                  grad[static_cast<std::size_t>(r * dim + j)];
      RowOptimizer optimizer;
      optimizer.rule = rule;
      optimizer.learning_rate = 0.05f;
      optimizer.epsilon = 1e-3f;
      OwnedTrainable whole(start, rule);
      RowGradient gradient;
      gradient.num_rows = kNumRows;
      gradient.rows = rows.data();
      gradient.grad = grad.data();
      gradient.dim = dim;
      ApplyRowGradient(whole.View(), optimizer, gradient, RunOnThreads(1));
      for (const auto& [begin, end] : {std::pair(std::int64_t{0}, cut), std::pair(cut, dim)}) {
        const std::int64_t columns = end - begin;
        std::vector<float> weights, part;
        for (std::int64_t r = 0; r < kNumRows; ++r)
          for (std::int64_t j = begin; j < end; ++j) {
            weights.push_back(start.decoded[static_cast<std::size_t>(r * dim + j)]);
            part.push_back(grad[static_cast<std::size_t>(r * dim + j)]);
          }
        std::vector<float> state0(static_cast<std::size_t>(kNumRows * columns));
        std::vector<float> state1(static_cast<std::size_t>(kNumRows));
        gradient.grad = part.data();
        gradient.dim = columns;
        gradient.row_squares = squares.data();
        gradient.row_dim = dim;
        const TrainableTable table{
            weights.data(), kNumRows, columns, RowFormat::kFloat32, {state0.data(), state1.data()}};
        ApplyRowGradient(table, optimizer, gradient, RunOnThreads(1));
        for (std::int64_t r = 0; r < kNumRows; ++r)
          for (std::int64_t j = begin; j < end; ++j)
            // The sums of squares are in another order.
            ASSERT_NEAR(weights[static_cast<std::size_t>(r * columns + j - begin)],
                        whole.Weight(r, j), 1e-5);
      }
    }
  });
}

TEST(RowOptimizerTest, EmptyGradientChangesNothing) {
  OwnedTrainable trained(OwnedTable{{1, 2, 3, 4}, {}, {nullptr, 1, 1, RowFormat::kFloat32}},
                         UpdateRule::kAdam);
  const std::vector<std::uint8_t> before = trained.table.bytes;
  RowOptimizer optimizer;
  optimizer.rule = UpdateRule::kAdam;
  RowGradient nothing;
  nothing.dim = 1;
  ApplyRowGradient(trained.View(), optimizer, nothing, RunOnThreads(1));
  EXPECT_EQ(trained.table.bytes, before);
}

// One row [dim] of `format`, SGD with gradient -add and rate 1, from 0: what `add` rounds to.
std::vector<double> Rounded(RowFormat format, float add, std::int64_t dim, bool stochastic,
                            std::uint64_t seed) {
  std::mt19937 rng(kSeed);
  OwnedTable rows = RandomTable(format, 1, dim, rng);
  std::fill(rows.bytes.begin(), rows.bytes.end(), std::uint8_t{0});
  OwnedTrainable trained(std::move(rows), UpdateRule::kSgd);
  RowOptimizer optimizer;
  optimizer.learning_rate = 1.0f;
  optimizer.stochastic_rounding = stochastic;
  optimizer.seed = seed;
  const std::vector<float> grad(static_cast<std::size_t>(dim), -add);
  const std::int64_t row = 0;
  ApplyRowGradient(trained.View(), optimizer,
                   {1, &row, nullptr, nullptr, nullptr, grad.data(), dim}, RunOnThreads(1));
  std::vector<double> out;
  for (std::int64_t j = 0; j < dim; ++j) out.push_back(trained.Weight(0, j));
  return out;
}

TEST(StochasticRoundingTest, GoesToANeighbourAndIsRightInTheMean) {
  testing::ForEachCpuTarget([] {
    constexpr std::int64_t kSamples = 40'000;
    for (const RowFormat format : {RowFormat::kFloat16, RowFormat::kBfloat16})
      for (const float x : {1.0003f, -1.0007f, 3.14159f, 1000.1f, 6.1e-5f, 3e-6f, -1e-7f, 1e-30f}) {
        const std::vector<double> got = Rounded(format, x, kSamples, true, 7);
        const auto [low, high] = std::minmax_element(got.begin(), got.end());
        // Neighbours: one unit in the last place apart.
        const double step =
            format == RowFormat::kFloat16
                ? std::max(std::ldexp(1.0, std::ilogb(x) - 10), std::ldexp(1.0, -24))
                : std::ldexp(1.0, std::ilogb(x) - 7);
        EXPECT_LE(*low, x);
        EXPECT_GE(*high, x == 1e-30f && format == RowFormat::kFloat16 ? 0.0 : x);
        EXPECT_LE(*high - *low, step * 1.0001);
        double mean = 0.0;
        for (const double y : got) mean += y / kSamples;
        // Standard deviation of the mean: at most step / 2 / 200.
        EXPECT_NEAR(mean, x, step * 0.5 / 200 * 4) << x;
      }
  });
}

TEST(StochasticRoundingTest, IsAFunctionOfSeedStepRowAndColumn) {
  const std::vector<double> a = Rounded(RowFormat::kBfloat16, 1.003f, 256, true, 1);
  EXPECT_EQ(a, Rounded(RowFormat::kBfloat16, 1.003f, 256, true, 1));
  EXPECT_NE(a, Rounded(RowFormat::kBfloat16, 1.003f, 256, true, 2));
}

TEST(StochasticRoundingTest, OfAPartIsThatOfTheTableItIsPartOf) {
  testing::ForEachCpuTarget([] {
    constexpr std::int64_t kRows = 5;
    constexpr std::int64_t kDim = 37;
    for (const RowFormat format : {RowFormat::kFloat16, RowFormat::kBfloat16}) {
      // What 1 + (a little for each element) rounds to, of rows from `row` and columns from
      // `column` on.
      const auto rounded = [format](std::int64_t row, std::int64_t column) {
        std::mt19937 rng(kSeed);
        const std::int64_t num_rows = kRows - row;
        const std::int64_t dim = kDim - column;
        OwnedTable zeros = RandomTable(format, num_rows, dim, rng);
        std::fill(zeros.bytes.begin(), zeros.bytes.end(), std::uint8_t{0});
        OwnedTrainable trained(std::move(zeros), UpdateRule::kSgd);
        RowOptimizer optimizer;
        optimizer.learning_rate = 1.0f;
        optimizer.first_row = row;
        optimizer.first_column = column;
        std::vector<std::int64_t> rows;
        std::vector<float> grad;
        for (std::int64_t i = 0; i < num_rows; ++i) {
          rows.push_back(i);
          for (std::int64_t j = 0; j < dim; ++j)
            grad.push_back(-1.0f - 1e-5f * static_cast<float>((row + i) * kDim + column + j));
        }
        ApplyRowGradient(trained.View(), optimizer,
                         {num_rows, rows.data(), nullptr, nullptr, nullptr, grad.data(), dim},
                         RunOnThreads(1));
        return trained;
      };
      const OwnedTrainable whole = rounded(0, 0);
      const OwnedTrainable part = rounded(2, 20);
      for (std::int64_t row = 2; row < kRows; ++row)
        for (std::int64_t column = 20; column < kDim; ++column)
          ASSERT_EQ(part.Weight(row - 2, column - 20), whole.Weight(row, column));
    }
  });
}

TEST(RoundingTest, ToNearestEvenWithoutRandomNumbers) {
  testing::ForEachCpuTarget([] {
    const auto half = [](float x) { return Rounded(RowFormat::kFloat16, x, 3, false, 0)[2]; };
    EXPECT_EQ(half(1.0f + 0x1p-11f), 1.0);  // a tie, to even
    EXPECT_EQ(half(1.0f + 3 * 0x1p-11f), 1.0 + 0x1p-9);
    EXPECT_EQ(half(0x1p-14f * 1.5f), 0x1p-14 * 1.5);
    EXPECT_EQ(half(0x1p-24f * 2.5f), 0x1p-23);  // subnormal tie, to even
    EXPECT_EQ(half(0x1p-24f * 2.6f), 0x1p-24 * 3);
    EXPECT_EQ(half(-0x1p-24f), -0x1p-24);
    EXPECT_EQ(half(1e6f), 65504.0);
    EXPECT_EQ(half(-std::numeric_limits<float>::infinity()), -65504.0);
    EXPECT_TRUE(std::isnan(half(std::numeric_limits<float>::quiet_NaN())));
    const auto bf16 = [](float x) { return Rounded(RowFormat::kBfloat16, x, 3, false, 0)[2]; };
    EXPECT_EQ(bf16(1.0f + 0x1p-8f), 1.0);
    EXPECT_EQ(bf16(1.0f + 3 * 0x1p-8f), 1.0 + 0x1p-6);
    EXPECT_EQ(bf16(std::numeric_limits<float>::infinity()),
              std::numeric_limits<double>::infinity());
    EXPECT_TRUE(std::isnan(bf16(std::numeric_limits<float>::quiet_NaN())));
  });
}

TEST(ValidateRowOptimizerTest, NamesWhatIsOutOfRange) {
  RowOptimizer o;
  EXPECT_TRUE(ValidateRowOptimizer(o).ok());
  o.learning_rate = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ValidateRowOptimizer(o).message(), "learning_rate = nan must be finite and at least 0");
  o.learning_rate = 1.0f;
  o.beta2 = 1.0f;
  EXPECT_EQ(ValidateRowOptimizer(o).message(), "beta2 = 1 must be in [0, 1)");
  o.beta2 = 0.9f;
  o.clipping = GradientClipping::kNorm;
  EXPECT_EQ(ValidateRowOptimizer(o).message(), "max_gradient = 0 must be finite and above 0");
  o.max_gradient = 1.0f;
  o.step = 0;
  EXPECT_EQ(ValidateRowOptimizer(o).message(), "step = 0 must be at least 1");
}

TEST(ParseTest, UnknownNamesAreRefused) {
  EXPECT_EQ(ParseUpdateRule("rowwise_adam").value(), UpdateRule::kRowwiseAdam);
  EXPECT_FALSE(ParseUpdateRule("adamw").ok());
  EXPECT_EQ(ParseGradientClipping("row_norm").value(), GradientClipping::kRowNorm);
  EXPECT_FALSE(ParseGradientClipping("global_norm").ok());
  EXPECT_EQ(ParseWeightDecayMode("decouple").value(), WeightDecayMode::kDecouple);
  EXPECT_FALSE(ParseWeightDecayMode("adamw").ok());
}

}  // namespace
}  // namespace feedfast::embedding_kernels
