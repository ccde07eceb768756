#include "cpp/tree_encoder/ranked_forest.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <utility>

namespace feedfast::tree_encoder {
namespace {

// Beyond these a forest of few deep and many small trees would be mostly unused places.
constexpr std::int64_t kFewPlaces = std::int64_t{1} << 16;
constexpr std::int64_t kMostPlacesPerNode = 16;
// Words; more would not stay in the second-level cache.
constexpr std::int64_t kMaxCategoryOutcomes = std::int64_t{1} << 18;

struct TreeNode {
  std::int32_t child;  // as in Split
  std::int32_t place;  // in the heap
  std::int32_t level;
};

// The nodes of a tree in depth-first order, with their places in a complete tree; places of nodes
// below kMaxRankedDepth mean nothing.
class TreeWalk {
 public:
  TreeWalk(const Forest& forest, std::size_t tree)
      : splits_(forest.splits.data() + forest.split_offsets[tree]) {
    const bool lone_leaf = forest.split_offsets[tree + 1] == forest.split_offsets[tree];
    pending_.push_back({lone_leaf ? ~0 : 0, 1, 0});
  }

  bool Next(TreeNode* node) {
    if (pending_.empty()) return false;
    *node = pending_.back();
    pending_.pop_back();
    if (node->child < 0) return true;
    const Split& split = splits_[node->child];
    const std::int32_t below = node->level < kMaxRankedDepth ? 2 * node->place : 0;
    pending_.push_back({split.left, below, node->level + 1});
    pending_.push_back({split.right, below + 1, node->level + 1});
    return true;
  }

  const Split& split(const TreeNode& node) const { return splits_[node.child]; }

 private:
  const Split* splits_;
  std::vector<TreeNode> pending_;
};

std::int32_t LargestDepth(const Forest& forest) {
  std::int32_t depth = 0;
  for (std::int32_t tree = 0; tree < forest.num_trees(); ++tree) {
    TreeWalk walk(forest, static_cast<std::size_t>(tree));
    for (TreeNode node; walk.Next(&node);) depth = std::max(depth, node.level);
  }
  return depth;
}

// What a numeric split compares, in the order of columns.
using Comparison = std::pair<std::int32_t, float>;  // feature, threshold

struct CodedComparison {
  std::int32_t column;
  std::int32_t rank;  // codes up to this go left
};

// Every numeric comparison once, in order, and where it is.
struct Columns {
  std::map<Comparison, CodedComparison> codes;
  std::vector<RankedColumn> columns;
  std::vector<std::vector<float>> thresholds;  // of each column, ascending
};

Columns FindColumns(const Forest& forest) {
  Columns found;
  for (const Split& split : forest.splits)
    if (split.set == kNoSet) found.codes.try_emplace({split.feature, split.threshold});
  for (auto& [comparison, code] : found.codes) {
    const auto& [feature, threshold] = comparison;
    if (found.columns.empty() || found.columns.back().feature != feature ||
        found.thresholds.back().size() == kMaxColumnThresholds) {
      found.columns.push_back({feature, 0, false});
      found.thresholds.emplace_back();
    }
    found.thresholds.back().push_back(threshold);
    code = {static_cast<std::int32_t>(found.columns.size()) - 1,
            static_cast<std::int32_t>(found.thresholds.back().size())};
  }
  return found;
}

// The features of categorical splits, ascending, and the size of all outcomes, which lie one
// feature after the other; `row_words` words for each category.
std::vector<RankedCategorical> FindCategoricals(const Forest& forest, std::int64_t row_words,
                                                std::int64_t* num_words) {
  std::map<std::int32_t, std::int32_t> num_categories;
  for (const Split& split : forest.splits) {
    if (split.set == kNoSet) continue;
    const auto set = static_cast<std::size_t>(split.set);
    std::int32_t& largest = num_categories[split.feature];
    largest = std::max(largest, 32 * (forest.set_offsets[set + 1] - forest.set_offsets[set]));
  }
  std::vector<RankedCategorical> found;
  *num_words = 0;
  for (const auto& [feature, count] : num_categories) {
    found.push_back({feature, count, *num_words});
    *num_words += (std::int64_t{count} + 2) * row_words;
  }
  return found;
}

// The blocks of a column, the first of them that of the last thresholds when `searched`.
struct Layout {
  bool searched;
  std::size_t num_blocks;
};

Layout LayoutOf(const std::vector<float>& thresholds) {
  const std::size_t num_blocks = (thresholds.size() + 1 + kThresholdLanes - 1) / kThresholdLanes;
  return num_blocks > 2 ? Layout{true, 1 + num_blocks} : Layout{false, 2};
}

// Fills `place` as RankedColumn::first describes.
void PutThresholds(const std::vector<float>& thresholds, Layout layout, float* place) {
  std::fill_n(place, layout.num_blocks * kThresholdLanes, std::numeric_limits<float>::quiet_NaN());
  float* const blocks = place + (layout.searched ? kThresholdLanes : 0);
  blocks[0] = -std::numeric_limits<float>::infinity();
  std::copy(thresholds.begin(), thresholds.end(), blocks + 1);
  if (!layout.searched) return;
  // Not of the last block: no value is to be looked for behind it.
  for (std::size_t block = 0; block + 2 < layout.num_blocks; ++block)
    place[block] = blocks[(block + 1) * kThresholdLanes - 1];
}

}  // namespace

RankedForest::RankedForest(const Forest& forest) {
  const std::int32_t depth = std::max(LargestDepth(forest), kMinRankedDepth);
  if (depth > kMaxRankedDepth || forest.splits.empty()) return;
  const std::int32_t num_places = 1 << depth;
  const std::int64_t padded_trees = (std::int64_t{forest.num_trees()} + kRankedTreeLanes - 1) /
                                    kRankedTreeLanes * kRankedTreeLanes;
  if (padded_trees * num_places >
      std::max(kFewPlaces, kMostPlacesPerNode * (static_cast<std::int64_t>(forest.splits.size()) +
                                                 forest.num_leaves())))
    return;
  const std::int64_t row_words = padded_trees * num_places / 64;
  std::int64_t num_outcomes = 0;
  std::vector<RankedCategorical> categoricals = FindCategoricals(forest, row_words, &num_outcomes);
  if (categoricals.size() > kMaxRankedCategoricals || num_outcomes > kMaxCategoryOutcomes) return;
  Columns found = FindColumns(forest);
  if (found.columns.size() > kMaxRankedColumns) return;

  std::size_t num_thresholds = 0;
  for (const std::vector<float>& thresholds : found.thresholds)
    num_thresholds += LayoutOf(thresholds).num_blocks * kThresholdLanes;
  thresholds_ = AlignedBuffer<float>(static_cast<std::int64_t>(num_thresholds));
  std::size_t used = 0;
  for (std::size_t column = 0; column < found.thresholds.size(); ++column) {
    const Layout layout = LayoutOf(found.thresholds[column]);
    found.columns[column].first = static_cast<std::int64_t>(used);
    found.columns[column].searched = layout.searched;
    PutThresholds(found.thresholds[column], layout, thresholds_.data() + used);
    used += layout.num_blocks * kThresholdLanes;
  }
  num_trees_ = forest.num_trees();
  depth_ = depth;

  node_columns_ = AlignedBuffer<std::uint8_t>(padded_trees * num_places);
  node_ranks_ = AlignedBuffer<std::uint8_t>(padded_trees * num_places);
  missing_right_ = AlignedBuffer<std::uint64_t>(row_words);
  category_outcomes_ = AlignedBuffer<std::uint64_t>(num_outcomes);
  leaves_ = AlignedBuffer<std::int32_t>(padded_trees * num_places);
  const bool narrow = found.columns.size() <= kNarrowColumns;
  for (std::int64_t tree = 0; tree < num_trees_; ++tree) {
    const auto t = static_cast<std::size_t>(tree);
    TreeWalk walk(forest, t);
    for (TreeNode node; walk.Next(&node);) {
      const std::int64_t at = tree * num_places + node.place;
      if (node.child < 0) {
        // All places below, at the last level, are the leaf's: whatever unused nodes say.
        const std::int64_t below = std::int64_t{1} << (depth - node.level);
        std::fill_n(leaves_.data() + tree * num_places + node.place * below - num_places, below,
                    forest.leaf_offsets[t] + ~node.child);
        continue;
      }
      const Split& split = walk.split(node);
      if (split.set != kNoSet) {
        node_ranks_[at] = std::numeric_limits<std::uint8_t>::max();
        const auto categorical = std::lower_bound(
            categoricals.begin(), categoricals.end(), split.feature,
            [](const RankedCategorical& c, std::int32_t f) { return c.feature < f; });
        std::uint64_t* const first =
            category_outcomes_.data() + categorical->first + node.place / 64 * padded_trees + tree;
        const std::uint64_t bit = std::uint64_t{1} << (node.place % 64);
        for (std::int32_t c = 0; c < categorical->num_categories; ++c)
          if (SetHas(forest.sets(), split.set, static_cast<float>(c))) first[c * row_words] |= bit;
        if (split.default_left == 0) first[(categorical->num_categories + 1) * row_words] |= bit;
        continue;
      }
      const CodedComparison code = found.codes.at({split.feature, split.threshold});
      const bool right = split.default_left == 0;
      node_columns_[at] =
          static_cast<std::uint8_t>(code.column + (narrow && right ? kNarrowColumns : 0));
      node_ranks_[at] = static_cast<std::uint8_t>(code.rank - (right ? 1 : 0));
      if (right) missing_right_[at / 64] |= std::uint64_t{1} << (at % 64);
    }
  }
  columns_ = std::move(found.columns);
  categoricals_ = std::move(categoricals);
}

RankedLeavesArgs RankedForest::args() const noexcept {
  RankedLeavesArgs args{};
  args.columns = columns_.data();
  args.num_columns = static_cast<std::int64_t>(columns_.size());
  args.thresholds = thresholds_.data();
  args.categoricals = categoricals_.data();
  args.num_categoricals = static_cast<std::int64_t>(categoricals_.size());
  args.category_outcomes = category_outcomes_.data();
  args.node_columns = node_columns_.data();
  args.node_ranks = node_ranks_.data();
  args.missing_right = missing_right_.data();
  args.leaves = leaves_.data();
  args.num_trees = num_trees_;
  args.depth = depth_;
  return args;
}

}  // namespace feedfast::tree_encoder
