#include "cpp/tree_encoder/leaf_encoder_kernel.h"

namespace feedfast::tree_encoder {
namespace FEEDFAST_TARGET {
namespace {

// Walks that advance together, so that their loads overlap. Rows of a block stay in the first-level
// cache with the nodes of one tree.
constexpr int kLanes = 8;
constexpr std::int64_t kBlockRows = 64;

template <bool kCategorical>
inline std::int32_t Next(const LeafEncoderArgs& args, const EncoderNode& node, const float* row) {
  const float value = row[node.feature >> 2];
  bool left;
  if (kCategorical && (node.feature & 2) != 0) {
    left = !SetHas(args.sets, node.set, value) & (value == value);
  } else {
    left = value < node.threshold;
  }
  const bool missing_left = (value != value) & ((node.feature & 1) != 0);
  return node.child[static_cast<int>(!(left | missing_left))];
}

inline std::int32_t LeafOf(const LeafEncoderArgs& args, std::int32_t node, std::int64_t,
                           std::int32_t*) {
  return args.leaf_rows[node];
}
inline std::uint8_t LeafOf(const LeafEncoderArgs& args, std::int32_t node, std::int64_t tree,
                           std::uint8_t*) {
  return static_cast<std::uint8_t>(args.leaf_rows[node] - args.leaf_offsets[tree]);
}

// kLanes rows through one tree.
template <bool kCategorical, typename Out>
void EncodeRowsOfTree(const LeafEncoderArgs& args, std::int64_t tree, std::int64_t first_row,
                      Out* out) {
  const EncoderNode* const nodes = args.nodes;
  const EncoderTree shape = args.trees[tree];
  const float* const x = args.x + first_row * args.x_stride;
  std::int32_t at[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) at[lane] = shape.root;
  for (std::int32_t level = 0; level < shape.depth; ++level)
    for (int lane = 0; lane < kLanes; ++lane)
      at[lane] = Next<kCategorical>(args, nodes[at[lane]], x + lane * args.x_stride);
  out += first_row * args.num_trees + tree;
  for (int lane = 0; lane < kLanes; ++lane)
    out[lane * args.num_trees] = LeafOf(args, at[lane], tree, out);
}

// One row through kLanes trees; lanes beyond the last tree repeat it.
template <bool kCategorical, typename Out>
void EncodeTreesOfRow(const LeafEncoderArgs& args, std::int64_t first_tree, std::int64_t row,
                      Out* out) {
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
    for (int lane = 0; lane < kLanes; ++lane)
      at[lane] = Next<kCategorical>(args, nodes[at[lane]], x);
  for (int lane = 0; lane < kLanes; ++lane)
    out[row * args.num_trees + tree[lane]] = LeafOf(args, at[lane], tree[lane], out);
}

template <bool kCategorical, typename Out>
void Encode(const LeafEncoderArgs& args, Out* out) {
  const std::int64_t whole_rows = args.num_rows - args.num_rows % kLanes;
  for (std::int64_t block = 0; block < whole_rows; block += kBlockRows) {
    const std::int64_t end = block + kBlockRows < whole_rows ? block + kBlockRows : whole_rows;
    for (std::int64_t tree = 0; tree < args.num_trees; ++tree)
      for (std::int64_t row = block; row < end; row += kLanes)
        EncodeRowsOfTree<kCategorical>(args, tree, row, out);
  }
  for (std::int64_t row = whole_rows; row < args.num_rows; ++row)
    for (std::int64_t tree = 0; tree < args.num_trees; tree += kLanes)
      EncodeTreesOfRow<kCategorical>(args, tree, row, out);
}

}  // namespace

void EncodeLeaves(const LeafEncoderArgs& args, std::int32_t* out) noexcept {
  args.categorical ? Encode<true>(args, out) : Encode<false>(args, out);
}

void EncodeOrdinals(const LeafEncoderArgs& args, std::uint8_t* out) noexcept {
  args.categorical ? Encode<true>(args, out) : Encode<false>(args, out);
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::tree_encoder
