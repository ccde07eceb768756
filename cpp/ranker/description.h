#ifndef FEEDFAST_CPP_RANKER_DESCRIPTION_H_
#define FEEDFAST_CPP_RANKER_DESCRIPTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cpp/common/status.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/gated_mlp/precision.h"
#include "cpp/model_store/json.h"
#include "cpp/scorer/utility.h"

// What a ranker's manifest says beside its sections, and the scorer that both make; see
// docs/formats/model_store.md. python/feedfast/ranker_description.py is the writer, and a reader
// with the same checks.
namespace feedfast::ranker {

struct LayerDescription {
  Gate gate = Gate::kNone;
  Activation activation = Activation::kLinear;
  Precision precision = Precision::kFp32;
};

struct TowerDescription {
  std::string name;
  std::vector<std::int64_t> objectives;  // of the tower's outputs
  std::vector<LayerDescription> layers;  // input first
};

struct CrossDescription {
  std::int64_t num_layers = 0;
  std::int64_t rank = 0;  // 0: full matrices
  Precision precision = Precision::kFp32;
};

struct Objective {
  std::string name;
  scorer::Group group = scorer::Group::kPassive;
};

struct RankerDescription {
  std::vector<std::string> shared_names;
  std::vector<std::string> dense_names;
  // Longest histories of the training rows.
  std::int64_t max_history_members = 0;
  std::int64_t max_history_hashtags = 0;
  // Columns of the three tables.
  std::int64_t member_dim = 0;
  std::int64_t hashtag_dim = 0;
  std::int64_t leaf_dim = 0;
  std::vector<Objective> objectives;
  scorer::Tradeoff tradeoff;  // the default one
  std::vector<TowerDescription> towers;
  std::int64_t random_effects_version = 0;  // 0: none
  std::optional<CrossDescription> cross;

  std::int64_t num_shared() const noexcept {
    return static_cast<std::int64_t>(shared_names.size());
  }
  std::int64_t num_dense() const noexcept { return static_cast<std::int64_t>(dense_names.size()); }
  std::int64_t num_objectives() const noexcept {
    return static_cast<std::int64_t>(objectives.size());
  }
  std::vector<scorer::Group> groups() const;
  // Columns of the towers' input that the candidates of a request share, and all of them; see
  // scorer::Model.
  std::int64_t num_viewer_inputs() const noexcept {
    return 2 * member_dim + hashtag_dim + num_shared();
  }
  std::int64_t num_inputs() const noexcept {
    return num_viewer_inputs() + 2 * member_dim + hashtag_dim + leaf_dim + num_dense();
  }
};

// Reads the description of a manifest. DataLoss: not a ranker, of an unknown version, or a value is
// missing, of a wrong type or range, or does not fit the others.
StatusOr<RankerDescription> ParseDescription(const model_store::Json& value);

}  // namespace feedfast::ranker

#endif  // FEEDFAST_CPP_RANKER_DESCRIPTION_H_
