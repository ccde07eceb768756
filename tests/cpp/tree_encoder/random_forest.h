#ifndef FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_
#define FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder {

inline float GridValue(std::mt19937& rng, unsigned grid) {
  return 0.25F * static_cast<float>(static_cast<int>(rng() % grid) - static_cast<int>(grid / 2));
}

// Trees of random shape and at most `max_depth` splits on a path; one node in `leaf_one_in` is a
// leaf before that (0: all trees are complete), one split in `categorical_one_in` has a set (0:
// none). Thresholds are `grid` multiples of 0.25 around 0, so that values of the same grid meet
// them exactly.
inline Forest RandomForest(std::mt19937& rng, std::int32_t num_trees, std::int32_t num_features,
                           int max_depth, unsigned leaf_one_in = 8, unsigned grid = 9,
                           unsigned categorical_one_in = 0) {
  Forest forest;
  const auto make_set = [&] {
    for (auto words = rng() % 4; words > 0; --words)
      forest.set_words.push_back(static_cast<std::uint32_t>(rng()) | 1U);
    forest.set_offsets.push_back(static_cast<std::int32_t>(forest.set_words.size()));
    return forest.num_sets() - 1;
  };
  forest.num_features = num_features;
  for (std::int32_t tree = 0; tree < num_trees; ++tree) {
    const auto first = forest.splits.size();
    std::int32_t num_leaves = 0;
    // Depth first; the last slot is filled with the node that is made next.
    struct Slot {
      std::size_t split;
      bool left;
      int depth;
    };
    std::vector<Slot> slots;
    const auto make_node = [&](int depth) -> std::int32_t {
      const bool leaf = depth == max_depth || (leaf_one_in > 0 && rng() % leaf_one_in == 0);
      if (leaf) return ~num_leaves++;
      const std::size_t split = forest.splits.size();
      forest.splits.push_back({static_cast<std::int32_t>(rng() % num_features),
                               GridValue(rng, grid), static_cast<std::int32_t>(rng() % 2), 0, 0});
      if (categorical_one_in > 0 && rng() % categorical_one_in == 0) {
        forest.splits.back().threshold = 0.0F;
        forest.splits.back().set = make_set();
      }
      slots.push_back({split, false, depth + 1});
      slots.push_back({split, true, depth + 1});
      return static_cast<std::int32_t>(split - first);
    };
    make_node(0);
    while (!slots.empty()) {
      const Slot slot = slots.back();
      slots.pop_back();
      const std::int32_t child = make_node(slot.depth);
      Split& parent = forest.splits[slot.split];
      (slot.left ? parent.left : parent.right) = child;
    }
    forest.split_offsets.push_back(static_cast<std::int32_t>(forest.splits.size()));
    forest.leaf_offsets.push_back(forest.leaf_offsets.back() + num_leaves);
  }
  return forest;
}

// [num_rows, num_features] from the grid of the thresholds, with missing values, infinities, signed
// zeros and neighbours of the grid.
inline std::vector<float> RandomRows(std::mt19937& rng, std::int64_t num_rows,
                                     std::int32_t num_features, unsigned grid = 9) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> rows(static_cast<std::size_t>(num_rows * num_features));
  for (float& value : rows) {
    value = GridValue(rng, grid);
    switch (rng() % 16) {
      case 0:
      case 1:
        value = std::numeric_limits<float>::quiet_NaN();
        break;
      case 2:
        value = rng() % 2 == 0 ? kInfinity : -kInfinity;
        break;
      case 3:
        value = rng() % 2 == 0 ? -0.0F : 0.0F;
        break;
      case 4:
        value = std::nextafter(value, rng() % 2 == 0 ? kInfinity : -kInfinity);
        break;
      case 5:
        value = static_cast<float>(rng() % 100);
        break;
      case 6:
        value = rng() % 2 == 0 ? 16777216.0F : 1e30F;
        break;
      default:
        break;
    }
  }
  return rows;
}

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_
