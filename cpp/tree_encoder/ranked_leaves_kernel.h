#ifndef FEEDFAST_CPP_TREE_ENCODER_RANKED_LEAVES_KERNEL_H_
#define FEEDFAST_CPP_TREE_ENCODER_RANKED_LEAVES_KERNEL_H_

#include <cstdint>

namespace feedfast::tree_encoder {

// Trees are padded to this depth or the next ones up to kMaxRankedDepth: 64, 128 or 256 nodes.
inline constexpr int kMinRankedDepth = 6;
inline constexpr int kMaxRankedDepth = 8;
inline constexpr int kMaxRankedColumns = 256;
inline constexpr int kMaxRankedCategoricals = 64;
// Up to so many columns a row's codes for both ways of missing values fit one permutation.
inline constexpr int kNarrowColumns = 64;
// Thresholds of a column and the sentinel below them make at most 255 codes.
inline constexpr int kMaxColumnThresholds = 254;
// Trees are padded to a multiple of so many.
inline constexpr int kRankedTreeLanes = 8;
inline constexpr int kThresholdLanes = 16;

struct RankedColumn {
  std::int32_t feature;
  // First of this column's thresholds, a multiple of kThresholdLanes. They are -infinity and the
  // thresholds in blocks of kThresholdLanes, filled up with NaN; more than two blocks come behind
  // one block of the last threshold of each block but the last.
  std::int64_t first;
  bool searched;  // more than two blocks
};

// A feature of categorical splits.
struct RankedCategorical {
  std::int32_t feature;
  std::int32_t num_categories;  // those beyond are in no set
  // First of the outcomes of its splits, a multiple of kRankedTreeLanes:
  // [num_categories + 2, 2^depth / 64, padded trees], bits by node place, 1 goes right. The rows
  // behind those of the categories are of values in no set and of missing ones.
  std::int64_t first;
};

// A tree has 2^depth node places, numbered as in a heap: the root is 1, the children of h are 2 h
// and 2 h + 1. Place 0 and places below a leaf are unused.
struct RankedLeavesArgs {
  const RankedColumn* columns;
  std::int64_t num_columns;
  const float* thresholds;
  const RankedCategorical* categoricals;
  std::int64_t num_categoricals;
  const std::uint64_t* category_outcomes;
  const std::uint8_t* node_columns;  // [padded trees, 2^depth]; up to kNarrowColumns columns: plus
                                     // kNarrowColumns where missing values go right
  const std::uint8_t* node_ranks;    // [padded trees, 2^depth]: a greater code goes right; of
                                     // categorical splits 255, so that theirs stay 0 here
  const std::uint64_t* missing_right;  // [padded trees, 2^depth / 64]: bits by node place
  const std::int32_t* leaves;          // [padded trees, 2^depth]: leaf row by place below
  const std::int32_t* leaf_offsets;    // [num_trees]: leaf row of each tree's first leaf
  std::int64_t num_trees;
  std::int32_t depth;
  const float* x;
  std::int64_t num_rows;
  std::int64_t x_stride;
};

#if defined(FEEDFAST_X86)
// AVX-512 F, BW, DQ, VL and VBMI.
namespace avx512_vbmi {
// out [num_rows, num_trees]: leaf rows.
void EncodeRankedLeaves(const RankedLeavesArgs& args, std::int32_t* out) noexcept;
// The same less leaf_offsets; all trees have at most 256 leaves.
void EncodeRankedOrdinals(const RankedLeavesArgs& args, std::uint8_t* out) noexcept;
}  // namespace avx512_vbmi
#endif

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_RANKED_LEAVES_KERNEL_H_
