#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/bindings/string_keys.h"
#include "cpp/bindings/tables.h"
#include "cpp/scorer/scorer.h"
#include "cpp/scorer/selected_candidates.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using scorer::Model;
using scorer::RequestBatch;
using scorer::Scorer;

using Knots = std::pair<CArray<float>, CArray<float>>;
using Effects = std::pair<py::object, CArray<float>>;

// The parts of a model that Python objects own; they live as long as the scorer that reads them.
struct ModelParts {
  Model model;
  std::vector<py::object> owners;
  std::vector<py::object> effects_owners;  // of model.random_effects alone

  template <typename T>
  const T* Keep(const py::object& part) {
    owners.push_back(part);
    return part.cast<const T*>();
  }
  embedding_kernels::Table KeepTable(const OwnedTable& table) {
    owners.push_back(table.array);
    return table.view;
  }
  Span<const float> KeepFloats(const char* name, const CArray<float>& array) {
    owners.push_back(array);
    return AsSpan(name, array);
  }
  void SetEffects(const std::optional<Effects>& effects) {
    model.random_effects = {};
    effects_owners.clear();
    if (!effects.has_value()) return;
    const auto& [vocabulary, coefficients] = *effects;
    effects_owners = {vocabulary, coefficients};
    model.random_effects = {vocabulary.cast<const mph::Vocabulary*>(),
                            AsSpan("random_effects", coefficients)};
  }
};

struct NativeScorer {
  ModelParts parts;
  std::unique_ptr<Scorer> scorer;
};

std::unique_ptr<NativeScorer> FromParts(ModelParts parts) {
  std::unique_ptr<Scorer> scorer = ValueOrThrow(Scorer::Create(parts.model));
  return std::make_unique<NativeScorer>(NativeScorer{std::move(parts), std::move(scorer)});
}

std::unique_ptr<NativeScorer> MakeScorer(
    const py::object& member_vocabulary, const py::object& hashtag_vocabulary,
    const py::object& forest, const OwnedTable& member_table, const OwnedTable& hashtag_table,
    const OwnedTable& leaf_table, std::int64_t num_shared, const CArray<float>& mean,
    const CArray<float>& inv_std,
    const std::vector<std::pair<py::object, std::vector<std::int64_t>>>& towers,
    const std::vector<std::string>& groups, const std::vector<std::optional<Knots>>& calibrators,
    const std::optional<Effects>& random_effects, const py::object& cross) {
  ModelParts parts;
  Model& model = parts.model;
  model.member_vocabulary = parts.Keep<mph::Vocabulary>(member_vocabulary);
  model.hashtag_vocabulary = parts.Keep<mph::Vocabulary>(hashtag_vocabulary);
  model.forest = parts.Keep<tree_encoder::LeafEncoder>(forest);
  model.member_table = parts.KeepTable(member_table);
  model.hashtag_table = parts.KeepTable(hashtag_table);
  model.leaf_table = parts.KeepTable(leaf_table);
  model.num_shared = num_shared;
  model.mean = parts.KeepFloats("mean", mean);
  model.inv_std = parts.KeepFloats("inv_std", inv_std);
  for (const auto& [mlp, objectives] : towers)
    model.towers.push_back({parts.Keep<GatedMlp>(mlp), objectives});
  for (const std::string& group : groups)
    model.groups.push_back(ValueOrThrow(scorer::ParseGroup(group)));
  for (const std::optional<Knots>& knots : calibrators)
    model.calibrators.push_back(knots.has_value() ? ValueOrThrow(scorer::Calibrator::Create(
                                                        AsSpan("calibrators", knots->first),
                                                        AsSpan("calibrators", knots->second)))
                                                  : scorer::Calibrator());
  parts.SetEffects(random_effects);
  if (!cross.is_none()) model.cross = parts.Keep<CrossNetwork>(cross);
  return FromParts(std::move(parts));
}

// The same parts with other random effects, or none; nothing is copied.
std::unique_ptr<NativeScorer> WithRandomEffects(const NativeScorer& native,
                                                const std::optional<Effects>& random_effects) {
  ModelParts parts = native.parts;
  parts.SetEffects(random_effects);
  return FromParts(std::move(parts));
}

using OptionalKeys = std::unique_ptr<mph::KeySource>;

OptionalKeys MakeOptionalKeys(const py::object& keys, const char* name) {
  return keys.is_none() ? nullptr : MakeKeySource(keys, name);
}

using Offsets = CArray<std::int64_t>;

// (alpha, lambda, weights [objectives])
using TradeoffTuple = std::tuple<double, double, std::vector<double>>;

std::int64_t NanosecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() -
                                                              start)
      .count();
}

// (probabilities [candidates, objectives], score [candidates], order [candidates], times), where
// times is None, or the nanoseconds of the stages and of the whole call.
py::tuple Score(const NativeScorer& native, const Offsets& candidate_offsets,
                const py::object& viewer, const py::object& history_members,
                const Offsets& history_member_offsets, const py::object& history_hashtags,
                const Offsets& history_hashtag_offsets, const CArray<float>& shared,
                const py::object& item, const py::object& actor, const py::object& root_actor,
                const py::object& hashtags, const Offsets& hashtag_offsets,
                const CArray<float>& dense, const std::vector<TradeoffTuple>& tradeoffs,
                const Offsets& tradeoff_of, const std::optional<Offsets>& candidates,
                const std::vector<std::string>& without, std::optional<std::int64_t> top_k,
                int threads, std::int64_t mini_batch, bool timing) {
  const auto start = std::chrono::steady_clock::now();
  const bool same_actor = root_actor.is(actor);
  const OptionalKeys keys[] = {
      MakeOptionalKeys(viewer, "viewer"),
      MakeOptionalKeys(history_members, "history_members"),
      MakeOptionalKeys(history_hashtags, "history_hashtags"),
      MakeOptionalKeys(item, "item"),
      MakeOptionalKeys(actor, "actor"),
      same_actor ? nullptr : MakeOptionalKeys(root_actor, "root_actor"),
      MakeOptionalKeys(hashtags, "hashtags"),
  };
  scorer::StageTimes times;
  times[scorer::Stage::kStrings] = NanosecondsSince(start);
  RequestBatch batch;
  batch.candidate_offsets = AsSpan("candidate_offsets", candidate_offsets);
  batch.viewer = keys[0].get();
  batch.history_members = keys[1].get();
  batch.history_member_offsets = AsSpan("history_member_offsets", history_member_offsets);
  batch.history_hashtags = keys[2].get();
  batch.history_hashtag_offsets = AsSpan("history_hashtag_offsets", history_hashtag_offsets);
  batch.shared = AsSpan("shared", shared);
  batch.tradeoff_of = AsSpan("tradeoff_of", tradeoff_of);
  batch.item = keys[3].get();
  batch.actor = keys[4].get();
  batch.root_actor = (same_actor ? keys[4] : keys[5]).get();
  batch.hashtags = keys[6].get();
  batch.hashtag_offsets = AsSpan("hashtag_offsets", hashtag_offsets);
  batch.dense = AsSpan("dense", dense);
  std::vector<scorer::Tradeoff> balances;
  balances.reserve(tradeoffs.size());
  for (const auto& [alpha, lambda, weights] : tradeoffs)
    balances.push_back({alpha, lambda, weights});
  const Model& model = native.scorer->model();
  // Before anything is sized by it.
  ThrowIfError(scorer::ValidateBatch(batch, model.num_shared, model.num_dense(),
                                     static_cast<std::int64_t>(balances.size())));
  std::optional<scorer::SelectedCandidates> selected;
  if (candidates.has_value()) {
    selected.emplace(ValueOrThrow(scorer::SelectedCandidates::Select(
        batch, AsSpan("candidates", *candidates), model.num_dense())));
    batch = selected->batch();
  }
  const std::int64_t num_candidates = batch.num_candidates();
  CArray<float> probabilities({num_candidates, model.num_objectives()});
  CArray<float> score(num_candidates);
  CArray<std::int64_t> order(num_candidates);
  const scorer::Scores scores{AsMutableSpan(probabilities), AsMutableSpan(score),
                              AsMutableSpan(order), timing ? &times : nullptr};
  scorer::ScoreOptions options;
  options.threads = threads;
  options.mini_batch = mini_batch;
  if (top_k.has_value()) options.top_k = *top_k;
  for (const std::string& group : without)
    options.without.Add(ValueOrThrow(scorer::ParseInputGroup(group)));
  const Status status = [&] {
    const py::gil_scoped_release nogil;
    return native.scorer->Score(batch, balances, options, scores);
  }();
  ThrowIfError(status);
  py::object taken = py::none();
  if (timing) taken = py::make_tuple(times.nanoseconds, NanosecondsSince(start));
  return py::make_tuple(probabilities, score, order, taken);
}

}  // namespace

void RegisterScorer(py::module_& m) {
  py::class_<NativeScorer>(m, "Scorer")
      .def(py::init(&MakeScorer), py::kw_only(), py::arg("member_vocabulary"),
           py::arg("hashtag_vocabulary"), py::arg("forest"), py::arg("member_table"),
           py::arg("hashtag_table"), py::arg("leaf_table"), py::arg("num_shared"),
           py::arg("mean").noconvert(), py::arg("inv_std").noconvert(), py::arg("towers"),
           py::arg("groups"), py::arg("calibrators"), py::arg("random_effects"),
           py::arg("cross") = py::none())
      .def("with_random_effects", &WithRandomEffects, py::arg("random_effects"))
      .def("score", &Score, py::kw_only(), py::arg("candidate_offsets").noconvert(),
           py::arg("viewer"), py::arg("history_members"),
           py::arg("history_member_offsets").noconvert(), py::arg("history_hashtags"),
           py::arg("history_hashtag_offsets").noconvert(), py::arg("shared").noconvert(),
           py::arg("item"), py::arg("actor"), py::arg("root_actor"), py::arg("hashtags"),
           py::arg("hashtag_offsets").noconvert(), py::arg("dense").noconvert(),
           py::arg("tradeoffs"), py::arg("tradeoff_of").noconvert(),
           py::arg("candidates").noconvert(), py::arg("without"), py::arg("top_k"),
           py::arg("threads"), py::arg("mini_batch"), py::arg("timing"));
}

}  // namespace feedfast::bindings
