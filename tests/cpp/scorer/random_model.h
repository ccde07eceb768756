#ifndef FEEDFAST_TESTS_CPP_SCORER_RANDOM_MODEL_H_
#define FEEDFAST_TESTS_CPP_SCORER_RANDOM_MODEL_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/scorer/reference.h"
#include "cpp/scorer/scorer.h"
#include "tests/cpp/tree_encoder/random_forest.h"

namespace feedfast::scorer {

// A ranker with random weights and everything it views.
class RandomModel {
 public:
  // `precision` is that of the towers but for their heads, and of the cross network.
  explicit RandomModel(unsigned seed, bool with_effects = true,
                       Precision precision = Precision::kFp32, bool with_cross = false)
      : rng_(seed),
        members_(Keys("member", 40)),
        hashtags_(Keys("tag", 15)),
        items_(Keys("item", 12)),
        member_vocabulary_(MakeVocabulary(members_)),
        hashtag_vocabulary_(MakeVocabulary(hashtags_)),
        item_vocabulary_(MakeVocabulary(items_)) {
    const std::vector<std::uint8_t> image =
        tree_encoder::ForestToImage(tree_encoder::RandomForest(rng_, 9, kShared + kDense, 4));
    forest_ = std::make_unique<tree_encoder::LeafEncoder>(
        tree_encoder::LeafEncoder::FromImage(image).value());
    model.member_vocabulary = member_vocabulary_.get();
    model.hashtag_vocabulary = hashtag_vocabulary_.get();
    model.forest = forest_.get();
    model.member_table = MakeTable(member_vocabulary_->num_rows(), 7);
    model.hashtag_table = MakeTable(hashtag_vocabulary_->num_rows(), 5);
    model.leaf_table = MakeTable(forest_->num_leaves(), 3);
    model.num_shared = kShared;
    model.mean = Floats(kShared + kDense, 1.0f);
    model.inv_std = Floats(kShared + kDense, 1.0f);
    model.groups = {Group::kPassive, Group::kActive, Group::kPassive, Group::kOther};
    model.calibrators.resize(4);
    AddTower({0, 2}, Gate::kHidden, precision);
    AddTower({3, 1}, Gate::kInput, precision);
    if (with_cross) AddCross(precision);
    if (with_effects) {
      const Span<float> effects = Floats(item_vocabulary_->num_rows() * 4, 0.5f);
      for (std::int64_t k = 0; k < 4; ++k) effects[k] = 0;
      model.random_effects = {item_vocabulary_.get(), effects};
    }
  }

  // Turns the tables into this format, and the float tables into what they then say.
  void StoreAs(embedding_kernels::RowFormat format) {
    for (embedding_kernels::Table* table :
         {&model.member_table, &model.hashtag_table, &model.leaf_table}) {
      auto* floats = const_cast<float*>(static_cast<const float*>(table->data));
      packed_.push_back(std::make_unique<std::vector<std::uint8_t>>(static_cast<std::size_t>(
          table->num_rows * embedding_kernels::RowBytes(format, table->dim))));
      std::uint8_t* packed = packed_.back()->data();
      if (embedding_kernels::IsQuantized(format)) {
        embedding_kernels::QuantizeRows(floats, table->num_rows, table->dim, format,
                                        embedding_kernels::RangeMethod::kMinMax, packed, 1);
        embedding_kernels::DequantizeRows({packed, table->num_rows, table->dim, format}, floats, 1);
      } else {
        for (std::int64_t i = 0; i < table->num_rows * table->dim; ++i) {
          std::uint32_t bits;
          std::memcpy(&bits, floats + i, sizeof bits);
          const bool is_half = format == embedding_kernels::RowFormat::kFloat16;
          const std::uint16_t stored =
              is_half ? HalfFloor(floats[i]) : static_cast<std::uint16_t>(bits >> 16);
          std::memcpy(packed + 2 * i, &stored, sizeof stored);
          floats[i] = is_half ? HalfToFloat(stored) : Bfloat16ToFloat(stored);
        }
      }
      table->data = packed;
      table->format = format;
    }
  }

  // A request's candidates. Keys are known, unknown, empty or repeated; features may be missing.
  std::vector<reference::Example> Request(std::int64_t candidates) {
    reference::Example viewer;
    viewer.viewer = Key(members_);
    for (int i = Below(6); i > 0; --i) viewer.history_members.push_back(Key(members_));
    for (int i = Below(4); i > 0; --i) viewer.history_hashtags.push_back(Key(hashtags_));
    viewer.features = Features(kShared);
    std::vector<reference::Example> request;
    for (std::int64_t c = 0; c < candidates; ++c) {
      request.push_back(viewer);
      reference::Example& e = request.back();
      e.item = Key(items_);
      e.actor = Key(members_);
      e.root_actor = Below(2) == 0 ? e.actor : Key(members_);
      for (int i = Below(4); i > 0; --i) e.hashtags.push_back(Key(hashtags_));
      const std::vector<float> dense = Features(kDense);
      e.features.insert(e.features.end(), dense.begin(), dense.end());
    }
    return request;
  }

  static constexpr std::int64_t kShared = 4;
  static constexpr std::int64_t kDense = 6;

  Model model;
  reference::TowerLayers towers;
  std::vector<CrossLayer> cross;

 private:
  int Below(int end) { return static_cast<int>(rng_() % static_cast<unsigned>(end)); }

  static std::vector<std::string> Keys(const std::string& prefix, int count) {
    std::vector<std::string> keys;
    keys.reserve(static_cast<std::size_t>(count) + 1);
    for (int i = 0; i < count; ++i) keys.push_back("urn:" + prefix + ":" + std::to_string(i));
    keys.emplace_back("\xff\x00not utf-8", 11);
    return keys;
  }
  std::string Key(const std::vector<std::string>& known) {
    const int kind = Below(8);
    if (kind == 0) return "unknown" + std::to_string(rng_());
    if (kind == 1) return "";
    return known[static_cast<std::size_t>(Below(static_cast<int>(known.size())))];
  }
  std::vector<float> Features(std::int64_t size) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < size; ++i) {
      const int kind = Below(12);
      values.push_back(kind == 0   ? std::numeric_limits<float>::quiet_NaN()
                       : kind == 1 ? 1e9f
                                   : 0.25f * static_cast<float>(Below(17) - 8));
    }
    return values;
  }

  Span<float> Floats(std::int64_t size, float scale) {
    std::normal_distribution<float> normal(0, scale);
    floats_.push_back(std::make_unique<std::vector<float>>(static_cast<std::size_t>(size)));
    for (float& value : *floats_.back()) value = normal(rng_);
    return *floats_.back();
  }
  embedding_kernels::Table MakeTable(std::int64_t rows, std::int64_t dim) {
    return {Floats(rows * dim, 1.0f).data(), rows, dim, embedding_kernels::RowFormat::kFloat32};
  }
  static std::unique_ptr<mph::Vocabulary> MakeVocabulary(const std::vector<std::string>& keys) {
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    return std::make_unique<mph::Vocabulary>(mph::Vocabulary::Build(views, {}).value());
  }
  WeightView Stored(Span<const float> weights, std::int64_t columns, Precision precision) {
    if (precision == Precision::kBf16) {
      bf16_.push_back(
          std::make_unique<std::vector<std::uint16_t>>(static_cast<std::size_t>(weights.size())));
      RoundToBf16(weights, *bf16_.back());
      return WeightView::Bf16(*bf16_.back());
    }
    if (precision == Precision::kInt8) {
      int8_.push_back(
          std::make_unique<std::vector<std::int8_t>>(static_cast<std::size_t>(weights.size())));
      floats_.push_back(std::make_unique<std::vector<float>>(static_cast<std::size_t>(columns)));
      const Span<float> scales = *floats_.back();
      EXPECT_TRUE(QuantizeColumns(weights, *int8_.back(), scales).ok());
      return WeightView::Int8(*int8_.back(), scales);
    }
    return weights;
  }
  void AddTower(std::vector<std::int64_t> objectives, Gate gate, Precision precision) {
    std::vector<GatedLayer> layers;
    std::int64_t in = model.num_viewer_inputs() + model.num_candidate_inputs();
    for (const std::int64_t out : {std::int64_t{19}, std::int64_t{8}}) {
      GatedLayer layer;
      layer.in = in;
      layer.out = out;
      layer.gate = gate;
      const float scale = 1.0f / std::sqrt(static_cast<float>(in));
      layer.weight = Stored(Floats(in * out, scale), out, precision);
      layer.bias = Floats(out, 0.1f);
      layer.gate_weight =
          Stored(Floats((gate == Gate::kHidden ? out : in) * out, scale), out, precision);
      layer.gate_bias = Floats(out, 0.1f);
      layers.push_back(layer);
      in = out;
    }
    GatedLayer head;
    head.in = in;
    head.out = static_cast<std::int64_t>(objectives.size());
    head.activation = Activation::kLinear;
    head.weight = Floats(in * head.out, 1.0f);
    head.bias = Floats(head.out, 1.0f);
    layers.push_back(head);
    mlps_.push_back(
        std::make_unique<GatedMlp>(GatedMlp::Create(layers, model.num_viewer_inputs()).value()));
    model.towers.push_back({mlps_.back().get(), std::move(objectives)});
    towers.push_back(std::move(layers));
  }

  // A low-rank layer and one of full rank.
  void AddCross(Precision precision) {
    const std::int64_t size = model.num_viewer_inputs() + model.num_candidate_inputs();
    const float scale = 0.3f / std::sqrt(static_cast<float>(size));
    for (const std::int64_t rank : {std::int64_t{5}, std::int64_t{0}}) {
      CrossLayer layer;
      layer.size = size;
      layer.rank = rank;
      if (rank > 0) layer.down = Stored(Floats(size * rank, 0.1f), rank, precision);
      const std::int64_t rows = rank > 0 ? rank : size;
      layer.weight = Stored(Floats(rows * size, scale), size, precision);
      layer.bias = Floats(size, 0.1f);
      cross.push_back(layer);
    }
    cross_ = std::make_unique<CrossNetwork>(CrossNetwork::Create(cross).value());
    model.cross = cross_.get();
  }

  std::mt19937 rng_;
  std::vector<std::string> members_;
  std::vector<std::string> hashtags_;
  std::vector<std::string> items_;
  std::unique_ptr<mph::Vocabulary> member_vocabulary_;
  std::unique_ptr<mph::Vocabulary> hashtag_vocabulary_;
  std::unique_ptr<mph::Vocabulary> item_vocabulary_;
  std::unique_ptr<tree_encoder::LeafEncoder> forest_;
  std::vector<std::unique_ptr<std::vector<float>>> floats_;
  std::vector<std::unique_ptr<std::vector<std::uint8_t>>> packed_;
  std::vector<std::unique_ptr<std::vector<std::uint16_t>>> bf16_;
  std::vector<std::unique_ptr<std::vector<std::int8_t>>> int8_;
  std::vector<std::unique_ptr<GatedMlp>> mlps_;
  std::unique_ptr<CrossNetwork> cross_;
};

// Requests as the columns of a batch.
class Columns {
 public:
  explicit Columns(const std::vector<std::vector<reference::Example>>& requests) {
    for (const std::vector<reference::Example>& request : requests) {
      // A request without candidates still has a viewer.
      const reference::Example first = request.empty() ? reference::Example() : request.front();
      strings_[0].push_back(first.viewer);
      Append(first.history_members, strings_[1], history_member_offsets_);
      Append(first.history_hashtags, strings_[2], history_hashtag_offsets_);
      for (std::size_t i = 0; i < static_cast<std::size_t>(RandomModel::kShared); ++i)
        shared_.push_back(request.empty() ? 0.0f : first.features[i]);
      for (const reference::Example& e : request) {
        strings_[3].push_back(e.item);
        strings_[4].push_back(e.actor);
        strings_[5].push_back(e.root_actor);
        Append(e.hashtags, strings_[6], hashtag_offsets_);
        dense_.insert(dense_.end(), e.features.begin() + RandomModel::kShared, e.features.end());
      }
      candidate_offsets_.push_back(static_cast<std::int64_t>(strings_[3].size()));
    }
    for (std::size_t i = 0; i < kColumns; ++i) {
      views_[i].assign(strings_[i].begin(), strings_[i].end());
      sources_.push_back(std::make_unique<mph::SpanKeys>(views_[i]));
    }
  }

  RequestBatch batch() const {
    RequestBatch batch;
    batch.candidate_offsets = candidate_offsets_;
    batch.viewer = sources_[0].get();
    batch.history_members = sources_[1].get();
    batch.history_member_offsets = history_member_offsets_;
    batch.history_hashtags = sources_[2].get();
    batch.history_hashtag_offsets = history_hashtag_offsets_;
    batch.shared = shared_;
    batch.item = sources_[3].get();
    batch.actor = sources_[4].get();
    batch.root_actor = sources_[5].get();
    batch.hashtags = sources_[6].get();
    batch.hashtag_offsets = hashtag_offsets_;
    batch.dense = dense_;
    return batch;
  }

 private:
  static constexpr std::size_t kColumns = 7;

  static void Append(const std::vector<std::string>& keys, std::vector<std::string>& column,
                     std::vector<std::int64_t>& offsets) {
    column.insert(column.end(), keys.begin(), keys.end());
    offsets.push_back(static_cast<std::int64_t>(column.size()));
  }

  std::vector<std::string> strings_[kColumns];
  std::vector<std::string_view> views_[kColumns];
  std::vector<std::unique_ptr<mph::SpanKeys>> sources_;
  std::vector<std::int64_t> candidate_offsets_{0};
  std::vector<std::int64_t> history_member_offsets_{0};
  std::vector<std::int64_t> history_hashtag_offsets_{0};
  std::vector<std::int64_t> hashtag_offsets_{0};
  std::vector<float> shared_;
  std::vector<float> dense_;
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_TESTS_CPP_SCORER_RANDOM_MODEL_H_
