#include "cpp/scorer/model.h"

#include <algorithm>
#include <cmath>

namespace feedfast::scorer {
namespace {

constexpr float kClip = 8.0f;

Status ValidateTable(const char* name, const embedding_kernels::Table& table, const char* rows_name,
                     std::int64_t rows) {
  if (table.data == nullptr && table.num_rows > 0) return InvalidArgument(name, " has no data");
  if (table.dim < 1) return InvalidArgument(name, " has ", table.dim, " columns; needs at least 1");
  if (table.num_rows < 1) return InvalidArgument(name, " has no rows");
  if (table.num_rows != rows)
    return InvalidArgument(name, " has ", table.num_rows, " rows; ", rows_name, " has ", rows);
  return OkStatus();
}

Status ValidateFinite(const char* name, Span<const float> values) {
  for (std::int64_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      return InvalidArgument(name, "[", i, "] = ", values[i], "; must be finite");
  return OkStatus();
}

Status ValidateTowers(const Model& model) {
  const std::int64_t inputs = model.num_viewer_inputs() + model.num_candidate_inputs();
  if (model.cross != nullptr && model.cross->size() != inputs)
    return InvalidArgument("cross network has ", model.cross->size(),
                           " inputs; the input vector has ", inputs);
  std::vector<int> towers_of(model.groups.size(), 0);
  for (std::size_t t = 0; t < model.towers.size(); ++t) {
    const Tower& tower = model.towers[t];
    if (tower.mlp == nullptr) return InvalidArgument("towers[", t, "] has no layers");
    if (tower.mlp->num_inputs() != inputs)
      return InvalidArgument("towers[", t, "] has ", tower.mlp->num_inputs(),
                             " inputs; the input vector has ", inputs);
    if (model.cross == nullptr && !tower.mlp->AcceptsShared(model.num_viewer_inputs()))
      return InvalidArgument("towers[", t, "] was made for ", tower.mlp->num_shared(),
                             " inputs that candidates share; the viewer has ",
                             model.num_viewer_inputs());
    if (tower.mlp->num_outputs() != static_cast<std::int64_t>(tower.objectives.size()))
      return InvalidArgument("towers[", t, "] has ", tower.mlp->num_outputs(), " outputs and ",
                             tower.objectives.size(), " objectives");
    for (const std::int64_t objective : tower.objectives) {
      if (objective < 0 || objective >= model.num_objectives())
        return InvalidArgument("towers[", t, "]: objective ", objective, " is not one of ",
                               model.num_objectives());
      ++towers_of[static_cast<std::size_t>(objective)];
    }
  }
  for (std::size_t k = 0; k < towers_of.size(); ++k)
    if (towers_of[k] != 1)
      return InvalidArgument("objective ", k, " is in ", towers_of[k], " towers; must be in 1");
  return OkStatus();
}

}  // namespace

Status ValidateModel(const Model& model) {
  if (model.member_vocabulary == nullptr || model.hashtag_vocabulary == nullptr ||
      model.forest == nullptr)
    return InvalidArgument("the model lacks a vocabulary or the forest");
  FEEDFAST_RETURN_IF_ERROR(ValidateTable("member_table", model.member_table, "member_vocabulary",
                                         model.member_vocabulary->num_rows()));
  FEEDFAST_RETURN_IF_ERROR(ValidateTable("hashtag_table", model.hashtag_table, "hashtag_vocabulary",
                                         model.hashtag_vocabulary->num_rows()));
  FEEDFAST_RETURN_IF_ERROR(
      ValidateTable("leaf_table", model.leaf_table, "forest", model.forest->num_leaves()));
  if (model.num_shared < 0 || model.num_shared > model.mean.size() ||
      model.inv_std.size() != model.mean.size())
    return InvalidArgument("normalizer: ", model.mean.size(), " means and ", model.inv_std.size(),
                           " inv_stds for ", model.num_shared, " shared features and dense ones");
  if (model.forest->num_features() != model.mean.size())
    return InvalidArgument("forest reads ", model.forest->num_features(), " features; ",
                           model.mean.size(), " are normalised");
  FEEDFAST_RETURN_IF_ERROR(ValidateFinite("mean", model.mean));
  FEEDFAST_RETURN_IF_ERROR(ValidateFinite("inv_std", model.inv_std));
  if (model.groups.empty()) return InvalidArgument("the model has no objective");
  if (model.calibrators.size() != model.groups.size())
    return InvalidArgument(model.calibrators.size(), " calibrators for ", model.groups.size(),
                           " objectives");
  FEEDFAST_RETURN_IF_ERROR(ValidateTowers(model));
  if (const mph::Vocabulary* items = model.random_effects.vocabulary; items != nullptr) {
    const Span<const float> coefficients = model.random_effects.coefficients;
    if (coefficients.size() / model.num_objectives() != items->num_rows() ||
        coefficients.size() % model.num_objectives() != 0)
      return InvalidArgument("random_effects: ", coefficients.size(), " coefficients for ",
                             items->num_rows(), " rows of ", model.num_objectives(), " objectives");
  }
  return OkStatus();
}

void Normalize(Span<const float> x, Span<const float> mean, Span<const float> inv_std, float* out) {
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const float z = (x[i] - mean[i]) * inv_std[i];
    out[i] = z != z ? 0.0f : std::min(std::max(z, -kClip), kClip);
  }
}

}  // namespace feedfast::scorer
