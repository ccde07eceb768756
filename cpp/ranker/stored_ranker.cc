#include "cpp/ranker/stored_ranker.h"

#include <cstdint>
#include <utility>

#include "cpp/ranker/layers.h"
#include "cpp/scorer/calibrator.h"

namespace feedfast::ranker {
namespace {

using model_store::OpenedModel;
using model_store::Tensor;
using model_store::Tensors;

// Of one calibrator, at most.
constexpr std::int64_t kMaxKnots = 4096;

Status InSection(const char* section, const Status& status) {
  return DataLoss("section '", section, "': ", status.message());
}

}  // namespace

StatusOr<std::unique_ptr<StoredRanker>> StoredRanker::Open(const std::string& root,
                                                           std::string_view model,
                                                           std::optional<std::string_view> version,
                                                           model_store::Verify verify) {
  StatusOr<OpenedModel> opened = OpenedModel::Open(root, model, version, verify);
  if (!opened.ok()) return opened.status();
  StatusOr<RankerDescription> description = ParseDescription(opened->manifest().description);
  if (!description.ok()) return DataLoss(opened->where(), ": ", description.status().message());
  std::unique_ptr<StoredRanker> ranker(
      new StoredRanker(std::move(opened).value(), std::move(description).value()));
  if (const Status status = ranker->Assemble(verify); !status.ok())
    return Status(status.code(), ranker->opened_.where() + ": " + status.message());
  return ranker;
}

Status StoredRanker::Assemble(model_store::Verify verify) {
  const auto images =
      verify == model_store::Verify::kFull ? mph::Verify::kFull : mph::Verify::kHeader;
  scorer::Model model;
  const StatusOr<const mph::Vocabulary*> members = ReadVocabulary("member_vocabulary", images);
  if (!members.ok()) return members.status();
  model.member_vocabulary = members.value();
  const StatusOr<const mph::Vocabulary*> hashtags = ReadVocabulary("hashtag_vocabulary", images);
  if (!hashtags.ok()) return hashtags.status();
  model.hashtag_vocabulary = hashtags.value();
  const StatusOr<Span<const std::uint8_t>> image = opened_.image("forest", "forest");
  if (!image.ok()) return image.status();
  StatusOr<tree_encoder::LeafEncoder> forest = tree_encoder::LeafEncoder::FromImage(image.value());
  if (!forest.ok()) return InSection("forest", forest.status());
  forest_.emplace(std::move(forest).value());
  model.forest = &*forest_;
  model.groups = description_.groups();
  FEEDFAST_RETURN_IF_ERROR(ReadTables(model));
  FEEDFAST_RETURN_IF_ERROR(ReadNormalizer(model));
  FEEDFAST_RETURN_IF_ERROR(ReadCross(model));
  FEEDFAST_RETURN_IF_ERROR(ReadTowers(model));
  FEEDFAST_RETURN_IF_ERROR(ReadCalibrators(model));
  FEEDFAST_RETURN_IF_ERROR(ReadEffects(images, model));
  StatusOr<std::unique_ptr<scorer::Scorer>> made = scorer::Scorer::Create(std::move(model));
  if (!made.ok()) return DataLoss(made.status().message());
  scorer_ = std::move(made).value();
  return OkStatus();
}

StatusOr<const mph::Vocabulary*> StoredRanker::ReadVocabulary(const char* section,
                                                              mph::Verify verify) {
  const StatusOr<Span<const std::uint8_t>> image = opened_.image(section, "vocabulary");
  if (!image.ok()) return image.status();
  StatusOr<mph::Vocabulary> vocabulary = mph::Vocabulary::FromImage(image.value(), verify);
  if (!vocabulary.ok()) return InSection(section, vocabulary.status());
  vocabularies_.push_back(std::make_unique<mph::Vocabulary>(std::move(vocabulary).value()));
  return vocabularies_.back().get();
}

Status StoredRanker::ReadTables(scorer::Model& model) const {
  const auto read = [this](const char* section, std::int64_t dim,
                           embedding_kernels::Table& out) -> Status {
    const StatusOr<embedding_kernels::Table> table = opened_.table(section);
    if (!table.ok()) return table.status();
    if (table->dim != dim)
      return DataLoss("section '", section, "' has ", table->dim, " columns; the description says ",
                      dim);
    out = table.value();
    return OkStatus();
  };
  FEEDFAST_RETURN_IF_ERROR(read("member_table", description_.member_dim, model.member_table));
  FEEDFAST_RETURN_IF_ERROR(read("hashtag_table", description_.hashtag_dim, model.hashtag_table));
  return read("leaf_table", description_.leaf_dim, model.leaf_table);
}

Status StoredRanker::ReadNormalizer(scorer::Model& model) const {
  const StatusOr<const Tensors*> tensors = opened_.tensors("normalizer");
  if (!tensors.ok()) return tensors.status();
  const StatusOr<const Tensor*> mean = FindFloats(*tensors.value(), "mean", 1);
  if (!mean.ok()) return InSection("normalizer", mean.status());
  const StatusOr<const Tensor*> inv_std = FindFloats(*tensors.value(), "inv_std", 1);
  if (!inv_std.ok()) return InSection("normalizer", inv_std.status());
  model.num_shared = description_.num_shared();
  model.mean = mean.value()->As<float>();
  model.inv_std = inv_std.value()->As<float>();
  if (model.num_dense() != description_.num_dense())
    return DataLoss("section 'normalizer': mean has ", model.mean.size(),
                    " values; the description names ", description_.num_shared(), " shared and ",
                    description_.num_dense(), " dense features");
  return OkStatus();
}

Status StoredRanker::ReadCross(scorer::Model& model) {
  if (!description_.cross.has_value()) return OkStatus();
  const StatusOr<const Tensors*> tensors = opened_.tensors("towers");
  if (!tensors.ok()) return tensors.status();
  std::vector<CrossLayer> layers;
  for (std::int64_t i = 0; i < description_.cross->num_layers; ++i) {
    const StatusOr<CrossLayer> layer =
        ReadCrossLayer(*tensors.value(), "cross/" + std::to_string(i), *description_.cross,
                       description_.num_inputs());
    if (!layer.ok()) return InSection("towers", layer.status());
    layers.push_back(layer.value());
  }
  StatusOr<CrossNetwork> cross = CrossNetwork::Create(layers);
  if (!cross.ok()) return InSection("towers", cross.status());
  cross_.emplace(std::move(cross).value());
  model.cross = &*cross_;
  return OkStatus();
}

Status StoredRanker::ReadTowers(scorer::Model& model) {
  const StatusOr<const Tensors*> tensors = opened_.tensors("towers");
  if (!tensors.ok()) return tensors.status();
  // Behind a cross network candidates share nothing.
  const std::int64_t num_shared =
      description_.cross.has_value() ? 0 : description_.num_viewer_inputs();
  for (const TowerDescription& tower : description_.towers) {
    std::vector<GatedLayer> layers;
    for (std::size_t i = 0; i < tower.layers.size(); ++i) {
      const StatusOr<GatedLayer> layer =
          ReadGatedLayer(*tensors.value(), tower.name + "/" + std::to_string(i), tower.layers[i]);
      if (!layer.ok()) return InSection("towers", layer.status());
      layers.push_back(layer.value());
    }
    StatusOr<GatedMlp> mlp = GatedMlp::Create(layers, num_shared);
    if (!mlp.ok())
      return DataLoss("section 'towers': tower '", tower.name, "': ", mlp.status().message());
    towers_.push_back(std::make_unique<GatedMlp>(std::move(mlp).value()));
    model.towers.push_back({towers_.back().get(), tower.objectives});
  }
  return OkStatus();
}

Status StoredRanker::ReadCalibrators(scorer::Model& model) const {
  const StatusOr<const Tensors*> found = opened_.tensors("calibrators");
  if (!found.ok()) return found.status();
  const Tensors& tensors = *found.value();
  std::size_t num_read = 0;
  for (const Objective& objective : description_.objectives) {
    const std::string names[] = {objective.name + "/x", objective.name + "/y"};
    model.calibrators.emplace_back();
    if (tensors.count(names[0]) == 0 && tensors.count(names[1]) == 0) continue;
    Span<const float> knots[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const StatusOr<const Tensor*> tensor = FindFloats(tensors, names[i], 1);
      if (!tensor.ok()) return InSection("calibrators", tensor.status());
      knots[i] = tensor.value()->As<float>();
    }
    if (knots[0].size() > kMaxKnots)
      return DataLoss("section 'calibrators': '", objective.name, "' has ", knots[0].size(),
                      " knots; allowed: 1 to ", kMaxKnots);
    StatusOr<scorer::Calibrator> made = scorer::Calibrator::Create(knots[0], knots[1]);
    if (!made.ok())
      return DataLoss("section 'calibrators': '", objective.name, "': ", made.status().message());
    model.calibrators.back() = std::move(made).value();
    num_read += 2;
  }
  if (num_read != tensors.size())
    return DataLoss("section 'calibrators': ", tensors.size() - num_read,
                    " tensors belong to no objective");
  return OkStatus();
}

Status StoredRanker::ReadEffects(mph::Verify verify, scorer::Model& model) {
  const StatusOr<const Tensors*> tensors = opened_.tensors("random_effects");
  if (!tensors.ok()) return tensors.status();
  if (tensors.value()->count("coefficients") == 0) return OkStatus();
  const StatusOr<const Tensor*> coefficients = FindFloats(*tensors.value(), "coefficients", 2);
  if (!coefficients.ok()) return InSection("random_effects", coefficients.status());
  const StatusOr<const mph::Vocabulary*> items =
      ReadVocabulary("random_effects_vocabulary", verify);
  if (!items.ok()) return items.status();
  const std::vector<std::int64_t> shape = {items.value()->num_rows(),
                                           description_.num_objectives()};
  if (coefficients.value()->shape != shape)
    return DataLoss("section 'random_effects': coefficients have shape ",
                    model_store::ShapeText(coefficients.value()->shape), "; needs ",
                    model_store::ShapeText(shape));
  model.random_effects = {items.value(), coefficients.value()->As<float>()};
  return OkStatus();
}

}  // namespace feedfast::ranker
