#ifndef FEEDFAST_FUZZ_LEAF_ROWS_H_
#define FEEDFAST_FUZZ_LEAF_ROWS_H_

#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <vector>

#include "cpp/tree_encoder/leaf_encoder.h"
#include "fuzz/fuzz_target.h"

namespace feedfast::fuzz {

// Encodes a few rows, of missing values and infinities too, and checks that every leaf is one of
// its tree.
inline void CheckLeafRows(const tree_encoder::LeafEncoder& encoder) {
  constexpr std::int64_t kRows = 11;  // more than one step of eight rows
  constexpr std::int64_t kLargest = 1 << 16;
  if (encoder.num_features() > kLargest || encoder.num_trees() > kLargest) return;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float values[] = {0,          -0.0F, 1,      -1,   std::nanf(""), kInfinity,
                          -kInfinity, 0.5F,  1e-38F, 33.5, 16777216,      -0.5F};
  std::vector<float> x(static_cast<std::size_t>(kRows * encoder.num_features()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = values[(i * 7 + i / 9) % std::size(values)];
  const auto num_trees = static_cast<std::size_t>(encoder.num_trees());
  std::vector<std::int32_t> first;
  ForEachCpuTarget([&] {
    std::vector<std::int32_t> leaves(static_cast<std::size_t>(kRows) * num_trees, -1);
    encoder.Encode(x.data(), kRows, encoder.num_features(), leaves.data());
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      const auto tree = static_cast<std::int64_t>(i % num_trees);
      Require(
          leaves[i] >= encoder.leaf_offsets()[tree] && leaves[i] < encoder.leaf_offsets()[tree + 1],
          "a leaf belongs to its tree");
    }
    if (first.empty()) first = leaves;
    Require(leaves == first, "CPU targets agree");
    if (!encoder.CheckOrdinals().ok()) return;
    std::vector<std::uint8_t> ordinals(leaves.size());
    encoder.EncodeOrdinals(x.data(), kRows, encoder.num_features(), ordinals.data());
    for (std::size_t i = 0; i < leaves.size(); ++i)
      Require(encoder.leaf_offsets()[static_cast<std::int64_t>(i % num_trees)] + ordinals[i] ==
                  leaves[i],
              "an ordinal is the leaf row less its tree's first");
  });
}

}  // namespace feedfast::fuzz

#endif  // FEEDFAST_FUZZ_LEAF_ROWS_H_
