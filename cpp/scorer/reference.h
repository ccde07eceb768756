#ifndef FEEDFAST_CPP_SCORER_REFERENCE_H_
#define FEEDFAST_CPP_SCORER_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cpp/gated_mlp/reference.h"
#include "cpp/scorer/model.h"
#include "cpp/tree_encoder/reference.h"

// Naive double-precision oracle, for tests and benchmarks only.
namespace feedfast::scorer::reference {

using Vector = std::vector<double>;

// One candidate with all that is known of its viewer.
struct Example {
  std::string viewer;
  std::vector<std::string> history_members;
  std::vector<std::string> history_hashtags;
  std::string item;
  std::string actor;
  std::string root_actor;
  std::vector<std::string> hashtags;
  std::vector<float> features;  // shared, then dense
};

// Layers of each of the model's towers.
using TowerLayers = std::vector<std::vector<GatedLayer>>;

inline std::vector<std::int64_t> Rows(const mph::Vocabulary& vocabulary,
                                      const std::vector<std::string>& keys) {
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::int64_t> rows(keys.size());
  vocabulary.Lookup(views, rows);
  return rows;
}

// Appends the sum of the rows of a float32 table, over its divisor.
inline void AppendPooled(const embedding_kernels::Table& table,
                         const std::vector<std::int64_t>& rows, double divisor, Vector& x) {
  const auto* weights = static_cast<const float*>(table.data);
  for (std::int64_t j = 0; j < table.dim; ++j) {
    double sum = 0;
    for (const std::int64_t row : rows) sum += weights[row * table.dim + j];
    x.push_back(rows.empty() ? 0 : sum / divisor);
  }
}

inline void AppendMean(const mph::Vocabulary& vocabulary, const embedding_kernels::Table& table,
                       const std::vector<std::string>& keys, Vector& x) {
  AppendPooled(table, Rows(vocabulary, keys), static_cast<double>(keys.size()), x);
}

inline double Normalized(float value, float mean, float inv_std) {
  const double z = (static_cast<double>(value) - mean) * inv_std;
  return std::isnan(z) ? 0 : std::clamp(z, -8.0, 8.0);
}

// Probabilities of the objectives, before calibrators; `cross` are the layers of the model's cross
// network. Requires float32 tables.
inline Vector Probabilities(const Model& model, const TowerLayers& towers,
                            const std::vector<CrossLayer>& cross, const Example& e) {
  Vector x;
  const auto append_normalized = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      x.push_back(
          Normalized(e.features[static_cast<std::size_t>(i)], model.mean[i], model.inv_std[i]));
  };
  AppendMean(*model.member_vocabulary, model.member_table, {e.viewer}, x);
  AppendMean(*model.member_vocabulary, model.member_table, e.history_members, x);
  AppendMean(*model.hashtag_vocabulary, model.hashtag_table, e.history_hashtags, x);
  append_normalized(0, model.num_shared);
  AppendMean(*model.member_vocabulary, model.member_table, {e.actor}, x);
  AppendMean(*model.member_vocabulary, model.member_table, {e.root_actor}, x);
  AppendMean(*model.hashtag_vocabulary, model.hashtag_table, e.hashtags, x);
  std::vector<std::int64_t> leaves;
  leaves.reserve(static_cast<std::size_t>(model.forest->num_trees()));
  for (std::int32_t tree = 0; tree < model.forest->num_trees(); ++tree)
    leaves.push_back(tree_encoder::reference::LeafRow(
        model.forest->forest(), static_cast<std::size_t>(tree), e.features.data()));
  AppendPooled(model.leaf_table, leaves, std::sqrt(static_cast<double>(leaves.size())), x);
  append_normalized(model.num_shared, model.mean.size());
  x = feedfast::reference::Forward(cross, x);

  Vector probabilities(model.groups.size());
  for (std::size_t t = 0; t < towers.size(); ++t) {
    const Vector logits = feedfast::reference::Forward(towers[t], x);
    for (std::size_t j = 0; j < logits.size(); ++j)
      probabilities[static_cast<std::size_t>(model.towers[t].objectives[j])] = logits[j];
  }
  std::int64_t item = 0;
  if (model.random_effects.vocabulary != nullptr)
    item = Rows(*model.random_effects.vocabulary, {e.item})[0];
  for (std::size_t k = 0; k < probabilities.size(); ++k) {
    if (model.random_effects.vocabulary != nullptr)
      probabilities[k] +=
          model.random_effects
              .coefficients[item * model.num_objectives() + static_cast<std::int64_t>(k)];
    probabilities[k] = feedfast::reference::Sigmoid(probabilities[k]);
  }
  return probabilities;
}

}  // namespace feedfast::scorer::reference

#endif  // FEEDFAST_CPP_SCORER_REFERENCE_H_
