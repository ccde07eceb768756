#include "cpp/tree_encoder/xgboost_model.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace feedfast::tree_encoder {
namespace {

using Json = nlohmann::json;

// Beyond any model; the UBJSON parser recurses once per level.
constexpr std::size_t kMaxDepth = 32;

// The arrays of one tree as the model has them, by node id.
struct RawTree {
  std::vector<std::int64_t> left_children;
  std::vector<std::int64_t> right_children;
  std::vector<std::int64_t> split_indices;
  std::vector<std::int64_t> default_left;
  std::vector<std::int64_t> split_type;
  // Categorical splits: those of node categories_nodes[i] are `categories` from
  // categories_segments[i] on, categories_sizes[i] of them.
  std::vector<std::int64_t> categories;
  std::vector<std::int64_t> categories_nodes;
  std::vector<std::int64_t> categories_segments;
  std::vector<std::int64_t> categories_sizes;
  std::vector<float> split_conditions;
  std::int64_t num_nodes = -1;
  std::int64_t num_deleted = 0;
};

struct RawModel {
  std::string booster;
  std::int64_t num_features = -1;
  std::int64_t num_trees = -1;
  std::int64_t num_parallel_tree = 0;
  std::int64_t num_class = 0;
  std::int64_t num_target = 0;
  std::vector<std::int64_t> iteration_indptr;  // [rounds + 1] into trees; before 2.0: empty
  std::vector<RawTree> trees;
};

constexpr std::string_view kIterations = "/learner/gradient_booster/model/iteration_indptr";
constexpr std::string_view kTree = "/learner/gradient_booster/model/trees/*";

// Collects the few fields that are needed while nlohmann's parser runs over the bytes, so that no
// document is ever in memory. The path of the current container names every value; dart's inner
// booster ("gbtree") is left out of it. Returning false ends the parse; error() then says why.
class ModelCollector : public nlohmann::json_sax<Json> {
 public:
  explicit ModelCollector(std::int64_t num_bytes) : values_left_(num_bytes) {}

  RawModel& model() { return model_; }
  const std::string& error() const { return error_; }

  bool null() override { return Fail("null"); }
  bool boolean(bool value) override { return Integer(value ? 1 : 0); }
  bool number_integer(number_integer_t value) override { return Integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
      return Fail(std::to_string(value));
    return Integer(static_cast<std::int64_t>(value));
  }
  // The text is given for JSON alone; a double cannot stand between it and the float32.
  bool number_float(number_float_t value, const string_t& text) override {
    return Float(text.empty() ? static_cast<float>(value) : std::strtof(text.c_str(), nullptr));
  }
  bool string(string_t& value) override { return CountValue() && String(value); }
  bool binary(binary_t&) override { return Fail("a binary value"); }

  bool start_object(std::size_t) override {
    if (!Enter()) return false;
    if (path_ == kTree) model_.trees.emplace_back();
    return true;
  }
  bool key(string_t& name) override {
    key_ = name;
    return true;
  }
  bool end_object() override { return Leave(); }

  bool start_array(std::size_t) override {
    if (!Enter()) return false;
    in_array_.back() = true;
    integers_ = nullptr;
    floats_ = nullptr;
    if (path_ == kIterations) integers_ = &model_.iteration_indptr;
    if (model_.trees.empty() || path_.size() <= kTree.size() || path_[kTree.size()] != '/' ||
        path_.compare(0, kTree.size(), kTree) != 0)
      return true;
    RawTree& tree = model_.trees.back();
    const std::string_view field = std::string_view(path_).substr(kTree.size() + 1);
    if (field == "left_children") integers_ = &tree.left_children;
    if (field == "right_children") integers_ = &tree.right_children;
    if (field == "split_indices") integers_ = &tree.split_indices;
    if (field == "default_left") integers_ = &tree.default_left;
    if (field == "split_type") integers_ = &tree.split_type;
    if (field == "categories") integers_ = &tree.categories;
    if (field == "categories_nodes") integers_ = &tree.categories_nodes;
    if (field == "categories_segments") integers_ = &tree.categories_segments;
    if (field == "categories_sizes") integers_ = &tree.categories_sizes;
    if (field == "split_conditions") floats_ = &tree.split_conditions;
    return true;
  }
  bool end_array() override {
    integers_ = nullptr;
    floats_ = nullptr;
    return Leave();
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = "it is not valid at byte " + std::to_string(position);
    return false;
  }

 private:
  bool Fail(const std::string& found) {
    const bool in_object = !in_array_.empty() && !in_array_.back();
    error_ = "unexpected " + found + " at " + path_ + (in_object ? "/" + key_ : "");
    return false;
  }

  // UBJSON has arrays of constants that take no bytes per element; a model has none.
  bool CountValue() {
    if (--values_left_ >= 0) return true;
    error_ = "more values than bytes";
    return false;
  }

  bool Enter() {
    if (!CountValue()) return false;
    if (in_array_.size() >= kMaxDepth) {
      error_ = "more than " + std::to_string(kMaxDepth) + " levels";
      return false;
    }
    path_sizes_.push_back(path_.size());
    if (!in_array_.empty()) {
      const bool inner_booster =
          !in_array_.back() && key_ == "gbtree" && path_ == "/learner/gradient_booster";
      if (!inner_booster) path_ += "/" + (in_array_.back() ? std::string("*") : key_);
    }
    in_array_.push_back(false);
    return true;
  }

  bool Leave() {
    path_.resize(path_sizes_.back());
    path_sizes_.pop_back();
    in_array_.pop_back();
    return true;
  }

  bool Integer(std::int64_t value) {
    if (!CountValue()) return false;
    if (integers_ != nullptr) integers_->push_back(value);
    if (floats_ != nullptr) floats_->push_back(static_cast<float>(value));
    return true;
  }

  bool Float(float value) {
    if (!CountValue()) return false;
    if (integers_ != nullptr) return Fail("fraction");
    if (floats_ != nullptr) floats_->push_back(value);
    return true;
  }

  bool String(const std::string& value) {
    if (integers_ != nullptr || floats_ != nullptr) return Fail("string");
    if (path_ == "/learner/gradient_booster" && key_ == "name") {
      // dart's inner booster has a name too, and dart is as good as gbtree here.
      model_.booster = value;
      return true;
    }
    if (path_ == "/learner/learner_model_param") {
      if (key_ == "num_feature") return Count(value, &model_.num_features);
      if (key_ == "num_class") return Count(value, &model_.num_class);
      if (key_ == "num_target") return Count(value, &model_.num_target);
    }
    if (path_ == "/learner/gradient_booster/model/gbtree_model_param") {
      if (key_ == "num_trees") return Count(value, &model_.num_trees);
      if (key_ == "num_parallel_tree") return Count(value, &model_.num_parallel_tree);
    }
    if (!model_.trees.empty() && path_ == std::string(kTree) + "/tree_param") {
      if (key_ == "num_nodes") return Count(value, &model_.trees.back().num_nodes);
      if (key_ == "num_deleted") return Count(value, &model_.trees.back().num_deleted);
    }
    return true;
  }

  bool Count(const std::string& text, std::int64_t* count) {
    char* end = nullptr;
    errno = 0;
    const long long value = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || errno != 0 || value < 0 ||
        value > std::numeric_limits<std::int32_t>::max())
      return Fail("'" + text + "'");
    *count = value;
    return true;
  }

  RawModel model_;
  std::string error_;
  std::string path_;
  std::string key_;
  std::vector<std::size_t> path_sizes_;
  std::vector<bool> in_array_;
  std::vector<std::int64_t>* integers_ = nullptr;
  std::vector<float>* floats_ = nullptr;
  std::int64_t values_left_;
};

// UBJSON and JSON both begin with '{'; a quote, a closing brace or white space follows in JSON
// alone.
bool IsJson(Span<const std::uint8_t> model) {
  if (model[0] != '{') return true;
  constexpr std::string_view kAfterBrace = "\" \t\r\n}";
  return model.size() < 2 ||
         kAfterBrace.find(static_cast<char>(model[1])) != std::string_view::npos;
}

Status ValidateLengths(std::int64_t tree_index, const RawTree& tree) {
  const auto require = [&](const char* name, std::size_t length) -> Status {
    if (static_cast<std::int64_t>(length) == tree.num_nodes) return OkStatus();
    return DataLoss("XGBoost model: tree ", tree_index, ": ", name, " has ", length,
                    " elements for ", tree.num_nodes, " nodes");
  };
  if (tree.num_nodes < 1) return DataLoss("XGBoost model: tree ", tree_index, " has no nodes");
  FEEDFAST_RETURN_IF_ERROR(require("left_children", tree.left_children.size()));
  FEEDFAST_RETURN_IF_ERROR(require("right_children", tree.right_children.size()));
  FEEDFAST_RETURN_IF_ERROR(require("split_indices", tree.split_indices.size()));
  FEEDFAST_RETURN_IF_ERROR(require("default_left", tree.default_left.size()));
  FEEDFAST_RETURN_IF_ERROR(require("split_conditions", tree.split_conditions.size()));
  if (!tree.split_type.empty())
    FEEDFAST_RETURN_IF_ERROR(require("split_type", tree.split_type.size()));
  return OkStatus();
}

// A leaf has no left child; the right one of a leaf with a vector of weights is the vector's index.
bool IsLeaf(const RawTree& tree, std::size_t node) { return tree.left_children[node] == -1; }

bool IsCategorical(const RawTree& tree, std::size_t node) {
  return !tree.split_type.empty() && tree.split_type[node] == 1;
}

Status ValidateSplit(std::int64_t tree_index, const RawTree& tree, std::size_t node,
                     std::int64_t num_features) {
  if (!tree.split_type.empty() && tree.split_type[node] != 0 && tree.split_type[node] != 1)
    return InvalidArgument("XGBoost model: tree ", tree_index, ", node ", node, ": split_type is ",
                           tree.split_type[node],
                           "; known: 0 (by a threshold), 1 (by a set of categories)");
  if (tree.split_indices[node] < 0 || tree.split_indices[node] >= num_features)
    return DataLoss("XGBoost model: tree ", tree_index, ", node ", node, ": feature ",
                    tree.split_indices[node], " is not one of ", num_features);
  if (tree.default_left[node] != 0 && tree.default_left[node] != 1)
    return DataLoss("XGBoost model: tree ", tree_index, ", node ", node, ": default_left is ",
                    tree.default_left[node]);
  if (!IsCategorical(tree, node) && std::isnan(tree.split_conditions[node]))
    return DataLoss("XGBoost model: tree ", tree_index, ", node ", node, ": the threshold is NaN");
  return OkStatus();
}

// The sets of a forest, equal ones once.
class SetCollector {
 public:
  explicit SetCollector(Forest* forest) : forest_(forest) {}

  // Adds the sets of one tree's categorical splits; [nodes] the set of each, kNoSet for the others.
  Status AddTree(std::int64_t tree_index, const RawTree& tree, std::vector<std::int32_t>* sets) {
    const auto wrong = [&](const auto&... pieces) {
      return DataLoss("XGBoost model: tree ", tree_index, ": ", pieces...);
    };
    sets->assign(static_cast<std::size_t>(tree.num_nodes), kNoSet);
    const std::size_t num_splits = tree.categories_nodes.size();
    if (tree.categories_segments.size() != num_splits || tree.categories_sizes.size() != num_splits)
      return wrong(num_splits, " categories_nodes, ", tree.categories_segments.size(),
                   " categories_segments and ", tree.categories_sizes.size(), " categories_sizes");
    const auto num_categories = static_cast<std::int64_t>(tree.categories.size());
    std::int64_t num_read = 0;
    for (std::size_t i = 0; i < num_splits; ++i) {
      const std::int64_t node = tree.categories_nodes[i];
      if (node < 0 || node >= tree.num_nodes || (*sets)[static_cast<std::size_t>(node)] != kNoSet)
        return wrong("categories_nodes[", i, "] = ", node, " is repeated or not a node");
      const std::int64_t first = tree.categories_segments[i];
      const std::int64_t size = tree.categories_sizes[i];
      if (first < 0 || size < 0 || first > num_categories || size > num_categories - first)
        return wrong("categories ", first, " to ", first, " + ", size, " of node ", node,
                     " are not among ", num_categories);
      // Segments follow one another; overlapping ones would make reading quadratic.
      num_read += size;
      if (num_read > num_categories)
        return wrong("categories_sizes exceed ", num_categories, " categories");
      std::vector<std::int64_t> categories(tree.categories.begin() + first,
                                           tree.categories.begin() + first + size);
      std::sort(categories.begin(), categories.end());
      if (size > 0 && (categories.front() < 0 || categories.back() >= kMaxCategories))
        return wrong("category ", categories.front() < 0 ? categories.front() : categories.back(),
                     " of node ", node, " is not in 0 to ", kMaxCategories - 1);
      const auto [known, added] = known_.try_emplace(std::move(categories), forest_->num_sets());
      if (added && !Append(known->first))
        return InvalidArgument("XGBoost model: tree ", tree_index,
                               ": the sets of categories take more than ", kMaxSetWords * 4,
                               " bytes as bits; number the categories without gaps");
      (*sets)[static_cast<std::size_t>(node)] = known->second;
    }
    for (std::size_t node = 0; node < sets->size(); ++node)
      if (!IsLeaf(tree, node) && IsCategorical(tree, node) != ((*sets)[node] != kNoSet))
        return wrong("node ", node, " has ",
                     (*sets)[node] == kNoSet ? "no categories" : "categories", " but split_type ",
                     IsCategorical(tree, node) ? 1 : 0);
    return OkStatus();
  }

 private:
  // Adds the set of ascending `categories`; false when it has no room.
  bool Append(const std::vector<std::int64_t>& categories) {
    std::vector<std::uint32_t>& words = forest_->set_words;
    const std::size_t begin = words.size();
    const std::size_t size =
        categories.empty() ? 0 : static_cast<std::size_t>(categories.back() / 32 + 1);
    if (static_cast<std::int64_t>(begin + size) > kMaxSetWords) return false;
    words.resize(begin + size);
    for (const std::int64_t category : categories)
      words[begin + static_cast<std::size_t>(category / 32)] |= 1U << (category % 32);
    forest_->set_offsets.push_back(static_cast<std::int32_t>(words.size()));
    return true;
  }

  Forest* forest_;
  std::map<std::vector<std::int64_t>, std::int32_t> known_;  // sets by their categories, ascending
};

// Appends the nodes reached from the root to `forest`, numbered in the order of their ids.
Status AppendTree(std::int64_t tree_index, const RawTree& tree, SetCollector* collector,
                  Forest* forest) {
  FEEDFAST_RETURN_IF_ERROR(ValidateLengths(tree_index, tree));
  std::vector<std::int32_t> sets;
  FEEDFAST_RETURN_IF_ERROR(collector->AddTree(tree_index, tree, &sets));
  const auto num_nodes = static_cast<std::size_t>(tree.num_nodes);
  constexpr std::int32_t kUnreached = std::numeric_limits<std::int32_t>::min();
  std::vector<std::int32_t> number(num_nodes, kUnreached);
  std::vector<std::size_t> pending{0};
  number[0] = 0;
  std::int64_t num_reached = 0;
  while (!pending.empty()) {
    const std::size_t node = pending.back();
    pending.pop_back();
    ++num_reached;
    if (IsLeaf(tree, node)) continue;
    FEEDFAST_RETURN_IF_ERROR(ValidateSplit(tree_index, tree, node, forest->num_features));
    for (const std::int64_t child : {tree.left_children[node], tree.right_children[node]}) {
      if (child < 0 || child >= tree.num_nodes)
        return DataLoss("XGBoost model: tree ", tree_index, ", node ", node, ": child ", child,
                        " is not one of ", num_nodes, " nodes");
      const auto index = static_cast<std::size_t>(child);
      if (number[index] != kUnreached)
        return DataLoss("XGBoost model: tree ", tree_index, ": node ", child,
                        " is reached on two ways");
      number[index] = 0;
      pending.push_back(index);
    }
  }
  if (num_reached != tree.num_nodes - tree.num_deleted)
    return DataLoss("XGBoost model: tree ", tree_index, ": ", num_reached, " of ", num_nodes,
                    " nodes are reached from the root, with ", tree.num_deleted, " deleted");

  std::int32_t num_splits = 0;
  std::int32_t num_leaves = 0;
  for (std::size_t node = 0; node < num_nodes; ++node)
    if (number[node] != kUnreached)
      number[node] = IsLeaf(tree, node) ? ~num_leaves++ : num_splits++;
  for (std::size_t node = 0; node < num_nodes; ++node) {
    if (number[node] == kUnreached || number[node] < 0) continue;
    forest->splits.push_back({static_cast<std::int32_t>(tree.split_indices[node]),
                              sets[node] == kNoSet ? tree.split_conditions[node] : 0.0F,
                              static_cast<std::int32_t>(tree.default_left[node]),
                              number[static_cast<std::size_t>(tree.left_children[node])],
                              number[static_cast<std::size_t>(tree.right_children[node])],
                              sets[node]});
  }
  forest->split_offsets.push_back(forest->split_offsets.back() + num_splits);
  forest->leaf_offsets.push_back(forest->leaf_offsets.back() + num_leaves);
  return OkStatus();
}

// The trees of `rounds`: [first, second).
StatusOr<std::pair<std::int64_t, std::int64_t>> TreesOfRounds(const RawModel& raw,
                                                              RoundRange rounds) {
  const auto num_trees = static_cast<std::int64_t>(raw.trees.size());
  if (rounds.begin == 0 && rounds.end == 0) return std::pair(std::int64_t{0}, num_trees);
  std::vector<std::int64_t> first_tree = raw.iteration_indptr;
  if (first_tree.empty()) {
    const std::int64_t per_round = std::max<std::int64_t>(raw.num_parallel_tree, 1) *
                                   std::max<std::int64_t>({raw.num_class, raw.num_target, 1});
    for (std::int64_t tree = 0; tree <= num_trees; tree += per_round) first_tree.push_back(tree);
  }
  if (first_tree.front() != 0 || first_tree.back() != num_trees ||
      !std::is_sorted(first_tree.begin(), first_tree.end()))
    return DataLoss("XGBoost model: its rounds do not divide ", num_trees, " trees");
  const auto num_rounds = static_cast<std::int64_t>(first_tree.size()) - 1;
  const std::int64_t end = rounds.end == 0 ? num_rounds : rounds.end;
  if (rounds.begin < 0 || rounds.begin >= end || end > num_rounds)
    return InvalidArgument("XGBoost model: rounds ", rounds.begin, " to ", end,
                           " are not among its ", num_rounds, " rounds");
  return std::pair(first_tree[static_cast<std::size_t>(rounds.begin)],
                   first_tree[static_cast<std::size_t>(end)]);
}

}  // namespace

StatusOr<Forest> ReadXgboostModel(Span<const std::uint8_t> model, RoundRange rounds) {
  constexpr std::string_view kBinaryMagic = "binf";
  if (model.empty()) return DataLoss("XGBoost model: it is empty");
  if (model.size() >= 4 && std::memcmp(model.data(), kBinaryMagic.data(), kBinaryMagic.size()) == 0)
    return InvalidArgument(
        "XGBoost model: the old binary format is not readable; save it as .json or .ubj");
  const bool json = IsJson(model);
  const char* const format = json ? "JSON" : "UBJSON";
  ModelCollector collector(model.size());
  if (!Json::sax_parse(model.begin(), model.end(), &collector,
                       json ? Json::input_format_t::json : Json::input_format_t::ubjson))
    return DataLoss("XGBoost model (", format, "): ", collector.error());
  RawModel& raw = collector.model();
  if (raw.booster.empty())
    return DataLoss("XGBoost model (", format, "): it has no /learner/gradient_booster/name");
  if (raw.booster == "gblinear")
    return InvalidArgument("XGBoost model: booster gblinear has no trees; use gbtree or dart");
  if (raw.num_features < 1 || raw.num_features > kMaxForestFeatures)
    return DataLoss("XGBoost model: num_feature is ", raw.num_features, "; allowed: 1 to ",
                    kMaxForestFeatures);
  const auto num_trees = static_cast<std::int64_t>(raw.trees.size());
  if (raw.num_trees != num_trees)
    return DataLoss("XGBoost model: ", num_trees, " trees but num_trees is ", raw.num_trees);
  if (num_trees == 0) return InvalidArgument("XGBoost model: it has no trees");
  const StatusOr<std::pair<std::int64_t, std::int64_t>> range = TreesOfRounds(raw, rounds);
  if (!range.ok()) return range.status();
  const auto [first_tree, end_tree] = range.value();
  if (first_tree == end_tree) return InvalidArgument("XGBoost model: these rounds have no trees");
  std::int64_t num_nodes = 0;
  for (const RawTree& tree : raw.trees)
    num_nodes += static_cast<std::int64_t>(tree.left_children.size());
  if (num_nodes > kMaxForestNodes)
    return InvalidArgument("XGBoost model: ", num_nodes, " nodes; at most ", kMaxForestNodes);
  Forest forest;
  forest.num_features = static_cast<std::int32_t>(raw.num_features);
  SetCollector sets(&forest);
  for (std::int64_t i = first_tree; i < end_tree; ++i) {
    RawTree& tree = raw.trees[static_cast<std::size_t>(i)];
    FEEDFAST_RETURN_IF_ERROR(AppendTree(i, tree, &sets, &forest));
    tree = RawTree();
  }
  return forest;
}

}  // namespace feedfast::tree_encoder
