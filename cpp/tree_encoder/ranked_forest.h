#ifndef FEEDFAST_CPP_TREE_ENCODER_RANKED_FOREST_H_
#define FEEDFAST_CPP_TREE_ENCODER_RANKED_FOREST_H_

#include <cstdint>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/tree_encoder/forest.h"
#include "cpp/tree_encoder/ranked_leaves_kernel.h"

namespace feedfast::tree_encoder {

// The forest for machines that permute and compare 64 bytes in one instruction. A value becomes one
// byte per column, its rank among the thresholds of a feature; a tree becomes complete, with a byte
// for the column and one for the rank of every node, so that all nodes of a level are compared at
// once and the leaf is found by walking the bits that result. The idea of ranks in place of values
// is that of QuickScorer (Lucchese et al., SIGIR 2015); the complete tree in place of its masks
// keeps a node at one bit.
//
// Ranks are exact: with t_0 < t_1 < .. the thresholds of a column and
//   code(v) = 0 when v is missing, else 1 + |{j : t_j <= v}|
// v < t_j is code(v) <= j + 1, missing values included when they go left; where they go right it is
// code(v) - 1 <= j in bytes, because 0 becomes 255.
//
// Of categorical splits the outcomes lie ready, per feature and category, in the same bits.
class RankedForest {
 public:
  RankedForest() = default;
  // Empty when the forest does not fit: a tree is deeper than kMaxRankedDepth, there are more than
  // kMaxRankedColumns columns or kMaxRankedCategoricals categorical features, these have too many
  // categories, or most places of complete trees were unused. Requires a valid forest.
  explicit RankedForest(const Forest& forest);

  bool empty() const noexcept { return depth_ == 0; }
  // All but x and out.
  RankedLeavesArgs args() const noexcept;

 private:
  std::vector<RankedColumn> columns_;
  std::vector<RankedCategorical> categoricals_;
  std::int64_t num_trees_ = 0;
  std::int32_t depth_ = 0;
  AlignedBuffer<float> thresholds_;
  AlignedBuffer<std::uint8_t> node_columns_;
  AlignedBuffer<std::uint8_t> node_ranks_;
  AlignedBuffer<std::uint64_t> missing_right_;
  AlignedBuffer<std::uint64_t> category_outcomes_;
  AlignedBuffer<std::int32_t> leaves_;
};

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_RANKED_FOREST_H_
