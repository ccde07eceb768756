#include "cpp/scorer/inputs.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "cpp/embedding_kernels/grouped_lookup.h"

namespace feedfast::scorer {
namespace {

using embedding_kernels::GroupedPooledLookupRange;
using embedding_kernels::PooledFeature;
using embedding_kernels::Pooling;

constexpr std::string_view kGroupNames[] = {
    "viewer",     "history_members", "history_hashtags", "shared", "actor",
    "root_actor", "hashtags",        "leaves",           "dense",  "item",
};

// A part of a source; of nullptr, unknown keys.
struct KeyRange {
  const mph::KeySource* keys = nullptr;
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

// Two ranges, one after the other.
class JoinedKeys final : public mph::KeySource {
 public:
  JoinedKeys(const KeyRange& first, const KeyRange& second) noexcept
      : first_(first), second_(second) {}

  std::int64_t size() const noexcept override { return first_.size + second_.size; }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    const std::int64_t of_first = std::clamp<std::int64_t>(first_.size - begin, 0, views.size());
    if (of_first > 0) first_.keys->Views(first_.begin + begin, views.subspan(0, of_first));
    if (of_first < views.size())
      second_.keys->Views(second_.begin + begin + of_first - first_.size,
                          views.subspan(of_first, views.size() - of_first));
  }

 private:
  KeyRange first_;
  KeyRange second_;
};

// Rows of a range; 0 for all when there is no source.
void LookupRows(const mph::Vocabulary& vocabulary, const KeyRange& range,
                Span<std::int64_t> rows) noexcept {
  if (range.keys == nullptr)
    std::fill(rows.begin(), rows.end(), std::int64_t{0});
  else
    vocabulary.Lookup(*range.keys, range.begin, rows);
}

// Rows of two ranges behind each other, in one go where both have a source.
void LookupRows(const mph::Vocabulary& vocabulary, const KeyRange& first, const KeyRange& second,
                Span<std::int64_t> rows) noexcept {
  if (first.keys != nullptr && second.keys != nullptr)
    return vocabulary.Lookup(JoinedKeys(first, second), 0, rows);
  LookupRows(vocabulary, first, rows.subspan(0, first.size));
  LookupRows(vocabulary, second, rows.subspan(first.size, second.size));
}

}  // namespace

StatusOr<InputGroup> ParseInputGroup(std::string_view name) {
  int group = 0;
  for (const std::string_view known : kGroupNames) {
    if (name == known) return static_cast<InputGroup>(group);
    ++group;
  }
  return InvalidArgument("group '", name,
                         "' is unknown; allowed: viewer, history_members, history_hashtags, "
                         "shared, actor, root_actor, hashtags, leaves, dense, item");
}

void ViewerInputs::Fill(const Model& m, const RequestBatch& batch, std::int64_t r,
                        WithoutGroups without, StageClock& clock) noexcept {
  const auto bag = [&](InputGroup group, const mph::KeySource* keys,
                       Span<const std::int64_t> offsets) {
    return without.Has(group) ? KeyRange{}
                              : KeyRange{keys, offsets[r], offsets[r + 1] - offsets[r]};
  };
  const KeyRange viewer = {without.Has(InputGroup::kViewer) ? nullptr : batch.viewer, r, 1};
  const KeyRange members =
      bag(InputGroup::kHistoryMembers, batch.history_members, batch.history_member_offsets);
  const KeyRange hashtags =
      bag(InputGroup::kHistoryHashtags, batch.history_hashtags, batch.history_hashtag_offsets);
  rows_.resize(static_cast<std::size_t>(1 + members.size + hashtags.size));
  const Span<std::int64_t> rows(rows_);
  LookupRows(*m.member_vocabulary, viewer, members, rows.subspan(0, 1 + members.size));
  LookupRows(*m.hashtag_vocabulary, hashtags, rows.subspan(1 + members.size, hashtags.size));
  clock.EndOf(Stage::kStrings);

  const std::int64_t offsets[] = {0, 1, 0, members.size, 0, hashtags.size};
  const std::int64_t dim = m.member_table.dim;
  const PooledFeature features[] = {
      {m.member_table, {rows.subspan(0, 1), Span(offsets, 2)}, Pooling::kMean, 0},
      {m.member_table, {rows.subspan(1, members.size), Span(offsets + 2, 2)}, Pooling::kMean, dim},
      {m.hashtag_table,
       {rows.subspan(1 + members.size, hashtags.size), Span(offsets + 4, 2)},
       Pooling::kMean,
       2 * dim},
  };
  GroupedPooledLookupRange({features, 3}, x_.data(), x_.size(), 0, 1);
  clock.EndOf(Stage::kLookups);

  const Span<const float> shared = batch.shared.subspan(r * m.num_shared, m.num_shared);
  shared_ = shared.data();
  float* x = x_.data() + 2 * dim + m.hashtag_table.dim;
  if (without.Has(InputGroup::kShared))
    std::fill_n(x, m.num_shared, 0.0f);
  else
    Normalize(shared, m.mean.subspan(0, m.num_shared), m.inv_std.subspan(0, m.num_shared), x);
  clock.EndOf(Stage::kRest);
}

CandidateInputs::CandidateInputs(const Model& model, std::int64_t capacity)
    : member_rows_(2 * capacity),
      item_rows_(model.random_effects.vocabulary == nullptr ? 0 : capacity),
      unit_offsets_(capacity + 1),
      hashtag_offsets_(capacity + 1),
      features_(capacity * model.mean.size()),
      leaves_(capacity * model.forest->num_trees()),
      leaf_offsets_(capacity + 1),
      x_(capacity * model.num_candidate_inputs()) {
  for (std::int64_t i = 0; i <= capacity; ++i) {
    unit_offsets_[i] = i;
    leaf_offsets_[i] = i * model.forest->num_trees();
  }
}

void CandidateInputs::Fill(const Model& m, const RequestBatch& batch, const float* shared,
                           std::int64_t begin, std::int64_t end, WithoutGroups without,
                           StageClock& clock) noexcept {
  const std::int64_t rows = end - begin;
  const auto ids = [&](InputGroup group, const mph::KeySource* keys) {
    return KeyRange{without.Has(group) ? nullptr : keys, begin, rows};
  };
  const Span<std::int64_t> member_rows = member_rows_.span().subspan(0, 2 * rows);
  LookupRows(*m.member_vocabulary, ids(InputGroup::kActor, batch.actor),
             ids(InputGroup::kRootActor, batch.root_actor), member_rows);
  const std::int64_t first_hashtag = batch.hashtag_offsets[begin];
  const std::int64_t num_hashtags =
      without.Has(InputGroup::kHashtags) ? 0 : batch.hashtag_offsets[end] - first_hashtag;
  hashtag_rows_.resize(static_cast<std::size_t>(num_hashtags));
  LookupRows(*m.hashtag_vocabulary, KeyRange{batch.hashtags, first_hashtag, num_hashtags},
             hashtag_rows_);
  if (m.random_effects.vocabulary != nullptr)
    LookupRows(*m.random_effects.vocabulary, ids(InputGroup::kItem, batch.item),
               item_rows_.span().subspan(0, rows));
  clock.EndOf(Stage::kStrings);

  const std::int64_t num_features = m.mean.size();
  const std::int64_t num_dense = m.num_dense();
  const float* dense = batch.dense.data() + begin * num_dense;
  if (without.Has(InputGroup::kLeaves))
    std::fill_n(features_.data(), rows * num_features, std::numeric_limits<float>::quiet_NaN());
  else
    for (std::int64_t i = 0; i < rows; ++i) {
      float* features = features_.data() + i * num_features;
      std::copy_n(shared, m.num_shared, features);
      std::copy_n(dense + i * num_dense, num_dense, features + m.num_shared);
    }
  m.forest->Encode(features_.data(), rows, num_features, leaves_.data());
  clock.EndOf(Stage::kTrees);

  for (std::int64_t i = 0; i <= rows; ++i)
    hashtag_offsets_[i] = num_hashtags == 0 ? 0 : batch.hashtag_offsets[begin + i] - first_hashtag;
  const Span<const std::int64_t> unit_offsets = unit_offsets_.span().subspan(0, rows + 1);
  const std::int64_t dim = m.member_table.dim;
  const PooledFeature features[] = {
      {m.member_table, {member_rows.subspan(0, rows), unit_offsets}, Pooling::kSum, 0},
      {m.member_table, {member_rows.subspan(rows, rows), unit_offsets}, Pooling::kSum, dim},
      {m.hashtag_table,
       {hashtag_rows_, hashtag_offsets_.span().subspan(0, rows + 1)},
       Pooling::kMean,
       2 * dim},
      {m.leaf_table,
       {leaves_.span().subspan(0, rows * m.forest->num_trees()),
        leaf_offsets_.span().subspan(0, rows + 1)},
       Pooling::kSqrtN,
       2 * dim + m.hashtag_table.dim},
  };
  const std::int64_t stride = m.num_candidate_inputs();
  GroupedPooledLookupRange({features, 4}, x_.data(), stride, 0, rows);
  clock.EndOf(Stage::kLookups);

  float* x = x_.data() + 2 * dim + m.hashtag_table.dim + m.leaf_table.dim;
  const Span<const float> mean = m.mean.subspan(m.num_shared, num_dense);
  const Span<const float> inv_std = m.inv_std.subspan(m.num_shared, num_dense);
  for (std::int64_t i = 0; i < rows; ++i)
    if (without.Has(InputGroup::kDense))
      std::fill_n(x + i * stride, num_dense, 0.0f);
    else
      Normalize({dense + i * num_dense, num_dense}, mean, inv_std, x + i * stride);
  clock.EndOf(Stage::kRest);
}

}  // namespace feedfast::scorer
