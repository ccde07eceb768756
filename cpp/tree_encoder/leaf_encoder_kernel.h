#ifndef FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_KERNEL_H_
#define FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_KERNEL_H_

#include <cstdint>

#include "cpp/common/cpu_target.h"
#include "cpp/tree_encoder/category_sets.h"

namespace feedfast::tree_encoder {

// A split or a leaf. A leaf is its own child, so that trees of unequal depth are walked in
// lockstep.
struct EncoderNode {
  union {
    float threshold;   // of a leaf: any number
    std::int32_t set;  // of a categorical split
  };
  std::uint32_t feature;  // the feature times 4, plus 2 of a categorical split, plus 1 when NaN
                          // goes left; of a leaf: 0
  std::int32_t child[2];  // [0] left, [1] right: indexes into all nodes
};

struct EncoderTree {
  std::int32_t root;   // index into all nodes
  std::int32_t depth;  // splits on the longest path
};

struct LeafEncoderArgs {
  const EncoderNode* nodes;
  const std::int32_t* leaf_rows;  // [nodes]: row of each leaf; of a split: unused
  const EncoderTree* trees;
  const std::int32_t* leaf_offsets;  // [num_trees]: leaf row of each tree's first leaf
  std::int64_t num_trees;
  CategorySets sets;
  bool categorical;  // there are categorical splits
  const float* x;
  std::int64_t num_rows;
  std::int64_t x_stride;
};

// out [num_rows, num_trees]: leaf rows.
FEEDFAST_DECLARE_KERNEL(void, EncodeLeaves, (const LeafEncoderArgs& args, std::int32_t* out));
// The same less leaf_offsets; all trees have at most 256 leaves.
FEEDFAST_DECLARE_KERNEL(void, EncodeOrdinals, (const LeafEncoderArgs& args, std::uint8_t* out));

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_KERNEL_H_
