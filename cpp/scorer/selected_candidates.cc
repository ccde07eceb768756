#include "cpp/scorer/selected_candidates.h"

#include <string_view>
#include <utility>

namespace feedfast::scorer {
namespace {

class SelectedKeys final : public mph::KeySource {
 public:
  SelectedKeys(const mph::KeySource& keys, std::vector<std::int64_t> chosen)
      : keys_(keys), chosen_(std::move(chosen)) {}

  std::int64_t size() const noexcept override { return static_cast<std::int64_t>(chosen_.size()); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i)
      keys_.Views(chosen_[static_cast<std::size_t>(begin + i)], views.subspan(i, 1));
  }

 private:
  const mph::KeySource& keys_;
  std::vector<std::int64_t> chosen_;
};

std::unique_ptr<mph::KeySource> SelectKeys(const mph::KeySource* keys,
                                           std::vector<std::int64_t> chosen) {
  if (keys == nullptr) return nullptr;
  return std::make_unique<SelectedKeys>(*keys, std::move(chosen));
}

}  // namespace

StatusOr<SelectedCandidates> SelectedCandidates::Select(const RequestBatch& request,
                                                        Span<const std::int64_t> candidates,
                                                        std::int64_t num_dense) {
  if (request.num_requests() != 1)
    return InvalidArgument("candidates are chosen of 1 request; got ", request.num_requests());
  SelectedCandidates selected(request);
  std::vector<std::int64_t> hashtags;
  selected.hashtag_offsets_.push_back(0);
  for (std::int64_t i = 0; i < candidates.size(); ++i) {
    const std::int64_t c = candidates[i];
    if (c < 0 || c >= request.num_candidates())
      return InvalidArgument("candidates[", i, "] = ", c, "; the request has ",
                             request.num_candidates());
    for (std::int64_t h = request.hashtag_offsets[c]; h < request.hashtag_offsets[c + 1]; ++h)
      hashtags.push_back(h);
    selected.hashtag_offsets_.push_back(static_cast<std::int64_t>(hashtags.size()));
    const float* dense = request.dense.data() + c * num_dense;
    selected.dense_.insert(selected.dense_.end(), dense, dense + num_dense);
  }
  selected.candidate_offsets_ = {0, candidates.size()};
  const std::vector<std::int64_t> chosen(candidates.begin(), candidates.end());
  selected.item_ = SelectKeys(request.item, chosen);
  selected.actor_ = SelectKeys(request.actor, chosen);
  selected.root_actor_ = SelectKeys(request.root_actor, chosen);
  selected.hashtags_ = SelectKeys(request.hashtags, std::move(hashtags));
  return selected;
}

RequestBatch SelectedCandidates::batch() const {
  RequestBatch batch = request_;
  batch.candidate_offsets = candidate_offsets_;
  batch.item = item_.get();
  batch.actor = actor_.get();
  batch.root_actor = root_actor_.get();
  batch.hashtags = hashtags_.get();
  batch.hashtag_offsets = hashtag_offsets_;
  batch.dense = dense_;
  return batch;
}

}  // namespace feedfast::scorer
