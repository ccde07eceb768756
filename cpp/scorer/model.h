#ifndef FEEDFAST_CPP_SCORER_MODEL_H_
#define FEEDFAST_CPP_SCORER_MODEL_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/table.h"
#include "cpp/gated_mlp/cross_network.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/scorer/calibrator.h"
#include "cpp/scorer/utility.h"
#include "cpp/tree_encoder/leaf_encoder.h"

namespace feedfast::scorer {

// A stack of gated layers whose output j is the logit of objective objectives[j].
struct Tower {
  const GatedMlp* mlp = nullptr;
  std::vector<std::int64_t> objectives;
};

// Coefficients [vocabulary->num_rows(), objectives] that are added to the logits of an item.
struct RandomEffects {
  const mph::Vocabulary* vocabulary = nullptr;  // nullptr: none
  Span<const float> coefficients;
};

// A trained ranker, as views of parts that somebody else owns and keeps while a scorer uses them.
struct Model {
  const mph::Vocabulary* member_vocabulary = nullptr;
  const mph::Vocabulary* hashtag_vocabulary = nullptr;
  const tree_encoder::LeafEncoder* forest = nullptr;
  embedding_kernels::Table member_table;   // a row per row of member_vocabulary
  embedding_kernels::Table hashtag_table;  // a row per row of hashtag_vocabulary
  embedding_kernels::Table leaf_table;     // a row per leaf of the forest
  std::int64_t num_shared = 0;             // float features of a request
  Span<const float> mean;                  // [shared, dense]
  Span<const float> inv_std;               // [shared, dense]
  // What the inputs go through before the towers, which then read what comes out; nullptr: nothing.
  const CrossNetwork* cross = nullptr;
  std::vector<Tower> towers;
  std::vector<Group> groups;            // [objectives]
  std::vector<Calibrator> calibrators;  // [objectives]
  RandomEffects random_effects;

  std::int64_t num_objectives() const noexcept { return static_cast<std::int64_t>(groups.size()); }
  std::int64_t num_dense() const noexcept { return mean.size() - num_shared; }
  // Columns of the towers' input that the candidates of a request share:
  //   viewer | history members, mean | history hashtags, mean | shared, normalised
  std::int64_t num_viewer_inputs() const noexcept {
    return 2 * member_table.dim + hashtag_table.dim + num_shared;
  }
  // The columns behind them:
  //   actor | root actor | hashtags, mean | leaves, sqrtn | dense, normalised
  std::int64_t num_candidate_inputs() const noexcept {
    return 2 * member_table.dim + hashtag_table.dim + leaf_table.dim + num_dense();
  }
};

// Ok when the parts fit together: rows of tables and vocabularies, features of forest and
// normaliser (finite), inputs and outputs of the towers, every objective in exactly one tower.
// InvalidArgument otherwise, naming the part.
Status ValidateModel(const Model& model);

// out[i] = clip((x[i] - mean[i]) * inv_std[i], -8, 8), NaN to 0; each step rounded to float32.
void Normalize(Span<const float> x, Span<const float> mean, Span<const float> inv_std, float* out);

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_MODEL_H_
