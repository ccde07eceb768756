#include "cpp/gated_mlp/cross_network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpp/gated_mlp/reference.h"
#include "tests/cpp/gated_mlp/network.h"
#include "tests/cpp/testing.h"

namespace feedfast {
namespace {

using testing::kNan;
using testing::RandomWeights;
using testing::SameBits;

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kBf16, Precision::kInt8};

std::vector<CrossLayer> MakeLayers(RandomWeights& weights, std::int64_t num_layers,
                                   std::int64_t size, std::int64_t rank, Precision precision) {
  std::vector<CrossLayer> layers;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    CrossLayer layer;
    layer.size = size;
    layer.rank = rank;
    if (rank > 0) layer.down = weights.Matrix(size, rank, precision);
    layer.weight = weights.Matrix(rank > 0 ? rank : size, size, precision);
    layer.bias = weights.Array(1, size);
    layers.push_back(layer);
  }
  return layers;
}

std::vector<float> Forward(const CrossNetwork& network, const std::vector<float>& x,
                           int threads = 1) {
  const auto num_rows = static_cast<std::int64_t>(x.size()) / network.size();
  std::vector<float> out(x.size(), kNan);
  CrossWorkspace workspace(network, num_rows, threads);
  network.Forward(x.data(), num_rows, network.size(), out.data(), network.size(), workspace);
  return out;
}

TEST(CrossNetworkTest, MatchesReference) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : kPrecisions)
      for (const std::int64_t rank : {0, 1, 7})
        for (const std::int64_t size : {1, 5, 16, 33, 64, 150})
          for (const std::int64_t num_layers : {1, 2, 3}) {
            SCOPED_TRACE(std::string(PrecisionName(precision)) + ", rank " + std::to_string(rank) +
                         ", size " + std::to_string(size) + ", layers " +
                         std::to_string(num_layers));
            RandomWeights weights(20240601);
            const std::vector<CrossLayer> layers =
                MakeLayers(weights, num_layers, size, rank, precision);
            const CrossNetwork network = CrossNetwork::Create(layers).value();
            const std::vector<float> x = weights.Values(13 * size, 1.0F);
            const std::vector<float> got = Forward(network, x);
            // One product reads exact inputs; behind it a value between two steps may round to
            // either, and every layer multiplies by x_0 again.
            const bool exact = precision == Precision::kFp32 || (num_layers == 1 && rank == 0);
            for (std::int64_t r = 0; r < 13; ++r) {
              const std::vector<double> want =
                  reference::Forward(layers, {x.begin() + r * size, x.begin() + (r + 1) * size});
              double largest = 1;
              for (const double value : want) largest = std::max(largest, std::abs(value));
              for (std::int64_t j = 0; j < size; ++j)
                ASSERT_NEAR(got[static_cast<std::size_t>(r * size + j)],
                            want[static_cast<std::size_t>(j)], (exact ? 1e-5 : 0.02) * largest)
                    << "row " << r << ", column " << j;
            }
          }
  });
}

TEST(CrossNetworkTest, BitsDoNotDependOnBatchOrThreads) {
  testing::ForEachCpuTarget([] {
    for (const Precision precision : kPrecisions)
      for (const std::int64_t rank : {0, 9}) {
        RandomWeights weights(5);
        const CrossNetwork network =
            CrossNetwork::Create(MakeLayers(weights, 3, 77, rank, precision)).value();
        const std::vector<float> x = weights.Values(110 * 77, 1.0F);  // more rows than one block
        const std::vector<float> want = Forward(network, x);
        for (const int threads : {2, 3}) ASSERT_EQ(Forward(network, x, threads), want);
        for (std::int64_t r = 0; r < 110; ++r) {
          const std::vector<float> one =
              Forward(network, {x.begin() + r * 77, x.begin() + (r + 1) * 77});
          ASSERT_TRUE(SameBits(one.data(), want.data() + r * 77, 77)) << "row " << r;
        }
      }
  });
}

TEST(CrossNetworkTest, ReadsAndWritesItsColumnsAlone) {
  testing::ForEachCpuTarget([] {
    RandomWeights weights(6);
    const CrossNetwork network =
        CrossNetwork::Create(MakeLayers(weights, 2, 21, 0, Precision::kFp32)).value();
    std::vector<float> wide = weights.Values(8 * 30, 1.0F);
    std::vector<float> x;
    for (std::size_t r = 0; r < 8; ++r) {
      x.insert(x.end(), wide.begin() + static_cast<std::ptrdiff_t>(r * 30 + 4),
               wide.begin() + static_cast<std::ptrdiff_t>(r * 30 + 25));
      wide[r * 30 + 3] = wide[r * 30 + 25] = kNan;
    }
    const std::vector<float> want = Forward(network, x);
    std::vector<float> out(8 * 40, 42.0F);
    CrossWorkspace workspace(network, 8);
    network.Forward(wide.data() + 4, 8, 30, out.data() + 2, 40, workspace);
    for (std::size_t r = 0; r < 8; ++r)
      for (std::size_t j = 0; j < 40; ++j) {
        const bool inside = j >= 2 && j < 23;
        ASSERT_EQ(out[r * 40 + j], inside ? want[r * 21 + j - 2] : 42.0F);
      }
  });
}

TEST(CrossNetworkTest, EmptyBatchIsFine) {
  RandomWeights weights(6);
  const CrossNetwork network =
      CrossNetwork::Create(MakeLayers(weights, 2, 21, 0, Precision::kInt8)).value();
  EXPECT_TRUE(Forward(network, {}).empty());
  EXPECT_EQ(network.size(), 21);
  EXPECT_EQ(network.num_layers(), 2);
}

void ExpectRefused(const std::vector<CrossLayer>& layers, const std::string& message) {
  const StatusOr<CrossNetwork> network = CrossNetwork::Create(layers);
  ASSERT_FALSE(network.ok());
  EXPECT_EQ(network.status().message(), message);
}

TEST(CrossNetworkTest, RefusesLayersThatDoNotFit) {
  RandomWeights weights(6);
  const CrossLayer full = MakeLayers(weights, 1, 4, 0, Precision::kFp32)[0];
  const CrossLayer low = MakeLayers(weights, 1, 4, 2, Precision::kInt8)[0];
  ExpectRefused({}, "layers is empty; at least one layer is needed");
  ExpectRefused({full, MakeLayers(weights, 1, 5, 0, Precision::kFp32)[0]},
                "layer 1: size is 5, but the layers before have 4");
  CrossLayer layer = full;
  layer.size = 0;
  ExpectRefused({layer}, "layer 0: size must be at least 1; got 0");
  layer = full;
  layer.rank = -1;
  ExpectRefused({layer}, "layer 0: rank must be at least 0; got -1");
  layer.rank = 2;
  ExpectRefused({layer}, "layer 0: down has 0 values; expected 4 x 2");
  layer = low;
  layer.rank = 0;
  ExpectRefused({layer}, "layer 0: down given with rank 0");
  layer = low;
  layer.weight = full.weight;
  ExpectRefused({layer}, "layer 0: down is int8, but weight is fp32");
  layer = full;
  layer.bias = {};
  ExpectRefused({layer}, "layer 0: bias has 0 values; expected 1 x 4");
}

}  // namespace
}  // namespace feedfast
