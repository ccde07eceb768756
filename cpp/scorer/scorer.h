#ifndef FEEDFAST_CPP_SCORER_SCORER_H_
#define FEEDFAST_CPP_SCORER_SCORER_H_

#include <cstdint>
#include <memory>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/scorer/inputs.h"
#include "cpp/scorer/model.h"
#include "cpp/scorer/object_pool.h"
#include "cpp/scorer/request.h"
#include "cpp/scorer/stage_times.h"
#include "cpp/scorer/utility.h"

namespace feedfast::scorer {

inline constexpr std::int64_t kMaxMiniBatch = 4096;

// Mini-batch for one request of so many candidates. Requires candidates >= 0, threads >= 1.
std::int64_t DefaultMiniBatch(std::int64_t candidates, int threads);

struct ScoreOptions {
  int threads = 1;
  // Candidates that go through the towers together, at most, 1 to kMaxMiniBatch; 0: chosen by
  // DefaultMiniBatch. Decides speed alone.
  std::int64_t mini_batch = 0;
  // How many places of each request's order are wanted.
  std::int64_t top_k = std::int64_t{1} << 62;
  // What the scores leave out.
  WithoutGroups without;
};

// Where scores go; arrays of the caller.
struct Scores {
  Span<float> probabilities;  // [candidates, objectives], row-major
  Span<float> score;          // [candidates], utility
  // [candidates]: for request r, from candidate_offsets[r] on, the positions of its candidates
  // within the request in the order of OrderByScore.
  Span<std::int64_t> order;
  // What the call takes is added to it, but for the starting of threads; nullptr: not measured.
  StageTimes* times = nullptr;
};

// Scores feed requests with one model, from strings to order. For each candidate:
//   x = viewer row | mean of history member rows | mean of history hashtag rows | normalised shared
//       | actor row | root actor row | mean of hashtag rows | sqrtn of leaf rows | normalised dense
//   p_k = calibrator_k(sigmoid(tower(x)_k + effects[item, k]))
//   score = utility of p (Tradeoff)
// where the leaves are those of the forest on [shared, dense]; with a cross network x is what comes
// out of it. What all candidates of a request share, the first layers' part of it included, is
// computed once per request, but for a cross network, which leaves nothing shared.
//
// Numerics: on one CPU target the bits of a candidate depend on that candidate, its viewer and the
// trade-off alone: not on the other candidates, mini_batch, threads, or the requests around it.
// Score is safe to call from any number of threads, and in a child that was forked at any time.
class Scorer {
 public:
  // The model's parts outlive the scorer. Not ok: ValidateModel.
  static StatusOr<std::unique_ptr<Scorer>> Create(Model model);
  ~Scorer();

  const Model& model() const noexcept { return model_; }

  // One request is split into mini-batches over the threads; several are taken as they come, each
  // by one thread. Request r is scored by tradeoffs[batch.tradeoff_of[r]]. InvalidArgument:
  // ValidateBatch, ValidateTradeoff, no trade-off, options out of range. Requires arrays of
  // `scores` of the lengths given there. Throws std::bad_alloc before anything is scored.
  Status Score(const RequestBatch& batch, Span<const Tradeoff> tradeoffs,
               const ScoreOptions& options, const Scores& scores) const;
  Status Score(const RequestBatch& batch, const Tradeoff& tradeoff, const ScoreOptions& options,
               const Scores& scores) const {
    return Score(batch, {&tradeoff, 1}, options, scores);
  }

 private:
  struct Call;
  struct Viewer;
  struct Workspace;
  class Lease;

  explicit Scorer(Model model);

  // Computes what the candidates of request r share.
  void PrepareViewer(const Call& call, std::int64_t r, Viewer& viewer, StageClock& clock) const;
  // Probabilities and scores of the candidates [begin, end) of request r, at most a mini-batch.
  void ScoreCandidates(const Call& call, std::int64_t r, const Viewer& viewer, std::int64_t begin,
                       std::int64_t end, Workspace& workspace, StageClock& clock) const;
  // Logits of the workspace's inputs, into probabilities [rows, objectives].
  void RunTowers(const Viewer& viewer, std::int64_t rows, float* probabilities,
                 Workspace& workspace) const;
  void OrderRequest(const Call& call, std::int64_t r) const;

  const Model model_;
  mutable ObjectPool<Workspace> free_;  // of finished calls, for the next ones
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_SCORER_H_
