#include "cpp/tree_encoder/xgboost_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <string_view>

#include "tests/cpp/tree_encoder/test_data.h"

namespace feedfast::tree_encoder {
namespace {

constexpr unsigned kSeed = 20'240'603;

Bytes AsBytes(std::string_view text) { return Bytes(text.begin(), text.end()); }

std::string Replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// One tree of two splits and three leaves, node ids out of order.
const char* const kModel = R"({
 "learner": {
  "gradient_booster": {
   "model": {
    "gbtree_model_param": {"num_trees": "1"},
    "trees": [{
     "left_children":  [4, -1, -1, -1, 3],
     "right_children": [2, -1, -1, -1, 1],
     "split_indices": [1, 0, 0, 0, 0],
     "split_conditions": [5E-1, 1, 2, 3, 1.00000003e-1],
     "default_left": [1, 0, 0, 0, 0],
     "split_type": [0, 0, 0, 0, 0],
     "tree_param": {"num_nodes": "5", "num_deleted": "0"}
    }]
   },
   "name": "gbtree"
  },
  "learner_model_param": {"num_feature": "2"}
 },
 "version": [3, 2, 0]
})";

TEST(XgboostModelTest, NumbersLeavesByNodeId) {
  const StatusOr<Forest> forest = ReadXgboostModel(AsBytes(kModel));
  ASSERT_TRUE(forest.ok()) << forest.status().message();
  EXPECT_EQ(forest->num_features, 2);
  EXPECT_EQ(forest->leaf_offsets, (std::vector<std::int32_t>{0, 3}));
  ASSERT_EQ(forest->splits.size(), 2U);
  EXPECT_EQ(forest->splits[0].left, 1);    // node 4 is the second split
  EXPECT_EQ(forest->splits[0].right, ~1);  // node 2 is the second leaf
  EXPECT_EQ(forest->splits[0].threshold, 0.5F);
  EXPECT_EQ(forest->splits[0].default_left, 1);
  EXPECT_EQ(forest->splits[1].left, ~2);   // node 3
  EXPECT_EQ(forest->splits[1].right, ~0);  // node 1
  EXPECT_EQ(forest->splits[1].threshold, 0.1F);
  EXPECT_TRUE(ValidateForest(forest.value()).ok());
}

TEST(XgboostModelTest, ThresholdsAreRoundedToFloatOnce) {
  // Just above the middle of two floats: through a double it would become the middle, and then the
  // even one of the two, 1.
  const std::string text = Replaced(kModel, "5E-1", "1.0000000596046447753906250000000001");
  const StatusOr<Forest> forest = ReadXgboostModel(AsBytes(text));
  ASSERT_TRUE(forest.ok());
  EXPECT_EQ(forest->splits[0].threshold, std::nextafter(1.0F, 2.0F));
}

TEST(XgboostModelTest, JsonAndUbjsonOfOneModelGiveTheGoldenImage) {
  const Bytes golden = ReadTestData("forest_v1.bin");
  for (const char* const name : {"forest_v1.json", "forest_v1.ubj"}) {
    const StatusOr<Forest> forest = ReadXgboostModel(ReadTestData(name));
    ASSERT_TRUE(forest.ok()) << forest.status().message();
    EXPECT_TRUE(ValidateForest(forest.value()).ok());
    EXPECT_EQ(ForestToImage(forest.value()), golden) << name;
  }
}

// kModel with node 0 split by categories 40 and 3, and node 4 by none.
std::string CategoricalModel() {
  return Replaced(kModel, "\"split_type\": [0, 0, 0, 0, 0]",
                  "\"split_type\": [1, 0, 0, 0, 1], \"categories\": [40, 3], "
                  "\"categories_nodes\": [0, 4], \"categories_segments\": [0, 2], "
                  "\"categories_sizes\": [2, 0]");
}

TEST(XgboostModelTest, CategoriesBecomeSets) {
  const StatusOr<Forest> forest = ReadXgboostModel(AsBytes(CategoricalModel()));
  ASSERT_TRUE(forest.ok()) << forest.status().message();
  EXPECT_EQ(forest->set_offsets, (std::vector<std::int32_t>{0, 2, 2}));
  EXPECT_EQ(forest->set_words, (std::vector<std::uint32_t>{1U << 3, 1U << 8}));
  EXPECT_EQ(forest->splits[0].set, 0);
  EXPECT_EQ(forest->splits[0].threshold, 0.0F);
  EXPECT_EQ(forest->splits[1].set, 1);
  EXPECT_TRUE(ValidateForest(forest.value()).ok());
}

TEST(XgboostModelTest, WrongCategoriesAreRefusedByName) {
  const std::pair<const char*, std::pair<const char*, const char*>> cases[] = {
      {"[40, 3]", {"[40, -3]", "category -3 of node 0 is not in 0 to 16777215"}},
      {"[40, 3]", {"[16777216, 3]", "category 16777216 of node 0 is not in 0 to 16777215"}},
      {"[40, 3]", {"[40]", "categories 0 to 0 + 2 of node 0 are not among 1"}},
      {"\"categories_sizes\": [2, 0]",
       {"\"categories_sizes\": [2]",
        "2 categories_nodes, 2 categories_segments and 1 categories_sizes"}},
      {"[0, 2]", {"[-1, 2]", "categories -1 to -1 + 2 of node 0 are not among 2"}},
      {"[0, 4]", {"[0, 0]", "categories_nodes[1] = 0 is repeated or not a node"}},
      {"[0, 4]", {"[0, 5]", "categories_nodes[1] = 5 is repeated or not a node"}},
      {"[1, 0, 0, 0, 1]", {"[1, 0, 0, 0, 0]", "node 4 has categories but split_type 0"}},
  };
  for (const auto& [from, expected] : cases) {
    const StatusOr<Forest> forest =
        ReadXgboostModel(AsBytes(Replaced(CategoricalModel(), from, expected.first)));
    EXPECT_EQ(forest.status().code(), StatusCode::kDataLoss) << expected.first;
    EXPECT_EQ(forest.status().message(), std::string("XGBoost model: tree 0: ") + expected.second);
  }
}

TEST(XgboostModelTest, RoundsAreThoseOfTheModel) {
  const Bytes model = ReadTestData("forest_v1.ubj");  // four rounds of one tree
  const StatusOr<Forest> whole = ReadXgboostModel(model, {0, 0});
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(whole->num_trees(), 4);
  const StatusOr<Forest> middle = ReadXgboostModel(model, {1, 3});
  ASSERT_TRUE(middle.ok());
  EXPECT_EQ(middle->num_trees(), 2);
  EXPECT_EQ(middle->num_leaves(), whole->leaf_offsets[3] - whole->leaf_offsets[1]);
  EXPECT_EQ(ReadXgboostModel(model, {1, 0})->num_trees(), 3);
  for (const RoundRange rounds : {RoundRange{0, 5}, {-1, 2}, {2, 2}, {3, 2}, {4, 0}}) {
    const Status status = ReadXgboostModel(model, rounds).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("are not among its 4 rounds"), std::string::npos)
        << status.message();
  }
}

TEST(XgboostModelTest, DartReadsAsItsInnerForest) {
  std::string text = Replaced(kModel, "\"model\": {", "\"gbtree\": {\"model\": {");
  text = Replaced(text, "\"name\": \"gbtree\"",
                  "\"name\": \"gbtree\"}, \"weight_drop\": [1], \"name\": \"dart\"");
  const StatusOr<Forest> forest = ReadXgboostModel(AsBytes(text));
  ASSERT_TRUE(forest.ok()) << forest.status().message();
  EXPECT_EQ(forest->num_leaves(), 3);
}

struct Refused {
  const char* from;
  const char* to;
  StatusCode code;
  const char* message;
};

TEST(XgboostModelTest, WhatCannotBeReadIsRefusedByName) {
  constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
  constexpr StatusCode kLoss = StatusCode::kDataLoss;
  const Refused cases[] = {
      {"\"gbtree\"\n", "\"gblinear\"\n", kInvalid,
       "XGBoost model: booster gblinear has no trees; use gbtree or dart"},
      {"\"split_type\": [0", "\"split_type\": [1", kLoss,
       "XGBoost model: tree 0: node 0 has no categories but split_type 1"},
      {"\"split_type\": [0", "\"split_type\": [2", kInvalid,
       "XGBoost model: tree 0, node 0: split_type is 2; known: 0 (by a threshold), 1 (by a set of "
       "categories)"},
      {"[4, -1, -1, -1, 3]", "[0, -1, -1, -1, 3]", kLoss,
       "XGBoost model: tree 0: node 0 is reached on two ways"},
      {"[4, -1, -1, -1, 3]", "[4, -1, -1, -1, 4]", kLoss,
       "XGBoost model: tree 0: node 4 is reached on two ways"},
      {"[2, -1, -1, -1, 1]", "[2, -1, -1, -1, 5]", kLoss,
       "XGBoost model: tree 0, node 4: child 5 is not one of 5 nodes"},
      {"[4, -1, -1, -1, 3]", "[4, -1, -1, -1]", kLoss,
       "XGBoost model: tree 0: left_children has 4 elements for 5 nodes"},
      {"[4, -1, -1, -1, 3]", "[4, -1, -1, -1, -1]", kLoss,
       "XGBoost model: tree 0: 3 of 5 nodes are reached from the root, with 0 deleted"},
      {"[4, -1, -1, -1, 3]", "[4, -1, -1, -1, 0.5]", kLoss,
       "XGBoost model (JSON): unexpected fraction at "
       "/learner/gradient_booster/model/trees/*/left_children"},
      {"[1, 0, 0, 0, 0]", "[2, 0, 0, 0, 0]", kLoss,
       "XGBoost model: tree 0, node 0: feature 2 is not one of 2"},
      {"\"num_nodes\": \"5\"", "\"num_nodes\": \"five\"", kLoss,
       "XGBoost model (JSON): unexpected 'five' at "
       "/learner/gradient_booster/model/trees/*/tree_param/num_nodes"},
      {"\"num_feature\": \"2\"", "\"num_feature\": \"0\"", kLoss,
       "XGBoost model: num_feature is 0; allowed: 1 to 1073741824"},
      {"\"num_trees\": \"1\"", "\"num_trees\": \"2\"", kLoss,
       "XGBoost model: 1 trees but num_trees is 2"},
      {"\"name\"", "\"nom\"", kLoss,
       "XGBoost model (JSON): it has no /learner/gradient_booster/name"},
      {"\"version\": [3, 2, 0]", "\"version\": null", kLoss,
       "XGBoost model (JSON): unexpected null at /version"},
  };
  for (const Refused& refused : cases) {
    const StatusOr<Forest> forest =
        ReadXgboostModel(AsBytes(Replaced(kModel, refused.from, refused.to)));
    EXPECT_EQ(forest.status().code(), refused.code) << refused.to;
    EXPECT_EQ(forest.status().message(), refused.message) << refused.to;
  }
  EXPECT_EQ(ReadXgboostModel({}).status().message(), "XGBoost model: it is empty");
  EXPECT_EQ(ReadXgboostModel(AsBytes("binf\1\2")).status().code(), kInvalid);
  EXPECT_EQ(ReadXgboostModel(AsBytes("{\"learner\": ")).status().message(),
            "XGBoost model (JSON): it is not valid at byte 13");
}

TEST(XgboostModelTest, NestingAndEmptyElementsCannotExhaustTheReader) {
  const Bytes nested_json = AsBytes("{\"a\":" + std::string(1'000'000, '['));
  EXPECT_EQ(ReadXgboostModel(nested_json).status().message(),
            "XGBoost model (JSON): more than 32 levels");
  const Bytes nested_ubjson = AsBytes("{i\1a" + std::string(1'000'000, '['));
  EXPECT_EQ(ReadXgboostModel(nested_ubjson).status().message(),
            "XGBoost model (UBJSON): more than 32 levels");
  // 2^62 times "true", an element type without bytes of its own.
  const Bytes trues = AsBytes(std::string_view("{i\1a[$T#L\x40\0\0\0\0\0\0\0}", 18));
  EXPECT_EQ(ReadXgboostModel(trues).status().message(),
            "XGBoost model (UBJSON): more values than bytes");
}

TEST(XgboostModelTest, AlteredAndTruncatedModelsAreSoundForestsOrRefused) {
  std::mt19937 rng(kSeed);
  for (const char* const name : {"forest_v1.json", "forest_v1.ubj"}) {
    const Bytes model = ReadTestData(name);
    for (int round = 0; round < 4'000; ++round) {
      Bytes altered = model;
      if (rng() % 4 == 0) altered.resize(rng() % model.size());
      for (std::size_t flips = rng() % 4; flips > 0 && !altered.empty(); --flips) {
        std::uint8_t& byte = altered[rng() % altered.size()];
        byte = rng() % 2 == 0 ? static_cast<std::uint8_t>(rng())
                              : static_cast<std::uint8_t>(byte ^ (1U << rng() % 8));
      }
      const StatusOr<Forest> forest = ReadXgboostModel(altered);
      if (forest.ok()) {
        EXPECT_TRUE(ValidateForest(forest.value()).ok()) << name << " round " << round;
      }
    }
  }
}

}  // namespace
}  // namespace feedfast::tree_encoder
