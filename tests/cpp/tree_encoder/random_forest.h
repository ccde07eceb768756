#ifndef FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_
#define FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder {

// Trees of random shape and at most `max_depth` splits on a path; one node in `leaf_one_in` is a
// leaf before that (0: all trees are complete). Thresholds are small multiples of 0.25, so that
// values of the same grid meet them exactly.
inline Forest RandomForest(std::mt19937& rng, std::int32_t num_trees, std::int32_t num_features,
                           int max_depth, unsigned leaf_one_in = 8) {
  Forest forest;
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
                               0.25F * static_cast<float>(static_cast<int>(rng() % 9) - 4),
                               static_cast<std::int32_t>(rng() % 2), 0, 0});
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
                                     std::int32_t num_features) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> rows(static_cast<std::size_t>(num_rows * num_features));
  for (float& value : rows) {
    value = 0.25F * static_cast<float>(static_cast<int>(rng() % 9) - 4);
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
      default:
        break;
    }
  }
  return rows;
}

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_TESTS_CPP_TREE_ENCODER_RANDOM_FOREST_H_
