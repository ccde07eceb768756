#include "cpp/scorer/request.h"

namespace feedfast::scorer {
namespace {

Status ValidateOffsets(const char* name, Span<const std::int64_t> offsets, std::int64_t num_bags,
                       const char* keys_name, const mph::KeySource* keys) {
  // Unsigned: num_bags may be the greatest int64, as an offset that nothing has bounded yet.
  const std::uint64_t needed = static_cast<std::uint64_t>(num_bags) + 1;
  if (static_cast<std::uint64_t>(offsets.size()) != needed)
    return InvalidArgument(name, " has ", offsets.size(), " values; needs ", needed);
  if (offsets[0] != 0) return InvalidArgument(name, "[0] = ", offsets[0], "; must be 0");
  for (std::int64_t i = 1; i <= num_bags; ++i)
    if (offsets[i] < offsets[i - 1])
      return InvalidArgument(name, "[", i, "] = ", offsets[i], " is below ", name, "[", i - 1,
                             "] = ", offsets[i - 1]);
  if (keys != nullptr && offsets[num_bags] != keys->size())
    return InvalidArgument(name, "[", num_bags, "] = ", offsets[num_bags], "; ", keys_name, " has ",
                           keys->size(), " keys");
  return OkStatus();
}

// As ValidateOffsets; the bags of an absent source are empty.
Status ValidateBags(const char* name, Span<const std::int64_t> offsets, std::int64_t num_bags,
                    const char* keys_name, const mph::KeySource* keys) {
  FEEDFAST_RETURN_IF_ERROR(ValidateOffsets(name, offsets, num_bags, keys_name, keys));
  if (keys != nullptr || offsets[num_bags] == 0) return OkStatus();
  std::int64_t i = 1;
  while (offsets[i] == 0) ++i;
  return InvalidArgument(name, "[", i, "] = ", offsets[i], "; must be 0 without ", keys_name);
}

Status ValidateKeys(const char* name, const mph::KeySource* keys, std::int64_t size,
                    const char* unit) {
  if (keys != nullptr && keys->size() != size)
    return InvalidArgument(name, " has ", keys->size(), " keys; there are ", size, " ", unit);
  return OkStatus();
}

Status ValidateFloats(const char* name, Span<const float> values, std::int64_t rows,
                      std::int64_t columns, const char* unit) {
  if (values.size() != rows * columns)
    return InvalidArgument(name, " has ", values.size(), " values; needs ", columns,
                           " for each of ", rows, " ", unit);
  return OkStatus();
}

Status ValidateTradeoffOf(Span<const std::int64_t> tradeoff_of, std::int64_t requests,
                          std::int64_t num_tradeoffs) {
  if (tradeoff_of.empty()) return OkStatus();
  if (tradeoff_of.size() != requests)
    return InvalidArgument("tradeoff_of has ", tradeoff_of.size(), " values; there are ", requests,
                           " requests");
  for (std::int64_t r = 0; r < requests; ++r)
    if (tradeoff_of[r] < 0 || tradeoff_of[r] >= num_tradeoffs)
      return InvalidArgument("tradeoff_of[", r, "] = ", tradeoff_of[r], "; there are ",
                             num_tradeoffs, " trade-offs");
  return OkStatus();
}

}  // namespace

Status ValidateBatch(const RequestBatch& batch, std::int64_t num_shared, std::int64_t num_dense,
                     std::int64_t num_tradeoffs) {
  if (batch.candidate_offsets.empty()) return InvalidArgument("candidate_offsets is empty");
  const std::int64_t requests = batch.num_requests();
  FEEDFAST_RETURN_IF_ERROR(
      ValidateOffsets("candidate_offsets", batch.candidate_offsets, requests, "item", batch.item));
  const std::int64_t candidates = batch.num_candidates();
  FEEDFAST_RETURN_IF_ERROR(ValidateKeys("viewer", batch.viewer, requests, "requests"));
  FEEDFAST_RETURN_IF_ERROR(ValidateKeys("actor", batch.actor, candidates, "candidates"));
  FEEDFAST_RETURN_IF_ERROR(ValidateKeys("root_actor", batch.root_actor, candidates, "candidates"));
  FEEDFAST_RETURN_IF_ERROR(ValidateBags("history_member_offsets", batch.history_member_offsets,
                                        requests, "history_members", batch.history_members));
  FEEDFAST_RETURN_IF_ERROR(ValidateBags("history_hashtag_offsets", batch.history_hashtag_offsets,
                                        requests, "history_hashtags", batch.history_hashtags));
  FEEDFAST_RETURN_IF_ERROR(ValidateBags("hashtag_offsets", batch.hashtag_offsets, candidates,
                                        "hashtags", batch.hashtags));
  FEEDFAST_RETURN_IF_ERROR(
      ValidateFloats("shared", batch.shared, requests, num_shared, "requests"));
  FEEDFAST_RETURN_IF_ERROR(
      ValidateFloats("dense", batch.dense, candidates, num_dense, "candidates"));
  return ValidateTradeoffOf(batch.tradeoff_of, requests, num_tradeoffs);
}

}  // namespace feedfast::scorer
