#include "cpp/tree_encoder/forest.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <functional>
#include <random>

#include "tests/cpp/tree_encoder/random_forest.h"
#include "tests/cpp/tree_encoder/test_data.h"

namespace feedfast::tree_encoder {
namespace {

constexpr unsigned kSeed = 20'240'602;

// Puts the right checksum on altered bytes, so that the checks behind it are reached.
void Reseal(Bytes& image) {
  if (image.size() < 32) return;
  const std::uint64_t checksum = XXH3_64bits(image.data() + 32, image.size() - 32);
  std::memcpy(image.data() + 24, &checksum, sizeof(checksum));
}

TEST(ForestTest, ImageRoundTrips) {
  std::mt19937 rng(kSeed);
  for (int i = 0; i < 20; ++i) {
    const Forest forest =
        RandomForest(rng, 1 + i, 1 + i % 7, i % 6, 8, 9, static_cast<unsigned>(i) % 3);
    const Bytes image = ForestToImage(forest);
    EXPECT_EQ(image[8], forest.num_sets() > 0 ? 2 : 1);  // the version
    const StatusOr<Forest> read = ForestFromImage(image);
    ASSERT_TRUE(read.ok()) << read.status().message();
    EXPECT_EQ(read->num_features, forest.num_features);
    EXPECT_EQ(read->split_offsets, forest.split_offsets);
    EXPECT_EQ(read->leaf_offsets, forest.leaf_offsets);
    EXPECT_EQ(read->set_offsets, forest.set_offsets);
    EXPECT_EQ(read->set_words, forest.set_words);
    EXPECT_EQ(ForestToImage(read.value()), image);
  }
}

TEST(ForestTest, ReadsAnImageAtAnyAlignment) {
  std::mt19937 rng(kSeed);
  Bytes image = ForestToImage(RandomForest(rng, 3, 4, 4));
  image.insert(image.begin(), 0);
  const auto size = static_cast<std::int64_t>(image.size()) - 1;
  EXPECT_TRUE(ForestFromImage({image.data() + 1, size}).ok());
}

TEST(ForestTest, GoldenImageOfVersion1StaysReadableAndIsWrittenAlike) {
  const Bytes golden = ReadTestData("forest_v1.bin");
  const StatusOr<Forest> forest = ForestFromImage(golden);
  ASSERT_TRUE(forest.ok()) << forest.status().message();
  EXPECT_EQ(forest->num_features, 5);
  EXPECT_EQ(forest->num_trees(), 4);
  EXPECT_EQ(forest->num_leaves(), 15);
  EXPECT_EQ(ForestToImage(forest.value()), golden);
}

TEST(ForestTest, GoldenImageOfVersion2StaysReadableAndIsWrittenAlike) {
  const Bytes golden = ReadTestData("forest_v2.bin");
  const StatusOr<Forest> forest = ForestFromImage(golden);
  ASSERT_TRUE(forest.ok()) << forest.status().message();
  EXPECT_EQ(forest->num_features, 4);
  EXPECT_EQ(forest->num_trees(), 3);
  EXPECT_GT(forest->num_sets(), 0);
  EXPECT_EQ(ForestToImage(forest.value()), golden);
}

TEST(ForestTest, ForeignTruncatedAndAlteredImagesAreRefused) {
  std::mt19937 rng(kSeed);
  const Bytes image = ForestToImage(RandomForest(rng, 3, 4, 3));
  const auto message_of = [](const Bytes& bytes) {
    const StatusOr<Forest> read = ForestFromImage(bytes);
    EXPECT_EQ(read.status().code(), StatusCode::kDataLoss);
    return read.status().message();
  };
  EXPECT_EQ(message_of({}), "forest image: 0 bytes are fewer than the header's 48");
  Bytes foreign = image;
  foreign[0] = 'X';
  EXPECT_EQ(message_of(foreign), "forest image: it does not start with FFFOREST");
  Bytes newer = image;
  newer[8] = 3;
  EXPECT_EQ(message_of(newer), "forest image: version 3 is not readable here; readable: 1, 2");
  Bytes altered = image;
  altered.back() ^= 1;
  EXPECT_EQ(message_of(altered), "forest image: the checksum does not match the content");
  for (std::size_t size = 0; size < image.size(); ++size)
    EXPECT_FALSE(ForestFromImage(Bytes(image.begin(), image.begin() + size)).ok());
  Bytes longer = image;
  longer.push_back(0);
  EXPECT_FALSE(ForestFromImage(longer).ok());
}

TEST(ForestTest, EveryFlippedBitIsRefused) {
  std::mt19937 rng(kSeed);
  Bytes image = ForestToImage(RandomForest(rng, 3, 4, 3, 8, 9, 2));
  for (std::size_t bit = 0; bit < 8 * image.size(); ++bit) {
    image[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
    EXPECT_FALSE(ForestFromImage(image).ok()) << "bit " << bit;
    image[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
  }
}

TEST(ForestTest, AlteredImagesWithARightChecksumAreValidForestsOrRefused) {
  std::mt19937 rng(kSeed);
  for (int round = 0; round < 20'000; ++round) {
    Bytes image = ForestToImage(RandomForest(rng, 1 + static_cast<std::int32_t>(rng() % 3), 4, 3, 8,
                                             9, static_cast<unsigned>(rng() % 3)));
    for (std::size_t flips = 1 + rng() % 3; flips > 0; --flips) {
      const std::size_t at = 32 + rng() % (image.size() - 32);
      image[at] = rng() % 2 == 0 ? static_cast<std::uint8_t>(rng())
                                 : static_cast<std::uint8_t>(image[at] ^ (1U << rng() % 8));
    }
    Reseal(image);
    const StatusOr<Forest> read = ForestFromImage(image);
    if (read.ok()) {
      EXPECT_TRUE(ValidateForest(read.value()).ok());
    } else {
      EXPECT_EQ(read.status().code(), StatusCode::kDataLoss);
    }
  }
}

struct Broken {
  const char* name;
  std::function<void(Forest&)> breaks;
  const char* message;
};

TEST(ForestTest, EachBrokenRuleIsNamed) {
  // split 0 -> (split 1, leaf 2), split 1 -> (leaf 0, leaf 1)
  Forest sound;
  sound.num_features = 2;
  sound.split_offsets = {0, 2};
  sound.leaf_offsets = {0, 3};
  sound.splits = {{0, 0.5F, 1, 1, ~2}, {1, 0.25F, 0, ~0, ~1}};
  sound.set_offsets = {0, 1};
  sound.set_words = {5};
  ASSERT_TRUE(ValidateForest(sound).ok());
  const Broken cases[] = {
      {"cycle", [](Forest& f) { f.splits[1].left = 0; },
       "forest: tree 0, split 1: child 0 does not exist or has another parent"},
      {"self", [](Forest& f) { f.splits[1].left = 1; },
       "forest: tree 0, split 1: child 1 does not exist or has another parent"},
      {"shared leaf", [](Forest& f) { f.splits[1].right = ~2; },
       "forest: tree 0, split 1: child -3 does not exist or has another parent"},
      {"child", [](Forest& f) { f.splits[1].right = ~3; },
       "forest: tree 0, split 1: child -4 does not exist or has another parent"},
      {"unreached", [](Forest& f) { f.splits[0].left = ~0; },
       "forest: tree 0: only 1 of 2 splits are reached from the root"},
      {"feature", [](Forest& f) { f.splits[1].feature = 2; },
       "forest: tree 0, split 1: feature 2 is not one of 2"},
      {"NaN", [](Forest& f) { f.splits[0].threshold = std::nanf(""); },
       "forest: tree 0, split 0: the threshold is NaN"},
      {"default", [](Forest& f) { f.splits[0].default_left = 2; },
       "forest: tree 0, split 0: default_left is 2; allowed: 0, 1"},
      {"set", [](Forest& f) { f.splits[1].set = 1; },
       "forest: tree 0, split 1: set 1 is not one of 1"},
      {"set below", [](Forest& f) { f.splits[1].set = -2; },
       "forest: tree 0, split 1: set -2 is not one of 1"},
      {"set and threshold", [](Forest& f) { f.splits[1].set = 0; },
       "forest: tree 0, split 1: it has a set and the threshold 0.25"},
      {"set order",
       [](Forest& f) {
         f.set_offsets = {0, 2, 1}, f.splits[1].set = 0;
       },
       "forest: set 1 goes from word 2 to 1; allowed: 0 to 524288 words"},
      {"set words", [](Forest& f) { f.set_words.pop_back(); },
       "forest: set offsets name 1 words but there are 0"},
      {"set end", [](Forest& f) { f.set_words[0] = 0; }, "forest: the last word of set 0 is 0"},
      {"leaves", [](Forest& f) { f.leaf_offsets[1] = 4; },
       "forest: tree 0 has 2 splits but 4 leaves"},
      {"offsets", [](Forest& f) { f.split_offsets[1] = -1; },
       "forest: split offsets of tree 0 decrease from 0 to -1"},
      {"sizes", [](Forest& f) { f.splits.pop_back(); },
       "forest: offsets name 2 splits but there are 1"},
      {"features", [](Forest& f) { f.num_features = 0; },
       "forest: num_features is 0; allowed: 1 to 1073741824"},
      {"no trees", [](Forest& f) { f = Forest(), f.num_features = 1; }, "forest: it has no trees"},
  };
  for (const Broken& broken : cases) {
    Forest forest = sound;
    broken.breaks(forest);
    const Status status = ValidateForest(forest);
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << broken.name;
    EXPECT_EQ(status.message(), broken.message) << broken.name;
  }
}

}  // namespace
}  // namespace feedfast::tree_encoder
