#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/c_api/guard.h"
#include "cpp/c_api/include/feedfast/feedfast.h"
#include "cpp/c_api/structs.h"
#include "cpp/common/cpu_target.h"
#include "cpp/ranker/stored_ranker.h"
#include "cpp/scorer/stage_times.h"

struct ff_scorer {
  std::unique_ptr<feedfast::ranker::StoredRanker> ranker;
  feedfast::scorer::ScoreOptions options;
};

namespace feedfast::c_api {
namespace {

using ranker::RankerDescription;
using ranker::StoredRanker;

// Sizes of the structs in version 1 of the interface, which the header must not fall below.
constexpr std::size_t kOldestOptions = offsetof(ff_scorer_options, mini_batch) + sizeof(int64_t);
constexpr std::size_t kOldestRequest = offsetof(ff_request, top_k) + sizeof(int64_t);
constexpr std::size_t kOldestResult = offsetof(ff_result, stage_nanoseconds_size) + sizeof(int64_t);

static_assert(static_cast<std::size_t>(FF_NUM_STAGES) == scorer::kNumStages);
static_assert(FF_STAGE_REST == static_cast<int>(scorer::Stage::kRest));

// Keys of the caller.
class StringKeys final : public mph::KeySource {
 public:
  StringKeys(const ff_string* keys, std::int64_t size) noexcept : keys_(keys), size_(size) {}

  std::int64_t size() const noexcept override { return size_; }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i) {
      const ff_string& key = keys_[begin + i];
      views[i] = {key.data, key.size};
    }
  }

 private:
  const ff_string* keys_;
  std::int64_t size_;
};

// A column that may be left out.
class OptionalKeys {
 public:
  OptionalKeys(const ff_string* keys, std::int64_t size) noexcept
      : keys_(keys, size), given_(keys != nullptr) {}

  const mph::KeySource* get() const noexcept { return given_ ? &keys_ : nullptr; }

 private:
  StringKeys keys_;
  bool given_;
};

Status CheckCount(const char* name, std::int64_t count) {
  // Sizes of arrays of several values for each stay in range.
  constexpr std::int64_t kMaxCount = std::int64_t{1} << 40;
  if (count < 0 || count > kMaxCount)
    return InvalidArgument(name, " = ", count, "; allowed: 0 to ", kMaxCount);
  return OkStatus();
}

// `given` is the number that the caller says an array of the model's size has.
Status CheckModelSize(const char* name, const void* array, std::int64_t given,
                      std::int64_t of_model) {
  if (array != nullptr && given != of_model)
    return InvalidArgument(name, " = ", given, "; the model has ", of_model);
  return OkStatus();
}

// The caller's array, or one of this call where it wants none.
template <typename T>
class Output {
 public:
  // InvalidArgument: the array has not room for `needed` elements.
  Status Set(const char* name, T* array, std::int64_t size, std::int64_t needed) {
    if (array == nullptr) {
      own_.resize(static_cast<std::size_t>(needed));
      span_ = own_;
    } else if (size < needed) {
      return InvalidArgument(name, " = ", size, "; needs at least ", needed);
    } else {
      span_ = {array, needed};
    }
    return OkStatus();
  }
  Span<T> span() const noexcept { return span_; }

 private:
  std::vector<T> own_;
  Span<T> span_;
};

// [size] missing features, where the caller has none.
Span<const float> FeaturesOr(const float* given, std::int64_t size, std::vector<float>& missing) {
  if (given != nullptr) return {given, size};
  missing.assign(static_cast<std::size_t>(size), std::numeric_limits<float>::quiet_NaN());
  return missing;
}

StatusOr<scorer::Tradeoff> TradeoffOf(const ff_request& request,
                                      const RankerDescription& description) {
  FEEDFAST_RETURN_IF_ERROR(CheckModelSize("num_weights", request.weights, request.num_weights,
                                          description.num_objectives()));
  scorer::Tradeoff tradeoff = description.tradeoff;
  if (request.alpha != nullptr) tradeoff.alpha = *request.alpha;
  if (request.lambda != nullptr) tradeoff.lambda = *request.lambda;
  if (request.weights != nullptr)
    tradeoff.weights.assign(request.weights, request.weights + request.num_weights);
  return tradeoff;
}

Status CheckRequest(const ff_request& request, const RankerDescription& description) {
  FEEDFAST_RETURN_IF_ERROR(CheckCount("num_candidates", request.num_candidates));
  FEEDFAST_RETURN_IF_ERROR(CheckCount("num_history_members", request.num_history_members));
  FEEDFAST_RETURN_IF_ERROR(CheckCount("num_history_hashtags", request.num_history_hashtags));
  FEEDFAST_RETURN_IF_ERROR(CheckCount("top_k", request.top_k));
  FEEDFAST_RETURN_IF_ERROR(
      CheckModelSize("num_shared", request.shared, request.num_shared, description.num_shared()));
  return CheckModelSize("num_dense", request.dense, request.num_dense, description.num_dense());
}

Status Score(const ff_scorer& handle, const ff_request* given_request,
             const ff_result* given_result) {
  ff_request request;
  FEEDFAST_RETURN_IF_ERROR(ReadStruct("request", given_request, kOldestRequest, request));
  ff_result result;
  FEEDFAST_RETURN_IF_ERROR(ReadStruct("result", given_result, kOldestResult, result));
  const RankerDescription& description = handle.ranker->description();
  FEEDFAST_RETURN_IF_ERROR(CheckRequest(request, description));
  const StatusOr<scorer::Tradeoff> tradeoff = TradeoffOf(request, description);
  if (!tradeoff.ok()) return tradeoff.status();

  const std::int64_t candidates = request.num_candidates;
  const std::int64_t candidate_offsets[] = {0, candidates};
  const std::int64_t member_offsets[] = {0, request.num_history_members};
  const std::int64_t hashtag_offsets[] = {0, request.num_history_hashtags};
  const std::vector<std::int64_t> no_hashtags(
      request.hashtag_offsets == nullptr ? static_cast<std::size_t>(candidates) + 1 : 0);
  const Span<const std::int64_t> candidate_hashtags =
      request.hashtag_offsets == nullptr
          ? Span<const std::int64_t>(no_hashtags)
          : Span<const std::int64_t>(request.hashtag_offsets, candidates + 1);
  const OptionalKeys viewer(request.viewer, 1);
  const OptionalKeys history_members(request.history_members, request.num_history_members);
  const OptionalKeys history_hashtags(request.history_hashtags, request.num_history_hashtags);
  const OptionalKeys item(request.item, candidates);
  const OptionalKeys actor(request.actor, candidates);
  const OptionalKeys root_actor(request.root_actor, candidates);
  const OptionalKeys hashtags(request.hashtags, candidate_hashtags[candidates]);
  std::vector<float> missing_shared;
  std::vector<float> missing_dense;
  scorer::RequestBatch batch;
  batch.candidate_offsets = {candidate_offsets, 2};
  batch.viewer = viewer.get();
  batch.history_members = history_members.get();
  batch.history_member_offsets = {member_offsets, 2};
  batch.history_hashtags = history_hashtags.get();
  batch.history_hashtag_offsets = {hashtag_offsets, 2};
  batch.shared = FeaturesOr(request.shared, description.num_shared(), missing_shared);
  batch.item = item.get();
  batch.actor = actor.get();
  batch.root_actor = request.root_actor == nullptr ? actor.get() : root_actor.get();
  batch.hashtags = hashtags.get();
  batch.hashtag_offsets = candidate_hashtags;
  batch.dense = FeaturesOr(request.dense, candidates * description.num_dense(), missing_dense);

  scorer::ScoreOptions options = handle.options;
  if (request.top_k > 0) options.top_k = request.top_k;
  const std::int64_t places = std::min(options.top_k, candidates);
  Output<float> probabilities;
  Output<float> score;
  FEEDFAST_RETURN_IF_ERROR(probabilities.Set("probabilities_size", result.probabilities,
                                             result.probabilities_size,
                                             candidates * description.num_objectives()));
  FEEDFAST_RETURN_IF_ERROR(score.Set("score_size", result.score, result.score_size, candidates));
  if (result.order != nullptr && result.order_size < places)
    return InvalidArgument("order_size = ", result.order_size, "; needs at least ", places);
  // The scorer fills a place for every candidate.
  Output<std::int64_t> order;
  FEEDFAST_RETURN_IF_ERROR(order.Set("order_size", places == candidates ? result.order : nullptr,
                                     result.order_size, candidates));
  scorer::StageTimes times;
  const bool timing = result.stage_nanoseconds != nullptr;
  if (timing && result.stage_nanoseconds_size < FF_NUM_STAGES)
    return InvalidArgument("stage_nanoseconds_size = ", result.stage_nanoseconds_size,
                           "; needs at least ", static_cast<int>(FF_NUM_STAGES));
  FEEDFAST_RETURN_IF_ERROR(handle.ranker->scorer().Score(
      batch, tradeoff.value(), options,
      {probabilities.span(), score.span(), order.span(), timing ? &times : nullptr}));
  if (result.order != nullptr && places < candidates)
    std::copy_n(order.span().data(), places, result.order);
  if (timing)
    std::copy(times.nanoseconds.begin(), times.nanoseconds.end(), result.stage_nanoseconds);
  return OkStatus();
}

StatusOr<std::unique_ptr<ff_scorer>> Open(const ff_scorer_options* given) {
  ff_scorer_options options;
  FEEDFAST_RETURN_IF_ERROR(ReadStruct("options", given, kOldestOptions, options));
  if (options.path == nullptr) return InvalidArgument("options: path is NULL");
  if (options.verify != FF_VERIFY_HEADER && options.verify != FF_VERIFY_FULL)
    return InvalidArgument("options: verify = ", options.verify, "; allowed: 0 and 1");
  if (options.threads < 0)
    return InvalidArgument("options: threads = ", options.threads, "; must be >= 0");
  if (options.mini_batch < 0 || options.mini_batch > scorer::kMaxMiniBatch)
    return InvalidArgument("options: mini_batch = ", options.mini_batch, "; allowed: 0 to ",
                           scorer::kMaxMiniBatch);
  if (!SelectedCpuTarget().ok()) return SelectedCpuTarget().status();
  auto handle = std::make_unique<ff_scorer>();
  if (options.threads > 0) handle->options.threads = options.threads;
  if (options.mini_batch > 0) handle->options.mini_batch = options.mini_batch;
  std::optional<std::string_view> version;
  if (options.version != nullptr) version = options.version;
  StatusOr<std::unique_ptr<StoredRanker>> ranker = StoredRanker::Open(
      options.path, options.model == nullptr ? "feed" : options.model, version,
      options.verify == FF_VERIFY_FULL ? model_store::Verify::kFull : model_store::Verify::kHeader);
  if (!ranker.ok()) return ranker.status();
  handle->ranker = std::move(ranker).value();
  return handle;
}

ff_string AsString(const std::string& text) noexcept { return {text.data(), text.size()}; }

template <typename Elements>
const typename Elements::value_type* At(const Elements& elements, std::int64_t i) noexcept {
  const bool found = i >= 0 && static_cast<std::size_t>(i) < elements.size();
  return found ? &elements[static_cast<std::size_t>(i)] : nullptr;
}

ff_string StringAt(const std::vector<std::string>& names, std::int64_t i) noexcept {
  const std::string* name = At(names, i);
  return name == nullptr ? ff_string{} : AsString(*name);
}

const RankerDescription& DescriptionOf(const ff_scorer* scorer) noexcept {
  return scorer->ranker->description();
}

}  // namespace
}  // namespace feedfast::c_api

using feedfast::c_api::DescriptionOf;

ff_status ff_scorer_open(const ff_scorer_options* options, ff_scorer** scorer, char* message,
                         size_t message_size) {
  return feedfast::c_api::Guard(message, message_size, [&]() -> feedfast::Status {
    if (scorer == nullptr) return feedfast::InvalidArgument("scorer is NULL");
    *scorer = nullptr;
    feedfast::StatusOr<std::unique_ptr<ff_scorer>> opened = feedfast::c_api::Open(options);
    if (!opened.ok()) return opened.status();
    *scorer = std::move(opened).value().release();
    return feedfast::OkStatus();
  });
}

void ff_scorer_close(ff_scorer* scorer) { delete scorer; }

ff_status ff_scorer_score(const ff_scorer* scorer, const ff_request* request,
                          const ff_result* result, char* message, size_t message_size) {
  return feedfast::c_api::Guard(message, message_size, [&]() -> feedfast::Status {
    if (scorer == nullptr) return feedfast::InvalidArgument("scorer is NULL");
    return feedfast::c_api::Score(*scorer, request, result);
  });
}

ff_string ff_scorer_model(const ff_scorer* scorer) {
  return feedfast::c_api::AsString(scorer->ranker->manifest().model);
}

ff_string ff_scorer_version(const ff_scorer* scorer) {
  return feedfast::c_api::AsString(scorer->ranker->manifest().version);
}

int64_t ff_scorer_num_objectives(const ff_scorer* scorer) {
  return DescriptionOf(scorer).num_objectives();
}

ff_string ff_scorer_objective(const ff_scorer* scorer, int64_t k) {
  const auto* objective = feedfast::c_api::At(DescriptionOf(scorer).objectives, k);
  return objective == nullptr ? ff_string{} : feedfast::c_api::AsString(objective->name);
}

ff_string ff_scorer_objective_group(const ff_scorer* scorer, int64_t k) {
  const auto* objective = feedfast::c_api::At(DescriptionOf(scorer).objectives, k);
  if (objective == nullptr) return {};
  switch (objective->group) {
    case feedfast::scorer::Group::kPassive:
      return {"passive", 7};
    case feedfast::scorer::Group::kActive:
      return {"active", 6};
    case feedfast::scorer::Group::kOther:
      break;
  }
  return {"other", 5};
}

int64_t ff_scorer_num_shared(const ff_scorer* scorer) { return DescriptionOf(scorer).num_shared(); }

ff_string ff_scorer_shared(const ff_scorer* scorer, int64_t i) {
  return feedfast::c_api::StringAt(DescriptionOf(scorer).shared_names, i);
}

int64_t ff_scorer_num_dense(const ff_scorer* scorer) { return DescriptionOf(scorer).num_dense(); }

ff_string ff_scorer_dense(const ff_scorer* scorer, int64_t i) {
  return feedfast::c_api::StringAt(DescriptionOf(scorer).dense_names, i);
}

int64_t ff_scorer_max_history_members(const ff_scorer* scorer) {
  return DescriptionOf(scorer).max_history_members;
}

int64_t ff_scorer_max_history_hashtags(const ff_scorer* scorer) {
  return DescriptionOf(scorer).max_history_hashtags;
}

double ff_scorer_alpha(const ff_scorer* scorer) { return DescriptionOf(scorer).tradeoff.alpha; }

double ff_scorer_lambda(const ff_scorer* scorer) { return DescriptionOf(scorer).tradeoff.lambda; }

double ff_scorer_weight(const ff_scorer* scorer, int64_t k) {
  const double* weight = feedfast::c_api::At(DescriptionOf(scorer).tradeoff.weights, k);
  return weight == nullptr ? 0.0 : *weight;
}
