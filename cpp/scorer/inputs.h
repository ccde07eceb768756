#ifndef FEEDFAST_CPP_SCORER_INPUTS_H_
#define FEEDFAST_CPP_SCORER_INPUTS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/scorer/model.h"
#include "cpp/scorer/request.h"
#include "cpp/scorer/stage_times.h"

namespace feedfast::scorer {

// What is known of a candidate and its viewer, in parts that can be left out.
enum class InputGroup {
  kViewer,
  kHistoryMembers,
  kHistoryHashtags,
  kShared,
  kActor,
  kRootActor,
  kHashtags,
  kLeaves,
  kDense,
  kItem,
};

// "viewer", "history_members", "history_hashtags", "shared", "actor", "root_actor", "hashtags",
// "leaves", "dense" or "item".
StatusOr<InputGroup> ParseInputGroup(std::string_view name);

// A set of groups that a score leaves out:
//   viewer, actor, root actor, item    like an id that the vocabulary does not know
//   histories, hashtags                like an empty bag
//   shared, dense                      normalised features are 0, their training mean; the forest
//                                      reads them all the same
//   leaves                             those of a candidate without any feature
class WithoutGroups {
 public:
  WithoutGroups() = default;

  void Add(InputGroup group) noexcept { bits_ |= Bit(group); }
  bool Has(InputGroup group) const noexcept { return (bits_ & Bit(group)) != 0; }

 private:
  static unsigned Bit(InputGroup group) noexcept { return 1U << static_cast<unsigned>(group); }

  unsigned bits_ = 0;
};

// The columns of the towers' input that the candidates of one request share, and the buffers that
// making them takes. Used by one thread at a time.
class ViewerInputs {
 public:
  explicit ViewerInputs(const Model& model) : x_(model.num_viewer_inputs()) {}

  // Makes room for the viewers of requests with at most that many keys in both histories together.
  // Throws std::bad_alloc.
  void Reserve(std::int64_t history_keys) {
    rows_.reserve(static_cast<std::size_t>(history_keys) + 1);
  }

  // Requires a valid batch, 0 <= r < its requests, and room. Ends the stages it goes through.
  void Fill(const Model& model, const RequestBatch& batch, std::int64_t r, WithoutGroups without,
            StageClock& clock) noexcept;

  Span<const float> x() const noexcept { return x_.span(); }  // [num_viewer_inputs]
  // [S], as the request gives them.
  const float* shared() const noexcept { return shared_; }

 private:
  AlignedBuffer<float> x_;
  std::vector<std::int64_t> rows_;  // viewer, history members, history hashtags
  const float* shared_ = nullptr;
};

// The remaining columns, of the candidates of a mini-batch, and the buffers that making them takes.
// Used by one thread at a time.
class CandidateInputs {
 public:
  // For up to `capacity` candidates at a time.
  CandidateInputs(const Model& model, std::int64_t capacity);

  // Makes room for mini-batches with at most that many hashtags. Throws std::bad_alloc.
  void Reserve(std::int64_t hashtag_keys) {
    hashtag_rows_.reserve(static_cast<std::size_t>(hashtag_keys));
  }

  // Requires a valid batch, candidates [begin, end) of one request with these shared features, at
  // most `capacity`, and room. Ends the stages it goes through.
  void Fill(const Model& model, const RequestBatch& batch, const float* shared, std::int64_t begin,
            std::int64_t end, WithoutGroups without, StageClock& clock) noexcept;

  const float* x() const noexcept { return x_.data(); }  // [candidates, num_candidate_inputs]
  // [candidates], of the random effects; none in a model without.
  Span<const std::int64_t> item_rows() const noexcept { return item_rows_.span(); }

 private:
  AlignedBuffer<std::int64_t> member_rows_;      // actors, then root actors
  AlignedBuffer<std::int64_t> item_rows_;        // [capacity], or none
  AlignedBuffer<std::int64_t> unit_offsets_;     // 0, 1, 2, ...: bags of one id
  AlignedBuffer<std::int64_t> hashtag_offsets_;  // [capacity + 1], from 0
  std::vector<std::int64_t> hashtag_rows_;
  AlignedBuffer<float> features_;             // [capacity, S + F], as the request gives them
  AlignedBuffer<std::int32_t> leaves_;        // [capacity, trees]
  AlignedBuffer<std::int64_t> leaf_offsets_;  // [capacity + 1]
  AlignedBuffer<float> x_;                    // [capacity, num_candidate_inputs]
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_INPUTS_H_
