#include "cpp/tree_encoder/leaf_encoder_kernel.h"

namespace feedfast::tree_encoder {
namespace FEEDFAST_TARGET {
namespace {

// Walks that advance together, so that their loads overlap. Rows of a block stay in the first-level
// cache with the nodes of one tree.
constexpr int kLanes = 8;
constexpr std::int64_t kBlockRows = 64;

inline std::int32_t Next(const EncoderNode& node, const float* row) {
  const float value = row[node.feature >> 1];
  const bool less = value < node.threshold;
  const bool missing_left = (value != value) & ((node.feature & 1) != 0);
  return node.child[static_cast<int>(!(less | missing_left))];
}

// kLanes rows through one tree.
void EncodeRowsOfTree(const LeafEncoderArgs& args, std::int64_t tree, std::int64_t first_row) {
  const EncoderNode* const nodes = args.nodes;
  const EncoderTree shape = args.trees[tree];
  const float* const x = args.x + first_row * args.x_stride;
  std::int32_t at[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) at[lane] = shape.root;
  for (std::int32_t level = 0; level < shape.depth; ++level)
    for (int lane = 0; lane < kLanes; ++lane)
      at[lane] = Next(nodes[at[lane]], x + lane * args.x_stride);
  std::int32_t* const out = args.out + first_row * args.num_trees + tree;
  for (int lane = 0; lane < kLanes; ++lane) out[lane * args.num_trees] = args.leaf_rows[at[lane]];
}

// One row through kLanes trees; lanes beyond the last tree repeat it.
void EncodeTreesOfRow(const LeafEncoderArgs& args, std::int64_t first_tree, std::int64_t row) {
  const EncoderNode* const nodes = args.nodes;
  const float* const x = args.x + row * args.x_stride;
  std::int64_t tree[kLanes];
  std::int32_t at[kLanes];
  std::int32_t depth = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    tree[lane] = first_tree + lane < args.num_trees ? first_tree + lane : args.num_trees - 1;
    const EncoderTree& shape = args.trees[tree[lane]];
    at[lane] = shape.root;
    depth = shape.depth > depth ? shape.depth : depth;
  }
  for (std::int32_t level = 0; level < depth; ++level)
    for (int lane = 0; lane < kLanes; ++lane) at[lane] = Next(nodes[at[lane]], x);
  for (int lane = 0; lane < kLanes; ++lane)
    args.out[row * args.num_trees + tree[lane]] = args.leaf_rows[at[lane]];
}

}  // namespace

void EncodeLeaves(const LeafEncoderArgs& args) noexcept {
  const std::int64_t whole_rows = args.num_rows - args.num_rows % kLanes;
  for (std::int64_t block = 0; block < whole_rows; block += kBlockRows) {
    const std::int64_t end = block + kBlockRows < whole_rows ? block + kBlockRows : whole_rows;
    for (std::int64_t tree = 0; tree < args.num_trees; ++tree)
      for (std::int64_t row = block; row < end; row += kLanes) EncodeRowsOfTree(args, tree, row);
  }
  for (std::int64_t row = whole_rows; row < args.num_rows; ++row)
    for (std::int64_t tree = 0; tree < args.num_trees; tree += kLanes)
      EncodeTreesOfRow(args, tree, row);
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::tree_encoder
