#include "cpp/scorer/scorer.h"

#include <algorithm>
#include <cassert>
#include <new>
#include <utility>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/pooled_lookup.h"

namespace feedfast::scorer {
namespace {

using embedding_kernels::Bags;
using embedding_kernels::PooledLookupRange;
using embedding_kernels::Pooling;
using embedding_kernels::Table;

// out[b, :] of `num_bags` bags, on the calling thread.
void Pool(const Table& table, Span<const std::int64_t> rows, Span<const std::int64_t> offsets,
          Pooling pooling, float* out, std::int64_t out_stride) {
  const Bags bags{rows, offsets};
  PooledLookupRange(table, bags, pooling, out, out_stride, 0, bags.num_bags());
}

// Rows of the keys from `begin` on; 0 for all when there is no source.
void LookupRows(const mph::Vocabulary& vocabulary, const mph::KeySource* keys, std::int64_t begin,
                Span<std::int64_t> rows) {
  if (keys == nullptr)
    std::fill(rows.begin(), rows.end(), std::int64_t{0});
  else
    vocabulary.Lookup(*keys, begin, rows);
}

std::int64_t CeilDivide(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// The most keys that `offsets` give to any window of `window` bags that starts at a multiple of it.
std::int64_t MostKeys(Span<const std::int64_t> offsets, std::int64_t first, std::int64_t end,
                      std::int64_t window) {
  std::int64_t most = 0;
  for (std::int64_t bag = first; bag < end; bag += window)
    most = std::max(most, offsets[std::min(bag + window, end)] - offsets[bag]);
  return most;
}

}  // namespace

// What all candidates of one request share.
struct Scorer::Viewer {
  explicit Viewer(const Model& model)
      : inputs(model.num_viewer_inputs()), first_layers(model.towers.size()) {
    // Allocates here what would otherwise be allocated on a thread that must not throw.
    for (std::size_t t = 0; t < model.towers.size(); ++t)
      model.towers[t].mlp->PrepareShared(inputs.span(), first_layers[t]);
  }

  AlignedBuffer<float> inputs;            // [num_viewer_inputs], the viewer's columns of x
  std::vector<SharedInput> first_layers;  // of each tower
  std::vector<std::int64_t> rows;         // of one history bag; has room for the longest
  const float* shared = nullptr;          // [S], as the request gives them
};

// The buffers of one thread.
struct Scorer::Workspace {
  Workspace(const Model& model, std::int64_t capacity_rows)
      : capacity(capacity_rows),
        viewer(model),
        rows(capacity_rows),
        unit_offsets(capacity_rows + 1),
        hashtag_offsets(capacity_rows + 1),
        features(capacity_rows * model.mean.size()),
        leaves(capacity_rows * model.forest->num_trees()),
        leaf_rows(capacity_rows * model.forest->num_trees()),
        leaf_offsets(capacity_rows + 1),
        inputs(capacity_rows * model.num_candidate_inputs()) {
    std::int64_t most_outputs = 0;
    for (const Tower& tower : model.towers) {
      towers.emplace_back(*tower.mlp, capacity_rows);
      most_outputs = std::max(most_outputs, tower.mlp->num_outputs());
    }
    logits = AlignedBuffer<float>(capacity_rows * most_outputs);
    for (std::int64_t i = 0; i <= capacity_rows; ++i) {
      unit_offsets[i] = i;
      leaf_offsets[i] = i * model.forest->num_trees();
    }
  }

  std::int64_t capacity;                        // candidates
  Viewer viewer;                                // used when this thread prepares a request
  AlignedBuffer<std::int64_t> rows;             // [capacity], of one id per candidate
  AlignedBuffer<std::int64_t> unit_offsets;     // 0, 1, 2, ...: bags of one id
  AlignedBuffer<std::int64_t> hashtag_offsets;  // [capacity + 1], from 0
  std::vector<std::int64_t> hashtag_rows;       // has room for the longest mini-batch
  AlignedBuffer<float> features;                // [capacity, S + F]
  AlignedBuffer<std::int32_t> leaves;           // [capacity, trees]
  AlignedBuffer<std::int64_t> leaf_rows;        // [capacity, trees]
  AlignedBuffer<std::int64_t> leaf_offsets;     // [capacity + 1]
  AlignedBuffer<float> inputs;                  // [capacity, num_candidate_inputs]
  AlignedBuffer<float> logits;                  // [capacity, outputs of a tower]
  std::vector<GatedMlpWorkspace> towers;
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
      workspace->viewer.rows.reserve(static_cast<std::size_t>(history_keys));
      workspace->hashtag_rows.reserve(static_cast<std::size_t>(hashtag_keys));
      idle_.push_back(std::move(workspace));
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    const std::lock_guard<std::mutex> lock(scorer_.mutex_);
    for (std::unique_ptr<Workspace>& workspace : idle_) {
      try {
        scorer_.free_.push_back(std::move(workspace));
      } catch (const std::bad_alloc&) {
        return;  // the rest is freed with idle_
      }
    }
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

 private:
  // A free workspace of at least this capacity; smaller ones are dropped on the way.
  std::unique_ptr<Workspace> Reuse(std::int64_t capacity) {
    const std::lock_guard<std::mutex> lock(scorer_.mutex_);
    while (!scorer_.free_.empty()) {
      std::unique_ptr<Workspace> workspace = std::move(scorer_.free_.back());
      scorer_.free_.pop_back();
      if (workspace->capacity >= capacity) return workspace;
    }
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

void Scorer::PrepareViewer(const RequestBatch& batch, std::int64_t r, Viewer& viewer) const {
  float* x = viewer.inputs.data();
  const auto pool_keys = [&viewer, &x](const mph::Vocabulary& vocabulary, const Table& table,
                                       const mph::KeySource* keys, std::int64_t begin,
                                       std::int64_t end) {
    viewer.rows.resize(static_cast<std::size_t>(end - begin));
    LookupRows(vocabulary, keys, begin, viewer.rows);
    const std::int64_t offsets[] = {0, end - begin};
    Pool(table, viewer.rows, {offsets, 2}, Pooling::kMean, x, table.dim);
    x += table.dim;
  };
  const Model& m = model_;
  pool_keys(*m.member_vocabulary, m.member_table, batch.viewer, r, r + 1);
  pool_keys(*m.member_vocabulary, m.member_table, batch.history_members,
            batch.history_member_offsets[r], batch.history_member_offsets[r + 1]);
  pool_keys(*m.hashtag_vocabulary, m.hashtag_table, batch.history_hashtags,
            batch.history_hashtag_offsets[r], batch.history_hashtag_offsets[r + 1]);
  const Span<const float> shared = batch.shared.subspan(r * m.num_shared, m.num_shared);
  Normalize(shared, m.mean.subspan(0, m.num_shared), m.inv_std.subspan(0, m.num_shared), x);
  viewer.shared = shared.data();
  for (std::size_t t = 0; t < m.towers.size(); ++t)
    m.towers[t].mlp->PrepareShared(viewer.inputs.span(), viewer.first_layers[t]);
}

void Scorer::ScoreCandidates(const RequestBatch& batch, const Viewer& viewer, std::int64_t begin,
                             std::int64_t end, Span<const float> coefficients, const Scores& scores,
                             Workspace& workspace) const {
  const Model& m = model_;
  const std::int64_t rows = end - begin;
  const std::int64_t stride = m.num_candidate_inputs();
  const std::int64_t num_objectives = m.num_objectives();
  float* x = workspace.inputs.data();

  const Span<std::int64_t> ids = workspace.rows.span().subspan(0, rows);
  const Span<const std::int64_t> unit_offsets = workspace.unit_offsets.span().subspan(0, rows + 1);
  for (const mph::KeySource* keys : {batch.actor, batch.root_actor}) {
    LookupRows(*m.member_vocabulary, keys, begin, ids);
    Pool(m.member_table, ids, unit_offsets, Pooling::kSum, x, stride);
    x += m.member_table.dim;
  }

  const std::int64_t first_hashtag = batch.hashtag_offsets[begin];
  workspace.hashtag_rows.resize(
      static_cast<std::size_t>(batch.hashtag_offsets[end] - first_hashtag));
  LookupRows(*m.hashtag_vocabulary, batch.hashtags, first_hashtag, workspace.hashtag_rows);
  for (std::int64_t i = 0; i <= rows; ++i)
    workspace.hashtag_offsets[i] = batch.hashtag_offsets[begin + i] - first_hashtag;
  Pool(m.hashtag_table, workspace.hashtag_rows,
       workspace.hashtag_offsets.span().subspan(0, rows + 1), Pooling::kMean, x, stride);
  x += m.hashtag_table.dim;

  const std::int64_t num_features = m.mean.size();
  const std::int64_t num_dense = m.num_dense();
  const float* dense = batch.dense.data() + begin * num_dense;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* features = workspace.features.data() + i * num_features;
    std::copy_n(viewer.shared, m.num_shared, features);
    std::copy_n(dense + i * num_dense, num_dense, features + m.num_shared);
  }
  m.forest->Encode(workspace.features.data(), rows, num_features, workspace.leaves.data());
  const std::int64_t num_leaves = rows * m.forest->num_trees();
  std::copy_n(workspace.leaves.data(), num_leaves, workspace.leaf_rows.data());
  Pool(m.leaf_table, workspace.leaf_rows.span().subspan(0, num_leaves),
       workspace.leaf_offsets.span().subspan(0, rows + 1), Pooling::kSqrtN, x, stride);
  x += m.leaf_table.dim;

  for (std::int64_t i = 0; i < rows; ++i)
    Normalize({dense + i * num_dense, num_dense}, m.mean.subspan(m.num_shared, num_dense),
              m.inv_std.subspan(m.num_shared, num_dense), x + i * stride);

  float* probabilities = scores.probabilities.data() + begin * num_objectives;
  for (std::size_t t = 0; t < m.towers.size(); ++t) {
    const Tower& tower = m.towers[t];
    const std::int64_t outputs = tower.mlp->num_outputs();
    tower.mlp->ForwardShared(viewer.first_layers[t], workspace.inputs.data(), rows, stride,
                             workspace.logits.data(), outputs, workspace.towers[t]);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < outputs; ++j)
        probabilities[i * num_objectives + tower.objectives[static_cast<std::size_t>(j)]] =
            workspace.logits[i * outputs + j];
  }

  if (m.random_effects.vocabulary != nullptr) {
    LookupRows(*m.random_effects.vocabulary, batch.item, begin, ids);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t k = 0; k < num_objectives; ++k)
        probabilities[i * num_objectives + k] +=
            m.random_effects.coefficients[ids[i] * num_objectives + k];
  }
  Sigmoid({probabilities, rows * num_objectives});
  for (std::int64_t k = 0; k < num_objectives; ++k) {
    const Calibrator& calibrator = m.calibrators[static_cast<std::size_t>(k)];
    if (calibrator.is_identity()) continue;
    for (std::int64_t i = 0; i < rows; ++i)
      probabilities[i * num_objectives + k] = calibrator(probabilities[i * num_objectives + k]);
  }
  ScoreUtility(coefficients, probabilities, scores.score.subspan(begin, rows));
}

Status Scorer::Score(const RequestBatch& batch, const Tradeoff& tradeoff,
                     const ScoreOptions& options, const Scores& scores) const {
  FEEDFAST_RETURN_IF_ERROR(ValidateBatch(batch, model_.num_shared, model_.num_dense()));
  FEEDFAST_RETURN_IF_ERROR(ValidateTradeoff(tradeoff, model_.num_objectives()));
  if (options.threads < 1) return InvalidArgument("threads = ", options.threads, "; must be >= 1");
  if (options.mini_batch < 1 || options.mini_batch > kMaxMiniBatch)
    return InvalidArgument("mini_batch = ", options.mini_batch, "; allowed: 1 to ", kMaxMiniBatch);
  if (options.top_k < 0) return InvalidArgument("top_k = ", options.top_k, "; must be >= 0");

  const std::int64_t num_requests = batch.num_requests();
  [[maybe_unused]] const std::int64_t num_candidates = batch.num_candidates();
  assert(scores.probabilities.size() == num_candidates * model_.num_objectives());
  assert(scores.score.size() == num_candidates && scores.order.size() == num_candidates);
  std::vector<float> coefficients(model_.groups.size());
  UtilityCoefficients(model_.groups, tradeoff, coefficients);

  std::int64_t most_candidates = 0;
  for (std::int64_t r = 0; r < num_requests; ++r)
    most_candidates =
        std::max(most_candidates, batch.candidate_offsets[r + 1] - batch.candidate_offsets[r]);
  // One request is split over the threads; several are dealt out whole.
  const bool split = num_requests == 1;
  const std::int64_t mini_batch =
      split ? std::clamp<std::int64_t>(CeilDivide(most_candidates, options.threads), 1,
                                       options.mini_batch)
            : options.mini_batch;
  const std::int64_t tasks = split ? CeilDivide(most_candidates, mini_batch) : num_requests;
  const std::int64_t history_keys =
      std::max({std::int64_t{1}, MostKeys(batch.history_member_offsets, 0, num_requests, 1),
                MostKeys(batch.history_hashtag_offsets, 0, num_requests, 1)});
  std::int64_t hashtag_keys = 0;
  for (std::int64_t r = 0; r < num_requests; ++r)
    hashtag_keys =
        std::max(hashtag_keys, MostKeys(batch.hashtag_offsets, batch.candidate_offsets[r],
                                        batch.candidate_offsets[r + 1], mini_batch));
  Lease lease(*this, std::clamp<std::int64_t>(tasks, 1, options.threads), options.mini_batch,
              history_keys, hashtag_keys);

  const auto order_request = [&](std::int64_t r) {
    const std::int64_t begin = batch.candidate_offsets[r];
    const std::int64_t size = batch.candidate_offsets[r + 1] - begin;
    OrderByScore(scores.score.subspan(begin, size), options.top_k,
                 scores.order.subspan(begin, size));
  };
  if (split) {
    // Stays as it is while its workspace scores candidates.
    Viewer& viewer = lease.first().viewer;
    PrepareViewer(batch, 0, viewer);
    ParallelFor(most_candidates, mini_batch, options.threads,
                [&](std::int64_t begin, std::int64_t end) {
                  lease.Use([&](Workspace& workspace) {
                    ScoreCandidates(batch, viewer, begin, end, coefficients, scores, workspace);
                  });
                });
    order_request(0);
    return OkStatus();
  }
  ParallelFor(num_requests, 1, options.threads, [&](std::int64_t r, std::int64_t) {
    lease.Use([&](Workspace& workspace) {
      PrepareViewer(batch, r, workspace.viewer);
      const std::int64_t last = batch.candidate_offsets[r + 1];
      for (std::int64_t begin = batch.candidate_offsets[r]; begin < last; begin += mini_batch)
        ScoreCandidates(batch, workspace.viewer, begin, std::min(begin + mini_batch, last),
                        coefficients, scores, workspace);
    });
    order_request(r);
  });
  return OkStatus();
}

}  // namespace feedfast::scorer
