#ifndef FEEDFAST_CPP_RANKER_STORED_RANKER_H_
#define FEEDFAST_CPP_RANKER_STORED_RANKER_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpp/common/status.h"
#include "cpp/gated_mlp/cross_network.h"
#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/model_store/opened_model.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/ranker/description.h"
#include "cpp/scorer/scorer.h"
#include "cpp/tree_encoder/leaf_encoder.h"

namespace feedfast::ranker {

// A ranker of a model store, open for scoring: the scorer reads the mapped sections; only the dense
// layers and the forest are copied, into the kernels' layouts. Its bits are those of the scorer
// that Python makes of the same version, on the same CPU target.
class StoredRanker {
 public:
  // As OpenedModel::Open; kFull also compares the checksums of the vocabularies. DataLoss besides:
  // the model is no ranker, or its sections do not fit together; the message names the section.
  // Throws std::bad_alloc.
  static StatusOr<std::unique_ptr<StoredRanker>> Open(const std::string& root,
                                                      std::string_view model,
                                                      std::optional<std::string_view> version,
                                                      model_store::Verify verify);

  const model_store::Manifest& manifest() const noexcept { return opened_.manifest(); }
  const RankerDescription& description() const noexcept { return description_; }
  const scorer::Scorer& scorer() const noexcept { return *scorer_; }

 private:
  StoredRanker(model_store::OpenedModel opened, RankerDescription description)
      : opened_(std::move(opened)), description_(std::move(description)) {}

  Status Assemble(model_store::Verify verify);
  Status ReadTables(scorer::Model& model) const;
  Status ReadNormalizer(scorer::Model& model) const;
  Status ReadCross(scorer::Model& model);
  Status ReadTowers(scorer::Model& model);
  Status ReadCalibrators(scorer::Model& model) const;
  Status ReadEffects(mph::Verify verify, scorer::Model& model);
  StatusOr<const mph::Vocabulary*> ReadVocabulary(const char* section, mph::Verify verify);

  model_store::OpenedModel opened_;
  RankerDescription description_;
  std::vector<std::unique_ptr<const mph::Vocabulary>> vocabularies_;
  std::optional<tree_encoder::LeafEncoder> forest_;
  std::optional<CrossNetwork> cross_;
  std::vector<std::unique_ptr<const GatedMlp>> towers_;
  std::unique_ptr<scorer::Scorer> scorer_;  // reads all of the above
};

}  // namespace feedfast::ranker

#endif  // FEEDFAST_CPP_RANKER_STORED_RANKER_H_
