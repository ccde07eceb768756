#ifndef FEEDFAST_CPP_TREE_ENCODER_FOREST_H_
#define FEEDFAST_CPP_TREE_ENCODER_FOREST_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/tree_encoder/category_sets.h"

namespace feedfast::tree_encoder {

// One binary decision. A row goes left when its feature is less than the threshold (both float32),
// right when it is not, and to the default child when the feature is NaN (missing). A categorical
// split has a set instead: the row goes right when the set has its feature (SetHas), else left.
inline constexpr std::int32_t kNoSet = -1;
struct Split {
  std::int32_t feature;
  float threshold;            // of a categorical split: +0
  std::int32_t default_left;  // 1: NaN goes left, 0: NaN goes right
  std::int32_t left;          // >= 0: split of the same tree; < 0: leaf with ordinal ~left
  std::int32_t right;         // as left
  std::int32_t set = kNoSet;  // >= 0: one of the forest's sets
};

// Trees in the form of the image: splits and leaves of a tree are numbered from 0, both in the
// order of the model's node ids, so a leaf's ordinal is its rank among the leaves of its tree. The
// root is split 0, or leaf 0 in a tree without splits.
struct Forest {
  std::int32_t num_features = 0;
  std::vector<std::int32_t> split_offsets{0};  // [num_trees + 1]
  std::vector<std::int32_t> leaf_offsets{0};   // [num_trees + 1]
  std::vector<Split> splits;                   // [split_offsets.back()]
  std::vector<std::int32_t> set_offsets{0};    // [num_sets + 1] into set_words
  std::vector<std::uint32_t> set_words;

  std::int32_t num_trees() const { return static_cast<std::int32_t>(leaf_offsets.size()) - 1; }
  std::int32_t num_leaves() const { return leaf_offsets.back(); }
  std::int32_t num_sets() const { return static_cast<std::int32_t>(set_offsets.size()) - 1; }
  CategorySets sets() const { return {set_words.data(), set_offsets.data()}; }
};

// Limits that keep node numbers, leaf rows and packed features within int32.
inline constexpr std::int64_t kMaxForestNodes = std::int64_t{1} << 30;
inline constexpr std::int32_t kMaxForestFeatures = std::int32_t{1} << 30;
inline constexpr std::int64_t kMaxSetWords = std::int64_t{1} << 24;  // of all sets together

// DataLoss unless every tree is a tree: from its root each of its splits and leaves is reached
// exactly once, features lie in [0, num_features), thresholds are not NaN, sets exist and have at
// most kMaxCategories bits, the last word not 0, and the limits above hold. Trusts nothing but the
// sizes of the vectors, and takes time linear in them.
Status ValidateForest(const Forest& forest);

// The flat image of docs/formats/forest.md: little-endian, versioned, checksummed. Equal forests
// have equal images.
std::vector<std::uint8_t> ForestToImage(const Forest& forest);

// DataLoss when the image is truncated, altered, of an unknown version or not a valid forest. Safe
// on any bytes, of any alignment; the checksum is always verified. The bytes are copied.
StatusOr<Forest> ForestFromImage(Span<const std::uint8_t> image);

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_FOREST_H_
