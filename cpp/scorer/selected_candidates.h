#ifndef FEEDFAST_CPP_SCORER_SELECTED_CANDIDATES_H_
#define FEEDFAST_CPP_SCORER_SELECTED_CANDIDATES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"
#include "cpp/scorer/request.h"

namespace feedfast::scorer {

// One request with some of another's candidates, in the order of the selection; one may be chosen
// twice. Views the keys of the other, which outlives it, and copies numbers.
class SelectedCandidates {
 public:
  // Requires a valid batch. InvalidArgument: it has not one request, or a candidate is not one of
  // its.
  static StatusOr<SelectedCandidates> Select(const RequestBatch& request,
                                             Span<const std::int64_t> candidates,
                                             std::int64_t num_dense);

  // Views this object.
  RequestBatch batch() const;

 private:
  explicit SelectedCandidates(const RequestBatch& request) : request_(request) {}

  RequestBatch request_;
  std::vector<std::int64_t> candidate_offsets_;
  std::vector<std::int64_t> hashtag_offsets_;
  std::vector<float> dense_;
  std::unique_ptr<mph::KeySource> item_, actor_, root_actor_, hashtags_;
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_SELECTED_CANDIDATES_H_
