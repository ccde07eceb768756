#include "cpp/scorer/scorer.h"

#include <algorithm>
#include <cassert>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/parallel_for.h"

namespace feedfast::scorer {
namespace {

std::int64_t CeilDivide(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// By `feedfast bench request --only sweep`: on one thread 96 to 750 candidates are within 1.5% of
// each other. Threads share a request best in as many equal pieces each, of about 128 candidates.
constexpr std::int64_t kMostRowsOfTowers = 256;
constexpr std::int64_t kSharedRows = 128;
constexpr std::int64_t kRowStep = 8;

// The most keys that `offsets` give to any window of `window` bags that starts at a multiple of it.
std::int64_t MostKeys(Span<const std::int64_t> offsets, std::int64_t first, std::int64_t end,
                      std::int64_t window) {
  std::int64_t most = 0;
  for (std::int64_t bag = first; bag < end; bag += window)
    most = std::max(most, offsets[std::min(bag + window, end)] - offsets[bag]);
  return most;
}

// What a cross network takes and gives.
struct Crossing {
  Crossing(const CrossNetwork& network, std::int64_t capacity)
      : inputs(capacity * network.size()),
        outputs(capacity * network.size()),
        workspace(network, capacity) {}

  AlignedBuffer<float> inputs;   // [capacity, viewer and candidate inputs]
  AlignedBuffer<float> outputs;  // [capacity, the same]
  CrossWorkspace workspace;
};

}  // namespace

std::int64_t DefaultMiniBatch(std::int64_t candidates, int threads) {
  if (threads == 1) return kMostRowsOfTowers;
  const std::int64_t of_thread = std::max<std::int64_t>(CeilDivide(candidates, threads), 1);
  const std::int64_t pieces =
      std::max<std::int64_t>((of_thread + kSharedRows / 2) / kSharedRows, 1);
  return CeilDivide(CeilDivide(of_thread, pieces), kRowStep) * kRowStep;
}

// What the threads of one call read.
struct Scorer::Call {
  const RequestBatch& batch;
  const ScoreOptions& options;
  const Scores& scores;
  std::vector<float> coefficients;  // [trade-offs, objectives]

  Span<const float> coefficients_of(std::int64_t r, std::int64_t num_objectives) const noexcept {
    const std::int64_t tradeoff = batch.tradeoff_of.empty() ? 0 : batch.tradeoff_of[r];
    return Span<const float>(coefficients).subspan(tradeoff * num_objectives, num_objectives);
  }
};

// What all candidates of one request share.
struct Scorer::Viewer {
  explicit Viewer(const Model& model) : inputs(model), first_layers(model.towers.size()) {
    // Allocates here what would otherwise be allocated on a thread that must not throw.
    PrepareLayers(model);
  }

  // A cross network mixes all inputs, so there is nothing to prepare before candidates.
  void PrepareLayers(const Model& model) {
    if (model.cross != nullptr) return;
    for (std::size_t t = 0; t < model.towers.size(); ++t)
      model.towers[t].mlp->PrepareShared(inputs.x(), first_layers[t]);
  }

  ViewerInputs inputs;
  std::vector<SharedInput> first_layers;  // of each tower
};

// The buffers of one thread.
struct Scorer::Workspace {
  Workspace(const Model& model, std::int64_t capacity_rows)
      : capacity(capacity_rows), viewer(model), inputs(model, capacity_rows) {
    std::int64_t most_outputs = 0;
    for (const Tower& tower : model.towers) {
      towers.emplace_back(*tower.mlp, capacity_rows);
      most_outputs = std::max(most_outputs, tower.mlp->num_outputs());
    }
    logits = AlignedBuffer<float>(capacity_rows * most_outputs);
    if (model.cross != nullptr) crossing.emplace(*model.cross, capacity_rows);
  }

  std::int64_t capacity;  // candidates
  Viewer viewer;          // used when this thread prepares a request
  CandidateInputs inputs;
  AlignedBuffer<float> logits;  // [capacity, outputs of a tower]
  std::vector<GatedMlpWorkspace> towers;
  std::optional<Crossing> crossing;
  StageTimes times;  // of the call that has it
};

// Workspaces for the threads of one call, given back to the scorer when it ends.
class Scorer::Lease {
 public:
  Lease(const Scorer& scorer, std::int64_t count, std::int64_t capacity, std::int64_t history_keys,
        std::int64_t hashtag_keys)
      : scorer_(scorer) {
    idle_.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      std::unique_ptr<Workspace> workspace = Reuse(capacity);
      if (workspace == nullptr) workspace = std::make_unique<Workspace>(scorer.model_, capacity);
      workspace->viewer.inputs.Reserve(history_keys);
      workspace->inputs.Reserve(hashtag_keys);
      workspace->times = StageTimes();
      idle_.push_back(std::move(workspace));
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    for (std::unique_ptr<Workspace>& workspace : idle_) scorer_.free_.Give(std::move(workspace));
  }

  Workspace& first() noexcept { return *idle_.front(); }

  // Calls body(workspace) with one that no other thread uses meanwhile. Requires no more calls at a
  // time than the lease has workspaces.
  template <typename Body>
  void Use(const Body& body) {
    std::unique_ptr<Workspace> workspace;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      workspace = std::move(idle_.back());
      idle_.pop_back();
    }
    body(*workspace);
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(workspace));  // within the reserved capacity
  }

  // Of all workspaces; requires that none is in use.
  StageTimes times() const noexcept {
    StageTimes sum;
    for (const std::unique_ptr<Workspace>& workspace : idle_) sum += workspace->times;
    return sum;
  }

 private:
  // A free workspace of at least this capacity; smaller ones are dropped on the way.
  std::unique_ptr<Workspace> Reuse(std::int64_t capacity) {
    while (std::unique_ptr<Workspace> workspace = scorer_.free_.Take())
      if (workspace->capacity >= capacity) return workspace;
    return nullptr;
  }

  const Scorer& scorer_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

Scorer::Scorer(Model model) : model_(std::move(model)) {}
Scorer::~Scorer() = default;

StatusOr<std::unique_ptr<Scorer>> Scorer::Create(Model model) {
  FEEDFAST_RETURN_IF_ERROR(ValidateModel(model));
  return std::unique_ptr<Scorer>(new Scorer(std::move(model)));
}

void Scorer::PrepareViewer(const Call& call, std::int64_t r, Viewer& viewer,
                           StageClock& clock) const {
  viewer.inputs.Fill(model_, call.batch, r, call.options.without, clock);
  viewer.PrepareLayers(model_);
  clock.EndOf(Stage::kDense);
}

void Scorer::RunTowers(const Viewer& viewer, std::int64_t rows, float* probabilities,
                       Workspace& workspace) const {
  const Model& m = model_;
  const std::int64_t candidate_inputs = m.num_candidate_inputs();
  const float* x = workspace.inputs.x();
  if (m.cross != nullptr) {
    Crossing& crossing = *workspace.crossing;
    const Span<const float> shared = viewer.inputs.x();
    for (std::int64_t i = 0; i < rows; ++i) {
      float* row = crossing.inputs.data() + i * m.cross->size();
      std::copy_n(shared.data(), shared.size(), row);
      std::copy_n(x + i * candidate_inputs, candidate_inputs, row + shared.size());
    }
    m.cross->Forward(crossing.inputs.data(), rows, m.cross->size(), crossing.outputs.data(),
                     m.cross->size(), crossing.workspace);
  }
  for (std::size_t t = 0; t < m.towers.size(); ++t) {
    const Tower& tower = m.towers[t];
    const std::int64_t outputs = tower.mlp->num_outputs();
    if (m.cross != nullptr)
      tower.mlp->Forward(workspace.crossing->outputs.data(), rows, m.cross->size(),
                         workspace.logits.data(), outputs, workspace.towers[t]);
    else
      tower.mlp->ForwardShared(viewer.first_layers[t], x, rows, candidate_inputs,
                               workspace.logits.data(), outputs, workspace.towers[t]);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < outputs; ++j)
        probabilities[i * m.num_objectives() + tower.objectives[static_cast<std::size_t>(j)]] =
            workspace.logits[i * outputs + j];
  }
}

void Scorer::ScoreCandidates(const Call& call, std::int64_t r, const Viewer& viewer,
                             std::int64_t begin, std::int64_t end, Workspace& workspace,
                             StageClock& clock) const {
  const Model& m = model_;
  const std::int64_t rows = end - begin;
  const std::int64_t num_objectives = m.num_objectives();
  workspace.inputs.Fill(m, call.batch, viewer.inputs.shared(), begin, end, call.options.without,
                        clock);

  float* probabilities = call.scores.probabilities.data() + begin * num_objectives;
  RunTowers(viewer, rows, probabilities, workspace);
  clock.EndOf(Stage::kDense);

  if (m.random_effects.vocabulary != nullptr) {
    const Span<const std::int64_t> items = workspace.inputs.item_rows();
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t k = 0; k < num_objectives; ++k)
        probabilities[i * num_objectives + k] +=
            m.random_effects.coefficients[items[i] * num_objectives + k];
  }
  Sigmoid({probabilities, rows * num_objectives});
  for (std::int64_t k = 0; k < num_objectives; ++k) {
    const Calibrator& calibrator = m.calibrators[static_cast<std::size_t>(k)];
    if (calibrator.is_identity()) continue;
    for (std::int64_t i = 0; i < rows; ++i)
      probabilities[i * num_objectives + k] = calibrator(probabilities[i * num_objectives + k]);
  }
  ScoreUtility(call.coefficients_of(r, num_objectives), probabilities,
               call.scores.score.subspan(begin, rows));
  clock.EndOf(Stage::kRest);
}

void Scorer::OrderRequest(const Call& call, std::int64_t r) const {
  const std::int64_t begin = call.batch.candidate_offsets[r];
  const std::int64_t size = call.batch.candidate_offsets[r + 1] - begin;
  OrderByScore(call.scores.score.subspan(begin, size), call.options.top_k,
               call.scores.order.subspan(begin, size));
}

Status Scorer::Score(const RequestBatch& batch, Span<const Tradeoff> tradeoffs,
                     const ScoreOptions& options, const Scores& scores) const {
  StageClock clock(scores.times);
  const std::int64_t num_objectives = model_.num_objectives();
  if (tradeoffs.empty()) return InvalidArgument("there is no trade-off");
  FEEDFAST_RETURN_IF_ERROR(
      ValidateBatch(batch, model_.num_shared, model_.num_dense(), tradeoffs.size()));
  for (const Tradeoff& tradeoff : tradeoffs)
    FEEDFAST_RETURN_IF_ERROR(ValidateTradeoff(tradeoff, model_.groups));
  if (options.threads < 1) return InvalidArgument("threads = ", options.threads, "; must be >= 1");
  if (options.mini_batch < 0 || options.mini_batch > kMaxMiniBatch)
    return InvalidArgument("mini_batch = ", options.mini_batch, "; allowed: 0 to ", kMaxMiniBatch);
  if (options.top_k < 0) return InvalidArgument("top_k = ", options.top_k, "; must be >= 0");

  const std::int64_t num_requests = batch.num_requests();
  [[maybe_unused]] const std::int64_t num_candidates = batch.num_candidates();
  assert(scores.probabilities.size() == num_candidates * num_objectives);
  assert(scores.score.size() == num_candidates && scores.order.size() == num_candidates);
  Call call{batch, options, scores, {}};
  call.coefficients.resize(static_cast<std::size_t>(tradeoffs.size() * num_objectives));
  for (std::int64_t i = 0; i < tradeoffs.size(); ++i)
    UtilityCoefficients(model_.groups, tradeoffs[i],
                        Span<float>(call.coefficients).subspan(i * num_objectives, num_objectives));

  std::int64_t most_candidates = 0;
  std::int64_t history_keys = 0;
  for (std::int64_t r = 0; r < num_requests; ++r) {
    most_candidates =
        std::max(most_candidates, batch.candidate_offsets[r + 1] - batch.candidate_offsets[r]);
    history_keys = std::max(
        history_keys, batch.history_member_offsets[r + 1] - batch.history_member_offsets[r] +
                          batch.history_hashtag_offsets[r + 1] - batch.history_hashtag_offsets[r]);
  }
  // One request is split over the threads; several are dealt out whole.
  const bool split = num_requests == 1;
  const std::int64_t most_rows = options.mini_batch > 0 ? options.mini_batch : kMostRowsOfTowers;
  std::int64_t mini_batch = most_rows;
  if (split && options.mini_batch == 0)
    mini_batch = DefaultMiniBatch(most_candidates, options.threads);
  else if (split)
    mini_batch =
        std::clamp<std::int64_t>(CeilDivide(most_candidates, options.threads), 1, most_rows);
  const std::int64_t tasks = split ? CeilDivide(most_candidates, mini_batch) : num_requests;
  std::int64_t hashtag_keys = 0;
  for (std::int64_t r = 0; r < num_requests; ++r)
    hashtag_keys =
        std::max(hashtag_keys, MostKeys(batch.hashtag_offsets, batch.candidate_offsets[r],
                                        batch.candidate_offsets[r + 1], mini_batch));
  Lease lease(*this, std::clamp<std::int64_t>(tasks, 1, options.threads), most_rows, history_keys,
              hashtag_keys);
  const auto clock_of = [&scores](Workspace& workspace) {
    return StageClock(scores.times == nullptr ? nullptr : &workspace.times);
  };
  clock.EndOf(Stage::kRest);

  if (split) {
    // Stays as it is while its workspace scores candidates.
    Viewer& viewer = lease.first().viewer;
    PrepareViewer(call, 0, viewer, clock);
    ParallelFor(most_candidates, mini_batch, options.threads,
                [&](std::int64_t begin, std::int64_t end) {
                  lease.Use([&](Workspace& workspace) {
                    StageClock own = clock_of(workspace);
                    ScoreCandidates(call, 0, viewer, begin, end, workspace, own);
                  });
                });
    clock.Skip();
    OrderRequest(call, 0);
    clock.EndOf(Stage::kRest);
  } else {
    ParallelFor(num_requests, 1, options.threads, [&](std::int64_t r, std::int64_t) {
      lease.Use([&](Workspace& workspace) {
        StageClock own = clock_of(workspace);
        PrepareViewer(call, r, workspace.viewer, own);
        const std::int64_t last = batch.candidate_offsets[r + 1];
        for (std::int64_t begin = batch.candidate_offsets[r]; begin < last; begin += mini_batch)
          ScoreCandidates(call, r, workspace.viewer, begin, std::min(begin + mini_batch, last),
                          workspace, own);
        OrderRequest(call, r);
        own.EndOf(Stage::kRest);
      });
    });
  }
  if (scores.times != nullptr) *scores.times += lease.times();
  return OkStatus();
}

}  // namespace feedfast::scorer
