#include "cpp/gated_mlp/gated_mlp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpp/gated_mlp/reference.h"
#include "tests/cpp/gated_mlp/network.h"
#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

using testing::Forward;
using testing::kInfinity;
using testing::kNan;
using testing::Network;
using testing::SameBits;

void ExpectMatchesReference(const Network& network, const std::vector<float>& x,
                            const std::vector<float>& out) {
  const std::int64_t in = network.layers().front().in;
  const std::int64_t units = network.layers().back().out;
  const auto num_rows = static_cast<std::int64_t>(x.size()) / in;
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const std::vector<double> want =
        reference::Forward(network.layers(), {x.begin() + r * in, x.begin() + (r + 1) * in});
    double largest = 1;  // sums of float32 terms err relative to their terms, which are near 1
    for (const double value : want) largest = std::max(largest, std::abs(value));
    for (std::int64_t j = 0; j < units; ++j)
      ASSERT_NEAR(out[static_cast<std::size_t>(r * units + j)], want[static_cast<std::size_t>(j)],
                  1e-5 * largest)
          << "row " << r << ", column " << j;
  }
}

TEST(GatedMlpTest, MatchesReferenceForEveryGateAndOddSize) {
  testing::ForEachCpuTarget([] {
    for (const Gate gate : {Gate::kNone, Gate::kHidden, Gate::kInput})
      for (const Activation activation : {Activation::kLinear, Activation::kRelu})
        for (const std::int64_t rank : {0, 1, 5, 17}) {
          if (gate == Gate::kNone && rank > 0) continue;
          for (const std::int64_t in : {1, 3, 17, 33})
            for (const std::int64_t out : {1, 3, 17, 33, 64, 81, 150}) {
              SCOPED_TRACE("gate " + std::to_string(static_cast<int>(gate)) + ", rank " +
                           std::to_string(rank) + ", [" + std::to_string(in) + ", " +
                           std::to_string(out) + "]");
              Network network(20240601);
              network.Add(in, out, gate, activation, rank);
              for (const std::int64_t num_rows : {1, 5, 13}) {
                const std::vector<float> x = network.Values(num_rows * in, 1.0F);
                ExpectMatchesReference(network, x, Forward(network.Mlp(), x));
              }
            }
        }
  });
}

TEST(GatedMlpTest, MatchesReferenceForStacks) {
  testing::ForEachCpuTarget([] {
    Network network(7);
    network.Add(30, 96, Gate::kHidden)
        .Add(96, 40, Gate::kInput)
        .Add(40, 70, Gate::kHidden, Activation::kRelu, 8)
        .Add(70, 33, Gate::kInput, Activation::kLinear, 3)
        .Add(33, 33, Gate::kInput)
        .Add(33, 20, Gate::kHidden)
        .Add(20, 3, Gate::kNone, Activation::kLinear);
    for (std::size_t depth = 1; depth <= network.layers().size(); ++depth) {
      std::vector<GatedLayer> layers(network.layers().begin(),
                                     network.layers().begin() + static_cast<std::ptrdiff_t>(depth));
      const GatedMlp mlp = GatedMlp::Create(layers).value();
      const std::vector<float> x = network.Values(101 * 30, 1.0F);  // more rows than one block
      const std::vector<float> out = Forward(mlp, x);
      const std::int64_t units = mlp.num_outputs();
      for (std::int64_t r = 0; r < 101; ++r) {
        const std::vector<double> want =
            reference::Forward(layers, {x.begin() + r * 30, x.begin() + (r + 1) * 30});
        for (std::int64_t j = 0; j < units; ++j)
          ASSERT_NEAR(out[static_cast<std::size_t>(r * units + j)],
                      want[static_cast<std::size_t>(j)], 2e-5)
              << "depth " << depth << ", row " << r << ", column " << j;
      }
    }
  });
}

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kBf16, Precision::kInt8};

Network OddStack(Precision precision = Precision::kFp32) {
  Network network(11);
  network.Add(37, 150, Gate::kHidden, Activation::kRelu, 0, precision)
      .Add(150, 49, Gate::kInput, Activation::kRelu, 0, precision)
      .Add(49, 90, Gate::kHidden, Activation::kRelu, 6, precision)
      .Add(90, 5, Gate::kNone, Activation::kLinear, 0, precision);
  return network;
}

// Runs `body` for every CPU target and precision.
template <typename Body>
void ForEachTargetAndPrecision(const Body& body) {
  testing::ForEachCpuTarget([&] {
    for (const Precision precision : kPrecisions) {
      SCOPED_TRACE(std::string(PrecisionName(precision)));
      body(precision);
    }
  });
}

TEST(GatedMlpTest, BitsOfARowDoNotDependOnBatchOrPosition) {
  ForEachTargetAndPrecision([](Precision precision) {
    Network network = OddStack(precision);
    const GatedMlp mlp = network.Mlp(5);
    const std::int64_t in = mlp.num_inputs();
    const std::int64_t units = mlp.num_outputs();
    constexpr std::int64_t kRows = 70;
    const std::vector<float> x = network.Values(kRows * in, 1.0F);
    std::vector<float> alone;
    for (std::int64_t r = 0; r < kRows; ++r) {
      const std::vector<float> one = Forward(mlp, {x.begin() + r * in, x.begin() + (r + 1) * in});
      alone.insert(alone.end(), one.begin(), one.end());
    }
    for (std::int64_t size = 1; size <= kRows; ++size) {
      // Rotated, so that over all sizes each row has stood at many positions.
      const std::int64_t first = kRows - size;
      const std::vector<float> out =
          Forward(mlp, {x.begin() + first * in, x.begin() + (first + size) * in});
      ASSERT_TRUE(SameBits(out.data(), alone.data() + first * units, size * units))
          << "batch " << size;
    }
    // One row at every position of a batch of every size.
    for (std::int64_t size = 1; size <= kRows; ++size) {
      std::vector<float> copies;
      for (std::int64_t r = 0; r < size; ++r)
        copies.insert(copies.end(), x.begin(), x.begin() + in);
      const std::vector<float> out = Forward(mlp, copies);
      for (std::int64_t r = 0; r < size; ++r)
        ASSERT_TRUE(SameBits(out.data() + r * units, alone.data(), units))
            << "batch " << size << ", position " << r;
    }
  });
}

TEST(GatedMlpTest, BitsDoNotDependOnThreads) {
  ForEachTargetAndPrecision([](Precision precision) {
    Network network = OddStack(precision);
    const GatedMlp mlp = network.Mlp(5);
    for (const std::int64_t num_rows : {1, 2, 7, 97, 301}) {
      const std::vector<float> x = network.Values(num_rows * mlp.num_inputs(), 1.0F);
      const std::vector<float> want = Forward(mlp, x);
      for (const int threads : {2, 3, 8})
        ASSERT_EQ(Forward(mlp, x, threads), want) << num_rows << " rows, " << threads << " threads";
    }
  });
}

TEST(GatedMlpTest, SharedPrefixGivesTheBitsOfForward) {
  ForEachTargetAndPrecision([](Precision precision) {
    for (const Gate gate : {Gate::kNone, Gate::kHidden, Gate::kInput})
      for (const std::int64_t rank : {0, 4}) {
        if (gate == Gate::kNone && rank > 0) continue;
        Network network(3);
        network.Add(45, 83, gate, Activation::kRelu, rank, precision)
            .Add(83, 6, Gate::kHidden, Activation::kRelu, 0, precision);
        SharedInput shared;
        for (const std::int64_t num_shared : {0, 1, 20, 44, 45}) {
          const std::int64_t own = 45 - num_shared;
          const GatedMlp mlp = network.Mlp(num_shared);
          for (const std::int64_t num_rows : {1, 4, 50, 200}) {
            std::vector<float> x = network.Values(num_rows * 45, 1.0F);
            for (std::int64_t r = 1; r < num_rows; ++r)
              std::copy(x.begin(), x.begin() + num_shared, x.begin() + r * 45);
            const std::vector<float> want = Forward(mlp, x, 2);
            std::vector<float> got(want.size(), kNan);
            GatedMlpWorkspace workspace(mlp, num_rows, 2);
            mlp.PrepareShared(Span<const float>(x.data(), num_shared), shared);
            EXPECT_EQ(shared.num_shared(), num_shared);
            // The rows' own inputs stay where they are: a stride wider than the row.
            mlp.ForwardShared(shared, x.data() + num_shared, num_rows, 45, got.data(), 6,
                              workspace);
            ASSERT_EQ(got, want) << num_shared << " shared, " << own << " own, " << num_rows;
          }
        }
      }
  });
}

TEST(GatedMlpTest, WritesNothingBesideItsColumns) {
  ForEachTargetAndPrecision([](Precision precision) {
    Network network(5);
    network.Add(9, 21, Gate::kHidden, Activation::kRelu, 0, precision);
    const GatedMlp mlp = network.Mlp();
    const std::vector<float> x = network.Values(8 * 9, 1.0F);
    const std::vector<float> want = Forward(mlp, x);
    std::vector<float> wide(8 * 30, 42.0F);
    GatedMlpWorkspace workspace(mlp, 8);
    mlp.Forward(x.data(), 8, 9, wide.data() + 4, 30, workspace);
    for (std::size_t r = 0; r < 8; ++r)
      for (std::size_t j = 0; j < 30; ++j) {
        const bool inside = j >= 4 && j < 25;
        ASSERT_EQ(wide[r * 30 + j], inside ? want[r * 21 + j - 4] : 42.0F);
      }
  });
}

TEST(GatedMlpTest, EmptyBatchIsFine) {
  Network network = OddStack();
  EXPECT_TRUE(Forward(network.Mlp(), {}).empty());
  EXPECT_TRUE(Forward(network.Mlp(), {}, 4).empty());
}

TEST(GatedMlpTest, NanAndInfinityPropagate) {
  testing::ForEachCpuTarget([] {
    const std::vector<float> weight = {1, 0, 0, 1};
    const std::vector<float> zeros = {0, 0};
    for (const Gate gate : {Gate::kNone, Gate::kHidden, Gate::kInput}) {
      GatedLayer layer;
      layer.in = layer.out = 2;
      layer.weight = weight;
      layer.bias = zeros;
      layer.gate = gate;
      if (gate != Gate::kNone) {
        layer.gate_weight = weight;
        layer.gate_bias = zeros;
      }
      const GatedMlp mlp = GatedMlp::Create({&layer, 1}).value();
      // 0 * NaN and 0 * inf are NaN: both columns of such a row are.
      for (const float bad : {kNan, kInfinity, -kInfinity}) {
        const std::vector<float> out = Forward(mlp, {1, 1, bad, 1, 1, 1});
        EXPECT_TRUE(std::isnan(out[3])) << bad;
        EXPECT_EQ(std::isnan(out[2]), std::isnan(bad) || gate == Gate::kHidden) << bad;
        for (const std::size_t i : {0U, 1U, 4U, 5U}) EXPECT_FALSE(std::isnan(out[i])) << bad;
      }
    }
  });
}

void ExpectRefused(std::vector<GatedLayer> layers, const std::string& message) {
  const StatusOr<GatedMlp> mlp = GatedMlp::Create(layers);
  ASSERT_FALSE(mlp.ok());
  EXPECT_EQ(mlp.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(mlp.status().message(), message);
}

TEST(GatedMlpTest, RefusesLayersThatDoNotFit) {
  Network network(1);
  network.Add(4, 3, Gate::kHidden).Add(3, 2, Gate::kNone);
  const std::vector<GatedLayer>& good = network.layers();
  const std::vector<float> seven(7);
  ExpectRefused({}, "layers is empty; at least one layer is needed");
  ExpectRefused({good[1], good[0]},
                "layer 1: weight has 4 rows, but the layer before it has 2 outputs");
  GatedLayer layer = good[0];
  layer.in = 0;
  ExpectRefused({layer}, "layer 0: weight is [0, 3]; both sizes must be at least 1");
  layer = good[0];
  layer.out = 0;
  ExpectRefused({layer}, "layer 0: weight is [4, 0]; both sizes must be at least 1");
  layer = good[0];
  layer.weight = seven;
  ExpectRefused({layer}, "layer 0: weight has 7 values; expected 4 x 3");
  layer = good[0];
  layer.bias = seven;
  ExpectRefused({layer}, "layer 0: bias has 7 values; expected 1 x 3");
  layer = good[0];
  layer.gate_weight = seven;
  ExpectRefused({layer}, "layer 0: gate_weight has 7 values; expected 3 x 3");
  layer = good[0];
  layer.gate_bias = {};
  ExpectRefused({layer}, "layer 0: gate_bias has 0 values; expected 1 x 3");
  layer = good[0];
  layer.gate_rank = 2;
  ExpectRefused({layer}, "layer 0: gate_down has 0 values; expected 3 x 2");
  layer.gate_rank = -1;
  ExpectRefused({layer}, "layer 0: gate_rank must be at least 0; got -1");
  layer.gate_rank = 0;
  layer.gate_down = seven;
  ExpectRefused({layer}, "layer 0: gate_down given with gate_rank 0");
  layer = good[1];
  layer.gate_bias = seven;
  ExpectRefused({layer}, "layer 0: gate arrays given to a layer without a gate");
}

TEST(GatedMlpTest, NamesAreParsed) {
  EXPECT_EQ(ParseGate("hidden").value(), Gate::kHidden);
  EXPECT_EQ(ParseGate("input").value(), Gate::kInput);
  EXPECT_EQ(ParseGate("none").value(), Gate::kNone);
  EXPECT_EQ(ParseGate("Hidden").status().message(),
            "gate 'Hidden' is unknown; allowed: none, hidden, input");
  EXPECT_EQ(ParseActivation("relu").value(), Activation::kRelu);
  EXPECT_EQ(ParseActivation("linear").value(), Activation::kLinear);
  EXPECT_EQ(ParseActivation("gelu").status().message(),
            "activation 'gelu' is unknown; allowed: linear, relu");
}

// Distance of `got` from the exact value in units of the last place of the float nearest to it.
double UlpError(float got, double want) {
  const auto nearest = static_cast<float>(want);
  const double ulp = static_cast<double>(std::nextafter(nearest, kInfinity)) - nearest;
  return std::abs(got - want) / ulp;
}

TEST(SigmoidTest, ErrorIsWithinTheDocumentedBound) {
  testing::ForEachCpuTarget([] {
    // Every 997th float from the smallest subnormal to 128, both signs.
    std::vector<float> x;
    for (std::uint32_t bits = 1; bits < 0x43000000U; bits += 997) {
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      x.push_back(value);
      x.push_back(-value);
    }
    std::vector<float> y = x;
    Sigmoid(y);
    double worst = 0;
    float worst_at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = 1.0 / (1.0 + std::exp(-static_cast<double>(x[i])));
      if (const double error = UlpError(y[i], exact); !(error <= worst)) {
        worst = error;
        worst_at = x[i];
      }
    }
    EXPECT_LE(worst, 2.4) << "at " << worst_at;
  });
}

TEST(SigmoidTest, BitsDoNotDependOnPositionOrLength) {
  testing::ForEachCpuTarget([] {
    Network values(17);
    const std::vector<float> x = values.Values(70, 5.0F);
    std::vector<float> want = x;
    for (float& value : want) Sigmoid({&value, 1});
    for (std::int64_t size = 0; size <= 70; ++size) {
      std::vector<float> y = x;
      Sigmoid({y.data() + 70 - size, size});
      ASSERT_TRUE(SameBits(y.data(), x.data(), 70 - size)) << size;
      ASSERT_TRUE(SameBits(y.data() + 70 - size, want.data() + 70 - size, size)) << size;
    }
  });
}

TEST(SigmoidTest, SpecialValues) {
  testing::ForEachCpuTarget([] {
    std::vector<float> y = {0.0F, -0.0F, kInfinity, -kInfinity, 200.0F, -200.0F, kNan};
    Sigmoid(y);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 6),
              (std::vector<float>{0.5F, 0.5F, 1.0F, 0.0F, 1.0F, 0.0F}));
    EXPECT_TRUE(std::isnan(y[6]));
  });
}

}  // namespace
}  // namespace feedfast
