#include "cpp/gated_mlp/precision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpp/gated_mlp/gated_mlp.h"
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

constexpr Precision kLowPrecisions[] = {Precision::kBf16, Precision::kInt8};

float FromBits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

TEST(PrecisionTest, NamesAreParsed) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8})
    EXPECT_EQ(ParsePrecision(PrecisionName(precision)).value(), precision);
  EXPECT_EQ(ParsePrecision("fp16").status().message(),
            "precision 'fp16' is unknown; allowed: fp32, bf16, int8");
}

TEST(PrecisionTest, RoundsToTheNearestBf16) {
  const std::vector<float> values = {1.0F,
                                     FromBits(0x3f808000),  // ties to even: down
                                     FromBits(0x3f818000),  // and up
                                     FromBits(0x3f808001),
                                     -2.5F,
                                     kInfinity,
                                     FromBits(0x7f7fffff),  // the largest float
                                     FromBits(0x7f800001),  // a NaN with a low payload
                                     FromBits(0xffffffff),
                                     FromBits(1)};
  std::vector<std::uint16_t> bits(values.size());
  RoundToBf16(values, bits);
  EXPECT_EQ(bits, (std::vector<std::uint16_t>{0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xc020, 0x7f80,
                                              0x7f80, 0x7fc0, 0xffff, 0}));
}

TEST(PrecisionTest, QuantizesColumnsSymmetrically) {
  const std::vector<float> matrix = {1.0F, -254.0F, 0.0F, 0.5F, 3.0F, 0.0F};
  std::vector<std::int8_t> values(6);
  std::vector<float> scales(3);
  ASSERT_TRUE(QuantizeColumns(matrix, values, scales).ok());
  EXPECT_EQ(scales, (std::vector<float>{1.0F / 127, 2.0F, 0.0F}));
  EXPECT_EQ(values, (std::vector<std::int8_t>{127, -127, 0, 64, 2, 0}));
  const std::vector<float> tiny = {FromBits(1), FromBits(3)};
  std::vector<float> one(1);
  std::vector<std::int8_t> two(2);
  ASSERT_TRUE(QuantizeColumns(tiny, two, one).ok());  // a scale of zero
  EXPECT_EQ(two, (std::vector<std::int8_t>{0, 0}));
}

TEST(PrecisionTest, RefusesToQuantizeWhatIsNotFinite) {
  std::vector<std::int8_t> values(4);
  std::vector<float> scales(2);
  for (const float bad : {kNan, kInfinity, -kInfinity})
    EXPECT_FALSE(QuantizeColumns(std::vector<float>{1, 2, bad, 4}, values, scales).ok());
  EXPECT_EQ(QuantizeColumns(std::vector<float>{1, 2, kInfinity, 4}, values, scales).message(),
            "weight [1, 0] = inf has no int8 form; it must be finite");
}

double Largest(const std::vector<double>& values) {
  double largest = 1;  // sums of float32 terms err relative to their terms, which are near 1
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// The first product reads inputs that are exact, so its rounded inputs are the oracle's.
TEST(LowPrecisionTest, FirstProductMatchesReference) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : kLowPrecisions)
      for (const Gate gate : {Gate::kNone, Gate::kInput})
        for (const std::int64_t in : {1, 2, 3, 7, 17, 33, 64})
          for (const std::int64_t out : {1, 17, 64, 81, 150})
            for (const std::int64_t num_shared : {std::int64_t{0}, in / 3, in}) {
              SCOPED_TRACE(std::string(PrecisionName(precision)) + ", [" + std::to_string(in) +
                           ", " + std::to_string(out) + "], shared " + std::to_string(num_shared));
              Network network(20240601);
              network.Add(in, out, gate, Activation::kRelu, 0, precision);
              const GatedMlp mlp = network.Mlp(num_shared);
              for (const std::int64_t num_rows : {1, 5, 13}) {
                const std::vector<float> x = network.Values(num_rows * in, 1.0F);
                const std::vector<float> got = Forward(mlp, x);
                for (std::int64_t r = 0; r < num_rows; ++r) {
                  const std::vector<double> want = reference::Forward(
                      network.layers(), {x.begin() + r * in, x.begin() + (r + 1) * in},
                      static_cast<std::size_t>(num_shared));
                  for (std::int64_t j = 0; j < out; ++j)
                    ASSERT_NEAR(got[static_cast<std::size_t>(r * out + j)],
                                want[static_cast<std::size_t>(j)], 1e-5 * Largest(want))
                        << "row " << r << ", column " << j;
                }
              }
            }
  });
}

// Behind the first product a value between two steps may round to either; one step of an input of
// 256 steps moves an output by a few thousandths, most outputs by nothing.
TEST(LowPrecisionTest, StacksMatchReference) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : kLowPrecisions) {
      Network network(7);
      network.Add(30, 96, Gate::kHidden, Activation::kRelu, 0, precision)
          .Add(96, 40, Gate::kInput, Activation::kRelu, 0, precision)
          .Add(40, 70, Gate::kHidden, Activation::kRelu, 8, precision)
          .Add(70, 33, Gate::kInput, Activation::kLinear, 3, precision)
          .Add(33, 20, Gate::kHidden)  // fp32
          .Add(20, 3, Gate::kNone, Activation::kLinear, 0, precision);
      for (std::size_t depth = 1; depth <= network.layers().size(); ++depth) {
        const std::vector<GatedLayer> layers(
            network.layers().begin(),
            network.layers().begin() + static_cast<std::ptrdiff_t>(depth));
        const GatedMlp mlp = GatedMlp::Create(layers, 11).value();
        const std::vector<float> x = network.Values(101 * 30, 1.0F);  // more rows than one block
        const std::vector<float> got = Forward(mlp, x);
        const std::int64_t units = mlp.num_outputs();
        double sum = 0;
        for (std::int64_t r = 0; r < 101; ++r) {
          const std::vector<double> want =
              reference::Forward(layers, {x.begin() + r * 30, x.begin() + (r + 1) * 30}, 11);
          for (std::int64_t j = 0; j < units; ++j) {
            const double error = std::abs(got[static_cast<std::size_t>(r * units + j)] -
                                          want[static_cast<std::size_t>(j)]);
            ASSERT_LE(error, 0.03) << "depth " << depth << ", row " << r << ", column " << j;
            sum += error;
          }
        }
        EXPECT_LE(sum / static_cast<double>(101 * units), 5e-4)
            << PrecisionName(precision) << ", depth " << depth;
      }
    }
  });
}

// 255 * 127 * 2 is more than 16 bits hold, 255 * 127 * 600 more than a float does.
TEST(LowPrecisionTest, Int8SumsAreExact) {
  testing::ForEachCpuTarget([] {
    constexpr std::int64_t kIn = 600;
    for (const int sign : {1, -1}) {
      std::vector<std::int8_t> weights(kIn * 2, static_cast<std::int8_t>(sign * 127));
      weights[1] = 0;
      const std::vector<float> scales = {1.0F, 1.0F};
      const std::vector<float> bias = {0.0F, 0.0F};
      GatedLayer layer;
      layer.in = kIn;
      layer.out = 2;
      layer.activation = Activation::kLinear;
      layer.weight = WeightView::Int8(weights, scales);
      layer.bias = bias;
      const GatedMlp mlp = GatedMlp::Create({&layer, 1}).value();
      const std::vector<float> out = Forward(mlp, std::vector<float>(kIn, 255.0F));
      EXPECT_EQ(out[0], static_cast<float>(sign * 127 * 255 * kIn));
      EXPECT_EQ(out[1], static_cast<float>(sign * 127 * 255 * (kIn - 1)));
    }
  });
}

// Bits of one layer on every target, in the order of SupportedCpuTargets().
std::vector<std::vector<float>> OnEveryTarget(Precision precision) {
  std::vector<std::vector<float>> outputs;
  testing::ForEachCpuTarget([&] {
    Network network(3);
    network.Add(77, 90, Gate::kNone, Activation::kLinear, 0, precision);
    outputs.push_back(Forward(network.Mlp(20), network.Values(10 * 77, 1.0F)));
  });
  return outputs;
}

TEST(LowPrecisionTest, TargetsAgreeAsFarAsTheyCan) {
  const std::vector<std::vector<float>> int8 = OnEveryTarget(Precision::kInt8);
  const std::vector<std::vector<float>> bf16 = OnEveryTarget(Precision::kBf16);
  for (std::size_t target = 1; target < int8.size(); ++target) {
    // Scalar scales and adds in two steps.
    if (target > 1) {
      EXPECT_EQ(int8[target], int8[1]);
    }
    for (std::size_t i = 0; i < int8[0].size(); ++i) ASSERT_NEAR(int8[target][i], int8[0][i], 2e-6);
    // vdpbf16ps alone adds in another order.
    if (target < 3) {
      EXPECT_EQ(bf16[target], bf16[0]);
    }
  }
}

TEST(LowPrecisionTest, RangesTooSmallForAScaleReadAsZero) {
  testing::ForEachCpuTarget([] {
    Network network(5);
    network.Add(9, 4, Gate::kNone, Activation::kLinear, 0, Precision::kInt8);
    const GatedMlp mlp = network.Mlp();
    const std::vector<float> bias(network.layers()[0].bias.begin(), network.layers()[0].bias.end());
    for (const float value : {0.0F, 1e-38F, 1e-31F, FromBits(1)})
      EXPECT_EQ(Forward(mlp, std::vector<float>(9, value)), bias) << value;
  });
}

TEST(LowPrecisionTest, WhatIsNotFiniteStaysInItsRow) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : kLowPrecisions)
      for (const Gate gate : {Gate::kNone, Gate::kHidden, Gate::kInput}) {
        Network network(5);
        network.Add(21, 40, gate, Activation::kRelu, 0, precision).Add(40, 3, Gate::kNone);
        const GatedMlp mlp = network.Mlp(2);
        std::vector<float> x = network.Values(5 * 21, 1.0F);
        const std::vector<float> want = Forward(mlp, x);
        for (const std::size_t at : {1U, 20U})
          for (const float bad : {kNan, -kNan, kInfinity, -kInfinity, 3.2e38F}) {
            std::vector<float> changed = x;
            changed[2 * 21 + at] = bad;
            const std::vector<float> got = Forward(mlp, changed);
            EXPECT_TRUE(SameBits(got.data(), want.data(), 6));
            EXPECT_TRUE(SameBits(got.data() + 9, want.data() + 9, 6));
            const bool all_nan = std::isnan(bad) || precision == Precision::kInt8;
            for (const std::size_t i : {6U, 7U, 8U}) EXPECT_TRUE(!all_nan || std::isnan(got[i]));
          }
      }
  });
}

void ExpectRefused(const GatedLayer& layer, std::int64_t num_shared, const std::string& message) {
  const StatusOr<GatedMlp> mlp = GatedMlp::Create({&layer, 1}, num_shared);
  ASSERT_FALSE(mlp.ok());
  EXPECT_EQ(mlp.status().message(), message);
}

TEST(LowPrecisionTest, RefusesWhatDoesNotFit) {
  Network network(1);
  network.Add(4, 3, Gate::kHidden, Activation::kRelu, 0, Precision::kInt8).Add(4, 3, Gate::kHidden);
  const GatedLayer& good = network.layers()[0];
  ExpectRefused(good, 5, "num_shared must be between 0 and the 4 inputs of the first layer; got 5");
  ExpectRefused(good, -1,
                "num_shared must be between 0 and the 4 inputs of the first layer; got -1");
  GatedLayer layer = good;
  layer.gate_weight = network.layers()[1].gate_weight;
  ExpectRefused(layer, 0, "layer 0: gate_weight is fp32, but weight is int8");
  const std::vector<float> scales = {1, -1, kInfinity, kNan};
  layer = good;
  layer.weight = WeightView::Int8(good.weight.int8(), scales);
  ExpectRefused(layer, 0, "layer 0: weight has 4 scales; expected 3");
  layer.weight = WeightView::Int8(good.weight.int8(), {scales.data(), 3});
  ExpectRefused(layer, 0, "layer 0: scale 1 of weight is -1; it must be finite and not negative");
  const std::vector<std::int8_t> tall(65537);
  layer = {};
  layer.in = 65537;
  layer.out = 1;
  layer.weight = WeightView::Int8(tall, {scales.data(), 1});
  layer.bias = {scales.data(), 1};
  ExpectRefused(layer, 0, "layer 0: weight has 65537 rows; int8 sums hold at most 65536");
}

TEST(LowPrecisionTest, AcceptsTheSharedLengthItWasMadeFor) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8}) {
    Network network(1);
    network.Add(4, 3, Gate::kHidden, Activation::kRelu, 0, precision);
    const GatedMlp mlp = network.Mlp(2);
    EXPECT_EQ(mlp.num_shared(), 2);
    for (const std::int64_t num_shared : {-1, 0, 1, 2, 3, 4, 5})
      EXPECT_EQ(mlp.AcceptsShared(num_shared), precision == Precision::kInt8
                                                   ? num_shared == 2
                                                   : num_shared >= 0 && num_shared <= 4);
  }
}

}  // namespace
}  // namespace feedfast
