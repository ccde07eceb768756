#include "cpp/tree_encoder/forest.h"

#include <cmath>
#include <cstddef>

namespace feedfast::tree_encoder {
namespace {

Status ValidateOffsets(const char* name, const std::vector<std::int32_t>& offsets) {
  if (offsets.empty() || offsets.front() != 0)
    return DataLoss("forest: ", name, " offsets do not start at 0");
  for (std::size_t tree = 0; tree + 1 < offsets.size(); ++tree)
    if (offsets[tree + 1] < offsets[tree])
      return DataLoss("forest: ", name, " offsets of tree ", tree, " decrease from ", offsets[tree],
                      " to ", offsets[tree + 1]);
  return OkStatus();
}

// Remembers which nodes of one tree have a parent; Mark is false when the child does not exist or
// has a parent already.
class ChildMarker {
 public:
  ChildMarker(std::int32_t num_splits, std::int32_t num_leaves)
      : split_seen_(static_cast<std::size_t>(num_splits), false),
        leaf_seen_(static_cast<std::size_t>(num_leaves), false) {}

  bool Mark(std::int32_t child) {
    std::vector<bool>& seen = child >= 0 ? split_seen_ : leaf_seen_;
    const auto index = static_cast<std::size_t>(child >= 0 ? child : ~child);
    if (index >= seen.size() || seen[index]) return false;
    seen[index] = true;
    return true;
  }

 private:
  std::vector<bool> split_seen_;
  std::vector<bool> leaf_seen_;
};

Status ValidateSets(const Forest& forest) {
  const std::vector<std::int32_t>& offsets = forest.set_offsets;
  if (offsets.empty() || offsets.front() != 0)
    return DataLoss("forest: set offsets do not start at 0");
  for (std::size_t set = 0; set + 1 < offsets.size(); ++set)
    if (offsets[set + 1] < offsets[set] ||
        std::int64_t{offsets[set + 1]} - offsets[set] > kMaxCategories / 32)
      return DataLoss("forest: set ", set, " goes from word ", offsets[set], " to ",
                      offsets[set + 1], "; allowed: 0 to ", kMaxCategories / 32, " words");
  const std::size_t num_words = forest.set_words.size();
  if (static_cast<std::size_t>(offsets.back()) != num_words)
    return DataLoss("forest: set offsets name ", offsets.back(), " words but there are ",
                    num_words);
  for (std::size_t set = 0; set + 1 < offsets.size(); ++set)
    if (offsets[set + 1] > offsets[set] &&
        forest.set_words[static_cast<std::size_t>(offsets[set + 1]) - 1] == 0)
      return DataLoss("forest: the last word of set ", set, " is 0");
  return OkStatus();
}

Status ValidateSplit(std::int32_t tree, std::int32_t index, const Split& split,
                     const Forest& forest) {
  const auto wrong = [&](const auto&... pieces) {
    return DataLoss("forest: tree ", tree, ", split ", index, ": ", pieces...);
  };
  if (split.feature < 0 || split.feature >= forest.num_features)
    return wrong("feature ", split.feature, " is not one of ", forest.num_features);
  if (std::isnan(split.threshold)) return wrong("the threshold is NaN");
  if (split.default_left != 0 && split.default_left != 1)
    return wrong("default_left is ", split.default_left, "; allowed: 0, 1");
  if (split.set == kNoSet) return OkStatus();
  if (split.set < 0 || split.set >= forest.num_sets())
    return wrong("set ", split.set, " is not one of ", forest.num_sets());
  if (split.threshold != 0.0F || std::signbit(split.threshold))
    return wrong("it has a set and the threshold ", split.threshold);
  return OkStatus();
}

Status ValidateTree(std::int32_t tree, Span<const Split> splits, std::int32_t num_leaves,
                    const Forest& forest) {
  if (num_leaves != splits.size() + 1)
    return DataLoss("forest: tree ", tree, " has ", splits.size(), " splits but ", num_leaves,
                    " leaves");
  if (splits.empty()) return OkStatus();
  ChildMarker marker(static_cast<std::int32_t>(splits.size()), num_leaves);
  std::vector<std::int32_t> pending{0};
  marker.Mark(0);
  std::int64_t num_reached = 0;
  while (!pending.empty()) {
    const std::int32_t index = pending.back();
    pending.pop_back();
    ++num_reached;
    const Split& split = splits[index];
    FEEDFAST_RETURN_IF_ERROR(ValidateSplit(tree, index, split, forest));
    for (const std::int32_t child : {split.left, split.right}) {
      if (!marker.Mark(child))
        return DataLoss("forest: tree ", tree, ", split ", index, ": child ", child,
                        " does not exist or has another parent");
      if (child >= 0) pending.push_back(child);
    }
  }
  // n splits reached, each with two children of its own, are n - 1 splits and n + 1 leaves: when
  // all splits are reached, all leaves are.
  if (num_reached != splits.size())
    return DataLoss("forest: tree ", tree, ": only ", num_reached, " of ", splits.size(),
                    " splits are reached from the root");
  return OkStatus();
}

}  // namespace

Status ValidateForest(const Forest& forest) {
  if (forest.num_features < 1 || forest.num_features > kMaxForestFeatures)
    return DataLoss("forest: num_features is ", forest.num_features, "; allowed: 1 to ",
                    kMaxForestFeatures);
  if (forest.split_offsets.size() != forest.leaf_offsets.size())
    return DataLoss("forest: ", forest.split_offsets.size(), " split offsets but ",
                    forest.leaf_offsets.size(), " leaf offsets");
  FEEDFAST_RETURN_IF_ERROR(ValidateOffsets("split", forest.split_offsets));
  FEEDFAST_RETURN_IF_ERROR(ValidateOffsets("leaf", forest.leaf_offsets));
  if (forest.num_trees() < 1) return DataLoss("forest: it has no trees");
  if (forest.split_offsets.back() != static_cast<std::int64_t>(forest.splits.size()))
    return DataLoss("forest: offsets name ", forest.split_offsets.back(), " splits but there are ",
                    forest.splits.size());
  if (std::int64_t{forest.split_offsets.back()} + forest.leaf_offsets.back() > kMaxForestNodes)
    return DataLoss("forest: more than ", kMaxForestNodes, " nodes");
  FEEDFAST_RETURN_IF_ERROR(ValidateSets(forest));
  const Span<const Split> splits = forest.splits;
  for (std::int32_t tree = 0; tree < forest.num_trees(); ++tree) {
    const auto i = static_cast<std::size_t>(tree);
    const std::int32_t begin = forest.split_offsets[i];
    FEEDFAST_RETURN_IF_ERROR(
        ValidateTree(tree, splits.subspan(begin, forest.split_offsets[i + 1] - begin),
                     forest.leaf_offsets[i + 1] - forest.leaf_offsets[i], forest));
  }
  return OkStatus();
}

}  // namespace feedfast::tree_encoder
