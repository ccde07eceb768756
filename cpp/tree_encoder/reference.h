#ifndef FEEDFAST_CPP_TREE_ENCODER_REFERENCE_H_
#define FEEDFAST_CPP_TREE_ENCODER_REFERENCE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder::reference {

// The leaf row of one tree for one row of features, straight from the definition.
inline std::int32_t LeafRow(const Forest& forest, std::size_t tree, const float* row) {
  const Split* splits = forest.splits.data() + forest.split_offsets[tree];
  std::int32_t at = forest.split_offsets[tree + 1] == forest.split_offsets[tree] ? ~0 : 0;
  while (at >= 0) {
    const Split& split = splits[at];
    const float value = row[split.feature];
    const bool left = std::isnan(value)     ? split.default_left == 1
                      : split.set != kNoSet ? !SetHas(forest.sets(), split.set, value)
                                            : value < split.threshold;
    at = left ? split.left : split.right;
  }
  return forest.leaf_offsets[tree] + ~at;
}

}  // namespace feedfast::tree_encoder::reference

#endif  // FEEDFAST_CPP_TREE_ENCODER_REFERENCE_H_
