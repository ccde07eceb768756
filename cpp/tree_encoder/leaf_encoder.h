#ifndef FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_H_
#define FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_H_

#include <cstdint>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/tree_encoder/forest.h"
#include "cpp/tree_encoder/leaf_encoder_kernel.h"
#include "cpp/tree_encoder/ranked_forest.h"
#include "cpp/tree_encoder/xgboost_model.h"

namespace feedfast::tree_encoder {

// A boosted forest as an encoder of dense features: one categorical value per tree.
//   row(t, x) = leaf_offsets[t] + ordinal of the leaf of tree t that x falls into
// Rows of all trees together are 0..num_leaves() - 1, the rows of one contiguous leaf table. The
// ordinal of a leaf is the rank of its node id among the leaves of its tree, so rows are XGBoost's
// pred_leaf node ids, renumbered densely. Movable; const calls may run concurrently.
class LeafEncoder {
 public:
  // As ReadXgboostModel and ForestFromImage.
  static StatusOr<LeafEncoder> FromXgboost(Span<const std::uint8_t> model, RoundRange rounds = {});
  static StatusOr<LeafEncoder> FromImage(Span<const std::uint8_t> image);
  std::vector<std::uint8_t> ToImage() const { return ForestToImage(forest_); }

  std::int32_t num_features() const noexcept { return forest_.num_features; }
  std::int32_t num_trees() const noexcept { return forest_.num_trees(); }
  std::int32_t num_leaves() const noexcept { return forest_.num_leaves(); }
  // [num_trees + 1]; leaves of tree t are rows leaf_offsets[t]..leaf_offsets[t + 1] - 1.
  Span<const std::int32_t> leaf_offsets() const noexcept { return forest_.leaf_offsets; }
  const Forest& forest() const noexcept { return forest_; }

  // out[i, t] = row(t, x[i, :]) for i < num_rows: x is float32, row i at x + i * x_stride with
  // num_features() values; out is [num_rows, num_trees()], row-major. NaN is a missing value and
  // goes the default way of each split; +-0 are equal; infinities compare as numbers.
  // Requires x_stride >= num_features(); out does not overlap x. No rows, no effect.
  // A row's result depends on that row alone, and is the same on every CPU target.
  void Encode(const float* x, std::int64_t num_rows, std::int64_t x_stride,
              std::int32_t* out) const noexcept;

  // Leaves of a tree that a byte tells apart.
  static constexpr std::int32_t kMaxOrdinals = 256;
  // InvalidArgument, naming the first tree, when a tree has more leaves than that.
  Status CheckOrdinals() const;
  // out[i, t] = row(t, x[i, :]) - leaf_offsets()[t], else as Encode. Requires CheckOrdinals().
  void EncodeOrdinals(const float* x, std::int64_t num_rows, std::int64_t x_stride,
                      std::uint8_t* out) const noexcept;

 private:
  explicit LeafEncoder(Forest forest);
  LeafEncoderArgs Args(const float* x, std::int64_t num_rows, std::int64_t x_stride) const noexcept;
  RankedLeavesArgs RankedArgs(const float* x, std::int64_t num_rows,
                              std::int64_t x_stride) const noexcept;

  Forest forest_;
  // The kernel's form: the nodes of a tree in breadth-first order, trees one after the other.
  AlignedBuffer<EncoderNode> nodes_;
  AlignedBuffer<std::int32_t> leaf_rows_;
  AlignedBuffer<EncoderTree> trees_;
  std::int32_t most_leaves_ = 0;  // of one tree
  bool categorical_ = false;
  RankedForest ranked_;  // empty where the machine or the forest does not suit it
};

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_LEAF_ENCODER_H_
