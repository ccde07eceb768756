#ifndef FEEDFAST_CPP_SCORER_REQUEST_H_
#define FEEDFAST_CPP_SCORER_REQUEST_H_

#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"

namespace feedfast::scorer {

// Any number of feed requests, as columns that somebody else owns. Request r has the candidates
// candidate_offsets[r] up to, but not including, candidate_offsets[r + 1]. Keys may be any bytes;
// those that a vocabulary does not know get its row 0, and so do all of a source that is nullptr;
// the bags of such a source are empty. Float features are NaN where missing.
struct RequestBatch {
  Span<const std::int64_t> candidate_offsets;  // [requests + 1], ascending from 0

  // Per request.
  const mph::KeySource* viewer = nullptr;            // [requests]
  const mph::KeySource* history_members = nullptr;   // bags by history_member_offsets
  Span<const std::int64_t> history_member_offsets;   // [requests + 1]
  const mph::KeySource* history_hashtags = nullptr;  // bags by history_hashtag_offsets
  Span<const std::int64_t> history_hashtag_offsets;  // [requests + 1]
  Span<const float> shared;                          // [requests, S]
  // [requests], which of the call's trade-offs; empty: the first.
  Span<const std::int64_t> tradeoff_of;

  // Per candidate.
  const mph::KeySource* item = nullptr;        // [candidates]; read for random effects alone
  const mph::KeySource* actor = nullptr;       // [candidates]
  const mph::KeySource* root_actor = nullptr;  // [candidates]
  const mph::KeySource* hashtags = nullptr;    // bags by hashtag_offsets
  Span<const std::int64_t> hashtag_offsets;    // [candidates + 1]
  Span<const float> dense;                     // [candidates, F]

  std::int64_t num_requests() const noexcept { return candidate_offsets.size() - 1; }
  std::int64_t num_candidates() const noexcept {
    return candidate_offsets[candidate_offsets.size() - 1];
  }
};

// Ok when every column has the length that the others and a model with these float features ask
// for, offsets start at 0, never fall and end at the number of keys (0 for bags of nullptr), and
// tradeoff_of[r] is in [0, num_tradeoffs). InvalidArgument otherwise: argument, position, value and
// limit.
Status ValidateBatch(const RequestBatch& batch, std::int64_t num_shared, std::int64_t num_dense,
                     std::int64_t num_tradeoffs = 1);

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_REQUEST_H_
