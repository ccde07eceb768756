#include "cpp/scorer/scorer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "cpp/scorer/selected_candidates.h"
#include "tests/cpp/scorer/random_model.h"
#include "tests/cpp/testing.h"

namespace feedfast::scorer {
namespace {

using ::feedfast::testing::ForEachCpuTarget;
using Requests = std::vector<std::vector<reference::Example>>;

constexpr unsigned kSeed = 20'261'121;

struct Output {
  std::vector<float> probabilities;
  std::vector<float> score;
  std::vector<std::int64_t> order;

  bool operator==(const Output& other) const {
    return probabilities == other.probabilities && score == other.score && order == other.order;
  }
  void Append(const Output& other) {
    probabilities.insert(probabilities.end(), other.probabilities.begin(),
                         other.probabilities.end());
    score.insert(score.end(), other.score.begin(), other.score.end());
    order.insert(order.end(), other.order.begin(), other.order.end());
  }
};

Tradeoff Weights() { return {0.3, 2.0, {1.0, 4.0, 0.5, 2.0}}; }

Output ScoreAll(const Scorer& scorer, const RequestBatch& batch, const ScoreOptions& options = {}) {
  const auto n = static_cast<std::size_t>(batch.num_candidates());
  Output out{std::vector<float>(n * 4), std::vector<float>(n), std::vector<std::int64_t>(n, -7)};
  const Status status =
      scorer.Score(batch, Weights(), options, {out.probabilities, out.score, out.order});
  EXPECT_TRUE(status.ok()) << status.message();
  return out;
}

Output ScoreAll(const Scorer& scorer, const Requests& requests, const ScoreOptions& options = {}) {
  return ScoreAll(scorer, Columns(requests).batch(), options);
}

ScoreOptions Options(int threads, std::int64_t mini_batch) {
  ScoreOptions options;
  options.threads = threads;
  options.mini_batch = mini_batch;
  return options;
}

void ExpectMatchesReference(RandomModel& random, double error = 2e-6) {
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  for (const std::int64_t candidates : {0, 1, 2, 17, 130}) {
    const std::vector<reference::Example> request = random.Request(candidates);
    ForEachCpuTarget([&] {
      const Output got = ScoreAll(*scorer, Requests{request}, Options(2, 16));
      for (std::size_t c = 0; c < request.size(); ++c) {
        const reference::Vector want =
            reference::Probabilities(random.model, random.towers, random.cross, request[c]);
        // float32 sums of at most 57 terms of order 1
        for (std::size_t k = 0; k < want.size(); ++k)
          ASSERT_NEAR(got.probabilities[c * 4 + k], want[k], error) << c << ", " << k;
      }
    });
  }
}

TEST(MiniBatchTest, ThreadsShareARequestInEqualPieces) {
  EXPECT_EQ(DefaultMiniBatch(5000, 1), 256);
  EXPECT_EQ(DefaultMiniBatch(0, 4), 8);
  EXPECT_EQ(DefaultMiniBatch(500, 2), 128);
  for (std::int64_t candidates = 1; candidates < 5000; ++candidates)
    for (const int threads : {2, 3, 8}) {
      const std::int64_t rows = DefaultMiniBatch(candidates, threads);
      const std::int64_t tasks = (candidates + rows - 1) / rows;
      ASSERT_LE(rows, 192);
      // The busiest thread has a piece's rounding more than its share for each of its pieces.
      ASSERT_LE((tasks + threads - 1) / threads * rows,
                (candidates + threads - 1) / threads + 8 * ((tasks + threads - 1) / threads));
    }
}

TEST(ScorerTest, MatchesTheReferenceOnEveryTarget) {
  RandomModel random(kSeed);
  ExpectMatchesReference(random);
  RandomModel without_effects(kSeed + 1, /*with_effects=*/false);
  ExpectMatchesReference(without_effects);
  RandomModel crossed(kSeed, /*with_effects=*/true, Precision::kFp32, /*with_cross=*/true);
  ExpectMatchesReference(crossed, 1e-5);  // features of up to 8 are multiplied twice
}

TEST(ScorerTest, TablesOfEveryFormatScoreLikeTheirDecodedRows) {
  using embedding_kernels::RowFormat;
  for (const RowFormat format : {RowFormat::kFloat16, RowFormat::kBfloat16, RowFormat::kInt8Rowwise,
                                 RowFormat::kInt4Rowwise}) {
    RandomModel random(kSeed);
    const Model floats = random.model;
    random.StoreAs(format);  // the float tables now hold the decoded rows
    const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
    const std::unique_ptr<Scorer> decoded = Scorer::Create(floats).value();
    const Requests requests = {random.Request(50)};
    ForEachCpuTarget([&] {
      const Output got = ScoreAll(*scorer, requests);
      const Output want = ScoreAll(*decoded, requests);
      for (std::size_t i = 0; i < got.probabilities.size(); ++i)
        ASSERT_NEAR(got.probabilities[i], want.probabilities[i], 2e-6);
      for (const int threads : {1, 3})
        for (const std::int64_t mini_batch : {0, 1, 7, 4096})
          ASSERT_TRUE(ScoreAll(*scorer, requests, Options(threads, mini_batch)) == got);
    });
  }
}

void ExpectBitsOfEachCandidateAlone(Precision precision, bool with_cross) {
  RandomModel random(kSeed, /*with_effects=*/true, precision, with_cross);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  Requests requests;
  for (int r = 0; r < 60; ++r) requests.push_back(random.Request(r % 7 == 0 ? 0 : 3 * r % 40));
  ForEachCpuTarget([&] {
    Output alone;
    for (const std::vector<reference::Example>& request : requests) {
      const Output one = ScoreAll(*scorer, Requests{request});
      alone.Append(one);
      for (const int threads : {1, 2, 5})
        for (const std::int64_t mini_batch : {0, 1, 3, 16, 4096})
          ASSERT_TRUE(ScoreAll(*scorer, Requests{request}, Options(threads, mini_batch)) == one)
              << threads << " threads, mini-batch " << mini_batch;
      for (std::size_t c = 0; c < request.size(); ++c)
        ASSERT_EQ(ScoreAll(*scorer, Requests{{request[c]}}).score[0], one.score[c]);
    }
    for (const int threads : {1, 3})
      for (const std::int64_t mini_batch : {0, 5, 256})
        ASSERT_TRUE(ScoreAll(*scorer, requests, Options(threads, mini_batch)) == alone);
  });
}

TEST(ScorerTest, BitsDoNotDependOnBatchSplitOrThreads) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8})
    for (const bool with_cross : {false, true})
      ExpectBitsOfEachCandidateAlone(precision, with_cross);
}

TEST(ScorerTest, SmallerLayersScoreNearly) {
  RandomModel floats(kSeed);
  const Requests requests = {floats.Request(50)};
  const Output want = ScoreAll(*Scorer::Create(floats.model).value(), requests);
  for (const auto& [precision, error] :
       {std::pair(Precision::kBf16, 0.02), std::pair(Precision::kInt8, 0.05)}) {
    const RandomModel random(kSeed, /*with_effects=*/true, precision);
    const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
    ForEachCpuTarget([&, error = error] {
      const Output got = ScoreAll(*scorer, requests);
      for (std::size_t i = 0; i < want.probabilities.size(); ++i)
        ASSERT_NEAR(got.probabilities[i], want.probabilities[i], error);
    });
  }
}

TEST(ScorerTest, ManyThreadsMayScoreAtOnce) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  Requests requests;
  std::vector<Output> want;
  for (std::int64_t r = 0; r < 8; ++r) {
    requests.push_back(random.Request(10 * r));
    want.push_back(ScoreAll(*scorer, Requests{requests.back()}));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 40; ++i) {
        const std::size_t r = (i + static_cast<std::size_t>(t)) % requests.size();
        if (!(ScoreAll(*scorer, Requests{requests[r]}, Options(1 + t % 2, 16)) == want[r])) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ScorerTest, MissingColumnsAreUnknownKeys) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  std::vector<reference::Example> request = random.Request(5);
  for (reference::Example& e : request) {
    e.viewer = e.actor = e.root_actor = e.item = "nobody has this key";
    e.history_members.clear();
    e.hashtags.clear();
  }
  const Columns columns(Requests{request});
  RequestBatch missing = columns.batch();
  missing.viewer = missing.actor = missing.root_actor = missing.item = nullptr;
  missing.history_members = missing.hashtags = nullptr;
  EXPECT_TRUE(ScoreAll(*scorer, missing) == ScoreAll(*scorer, columns.batch()));
}

// What leaving out a group means, said with requests.
TEST(ScorerTest, GroupsLeftOutAreWhatNobodyKnows) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const std::vector<reference::Example> request = random.Request(9);
  const Columns columns(Requests{request});
  const auto without = [&](const char* group) {
    ScoreOptions options;
    options.without.Add(ParseInputGroup(group).value());
    return ScoreAll(*scorer, columns.batch(), options);
  };
  const auto changed = [&](auto change) {
    std::vector<reference::Example> other = request;
    for (reference::Example& e : other) change(e);
    return ScoreAll(*scorer, Requests{other});
  };
  const std::string unknown = "nobody has this key";
  EXPECT_TRUE(without("viewer") == changed([&](auto& e) { e.viewer = unknown; }));
  EXPECT_TRUE(without("history_members") == changed([](auto& e) { e.history_members.clear(); }));
  EXPECT_TRUE(without("history_hashtags") == changed([](auto& e) { e.history_hashtags.clear(); }));
  EXPECT_TRUE(without("actor") == changed([&](auto& e) { e.actor = unknown; }));
  EXPECT_TRUE(without("root_actor") == changed([&](auto& e) { e.root_actor = unknown; }));
  EXPECT_TRUE(without("hashtags") == changed([](auto& e) { e.hashtags.clear(); }));
  EXPECT_TRUE(without("item") == changed([&](auto& e) { e.item = unknown; }));

  // Features go two ways, so only all of them together can be left out of a request.
  ScoreOptions options;
  for (const char* group : {"shared", "dense", "leaves"})
    options.without.Add(ParseInputGroup(group).value());
  const Output featureless = ScoreAll(*scorer, columns.batch(), options);
  EXPECT_TRUE(featureless == changed([](auto& e) {
                for (float& value : e.features) value = std::numeric_limits<float>::quiet_NaN();
              }));
  for (const char* group : {"shared", "dense", "leaves"}) {
    EXPECT_FALSE(without(group) == ScoreAll(*scorer, columns.batch())) << group;
    EXPECT_FALSE(without(group) == featureless) << group;
  }
  EXPECT_EQ(ParseInputGroup("age").status().message(),
            "group 'age' is unknown; allowed: viewer, history_members, history_hashtags, shared, "
            "actor, root_actor, hashtags, leaves, dense, item");
}

TEST(ScorerTest, RequestsMayHaveTradeoffsOfTheirOwn) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const Requests requests = {random.Request(8), random.Request(3), random.Request(5)};
  const std::vector<Tradeoff> tradeoffs = {Weights(), {1.0, 0.0, {1.0, 1.0, 1.0, 1.0}}};
  const std::vector<std::int64_t> tradeoff_of = {1, 0, 1};
  const Columns columns(requests);
  RequestBatch batch = columns.batch();
  batch.tradeoff_of = tradeoff_of;
  Output got{std::vector<float>(std::size_t{16} * 4), std::vector<float>(16),
             std::vector<std::int64_t>(16)};
  const Scores scores{got.probabilities, got.score, got.order};
  ASSERT_TRUE(scorer->Score(batch, tradeoffs, Options(2, 4), scores).ok());
  Output want;
  for (std::size_t r = 0; r < 3; ++r) {
    Output one = ScoreAll(*scorer, Requests{requests[r]});
    ASSERT_TRUE(scorer
                    ->Score(Columns(Requests{requests[r]}).batch(),
                            tradeoffs[static_cast<std::size_t>(tradeoff_of[r])], {},
                            {one.probabilities, one.score, one.order})
                    .ok());
    want.Append(one);
  }
  EXPECT_TRUE(got == want);

  const auto message = [&](const std::vector<std::int64_t>& of, Span<const Tradeoff> some) {
    batch.tradeoff_of = of;
    return scorer->Score(batch, some, {}, scores).message();
  };
  EXPECT_EQ(message({0, 2, 0}, tradeoffs), "tradeoff_of[1] = 2; there are 2 trade-offs");
  EXPECT_EQ(message({0, -1, 0}, tradeoffs), "tradeoff_of[1] = -1; there are 2 trade-offs");
  EXPECT_EQ(message({0, 0}, tradeoffs), "tradeoff_of has 2 values; there are 3 requests");
  EXPECT_EQ(message({}, {}), "there is no trade-off");
}

TEST(SelectedCandidatesTest, ScoreAsInTheWholeRequest) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const Columns columns(Requests{random.Request(12)});
  const RequestBatch request = columns.batch();
  const Output whole = ScoreAll(*scorer, request);
  const std::vector<std::int64_t> chosen = {11, 3, 3, 0};
  const SelectedCandidates selected =
      SelectedCandidates::Select(request, chosen, RandomModel::kDense).value();
  const Output got = ScoreAll(*scorer, selected.batch(), Options(2, 3));
  ASSERT_EQ(got.score.size(), chosen.size());
  for (std::size_t i = 0; i < chosen.size(); ++i)
    EXPECT_EQ(got.score[i], whole.score[static_cast<std::size_t>(chosen[i])]);

  RequestBatch bare = request;
  bare.item = bare.actor = bare.root_actor = nullptr;
  const Output want = ScoreAll(*scorer, bare);
  const SelectedCandidates some =
      SelectedCandidates::Select(bare, chosen, RandomModel::kDense).value();
  EXPECT_EQ(ScoreAll(*scorer, some.batch()).score[0], want.score[11]);

  const auto message = [&](const RequestBatch& batch, const std::vector<std::int64_t>& candidates) {
    return SelectedCandidates::Select(batch, candidates, RandomModel::kDense).status().message();
  };
  EXPECT_EQ(message(request, {0, 12}), "candidates[1] = 12; the request has 12");
  EXPECT_EQ(message(request, {-1}), "candidates[0] = -1; the request has 12");
  const Columns two(Requests{random.Request(1), random.Request(1)});
  EXPECT_EQ(message(two.batch(), {0}), "candidates are chosen of 1 request; got 2");
}

TEST(ScorerTest, StagesAddUpToNoMoreThanTheCall) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  for (const Requests& requests :
       {Requests{random.Request(200)}, Requests{random.Request(20), random.Request(30)}}) {
    const Output want = ScoreAll(*scorer, requests);
    Output got = want;
    StageTimes times;
    const auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE(scorer
                    ->Score(Columns(requests).batch(), Weights(), Options(1, 16),
                            {got.probabilities, got.score, got.order, &times})
                    .ok());
    const auto wall = std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now() - start);
    EXPECT_TRUE(got == want);
    std::int64_t sum = 0;
    for (const std::int64_t stage : times.nanoseconds) {
      EXPECT_GT(stage, 0);
      sum += stage;
    }
    EXPECT_LE(sum, wall.count());
  }
}

TEST(ScorerTest, CalibratorsApplyToTheirObjective) {
  RandomModel random(kSeed);
  const Requests requests = {random.Request(20)};
  const Output before = ScoreAll(*Scorer::Create(random.model).value(), requests);
  const std::vector<float> x = {0.0f, 0.5f, 1.0f};
  const std::vector<float> y = {0.0f, 0.1f, 0.8f};
  const Calibrator calibrator = Calibrator::Create(x, y).value();
  random.model.calibrators[2] = calibrator;
  const Output after = ScoreAll(*Scorer::Create(random.model).value(), requests);
  for (std::size_t i = 0; i < after.probabilities.size(); ++i)
    EXPECT_EQ(after.probabilities[i],
              i % 4 == 2 ? calibrator(before.probabilities[i]) : before.probabilities[i]);
}

TEST(ScorerTest, TopKIsThePrefixOfTheWholeOrder) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const Requests requests = {random.Request(33)};
  const Output whole = ScoreAll(*scorer, requests);
  for (const std::int64_t top_k : {0, 1, 10, 33, 50}) {
    ScoreOptions options;
    options.top_k = top_k;
    const Output got = ScoreAll(*scorer, requests, options);
    for (std::size_t i = 0; i < 33; ++i)
      EXPECT_EQ(got.order[i], static_cast<std::int64_t>(i) < top_k ? whole.order[i] : -1);
  }
}

TEST(ScorerTest, RefusesColumnsThatDoNotFit) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const Columns columns(Requests{random.Request(2), random.Request(1)});
  const auto message = [&](const RequestBatch& batch) {
    return ValidateBatch(batch, RandomModel::kShared, RandomModel::kDense).message();
  };
  const RequestBatch good = columns.batch();
  EXPECT_EQ(message(good), "");
  RequestBatch batch = good;
  batch.viewer = good.item;
  EXPECT_EQ(message(batch), "viewer has 3 keys; there are 2 requests");
  batch = good;
  batch.actor = good.viewer;
  EXPECT_EQ(message(batch), "actor has 2 keys; there are 3 candidates");
  batch = good;
  batch.dense = good.dense.subspan(0, 17);
  EXPECT_EQ(message(batch), "dense has 17 values; needs 6 for each of 3 candidates");
  batch = good;
  batch.hashtag_offsets = good.hashtag_offsets.subspan(0, 3);
  EXPECT_EQ(message(batch), "hashtag_offsets has 3 values; needs 4");
  batch = good;
  const std::vector<std::int64_t> falling = {0, 2, 1};
  batch.candidate_offsets = falling;
  EXPECT_EQ(message(batch), "candidate_offsets[2] = 1 is below candidate_offsets[1] = 2");
  const std::vector<std::int64_t> late = {1, 2, 3};
  batch.candidate_offsets = late;
  EXPECT_EQ(message(batch), "candidate_offsets[0] = 1; must be 0");
  const std::vector<std::int64_t> longer = {0, 2, 4};
  batch.candidate_offsets = longer;
  EXPECT_EQ(message(batch), "candidate_offsets[2] = 4; item has 3 keys");
  batch.candidate_offsets = {};
  EXPECT_EQ(message(batch), "candidate_offsets is empty");
  const std::vector<std::int64_t> endless = {0, 0, INT64_MAX};
  batch = good;
  batch.candidate_offsets = endless;
  batch.item = batch.actor = batch.root_actor = nullptr;
  EXPECT_EQ(message(batch), "hashtag_offsets has 4 values; needs 9223372036854775808");
  batch = good;
  batch.history_members = nullptr;
  batch.history_member_offsets = endless;
  EXPECT_EQ(message(batch),
            "history_member_offsets[2] = 9223372036854775807; must be 0 without history_members");
}

TEST(ScorerTest, RefusesTradeoffsAndOptionsOutOfRange) {
  RandomModel random(kSeed);
  const std::unique_ptr<Scorer> scorer = Scorer::Create(random.model).value();
  const Columns columns(Requests{random.Request(1)});
  const auto message = [&](const Tradeoff& tradeoff, const ScoreOptions& options) {
    std::vector<float> probabilities(4), score(1);
    std::vector<std::int64_t> order(1);
    return scorer->Score(columns.batch(), tradeoff, options, {probabilities, score, order})
        .message();
  };
  Tradeoff tradeoff = Weights();
  tradeoff.alpha = 1.5;
  EXPECT_EQ(message(tradeoff, {}), "alpha = 1.5; allowed: 0 to 1");
  tradeoff = Weights();
  tradeoff.lambda = -1;
  EXPECT_EQ(message(tradeoff, {}), "lambda = -1; must be finite and >= 0");
  tradeoff.lambda = 1;
  tradeoff.weights[2] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message(tradeoff, {}), "weights[2] = nan; must be finite and >= 0");
  tradeoff.weights.pop_back();
  EXPECT_EQ(message(tradeoff, {}), "weights has 3 values; the model has 4 objectives");
  EXPECT_EQ(message(Weights(), Options(0, 1)), "threads = 0; must be >= 1");
  EXPECT_EQ(message(Weights(), Options(1, 4097)), "mini_batch = 4097; allowed: 0 to 4096");
  EXPECT_EQ(message(Weights(), Options(1, -1)), "mini_batch = -1; allowed: 0 to 4096");
  ScoreOptions options;
  options.top_k = -1;
  EXPECT_EQ(message(Weights(), options), "top_k = -1; must be >= 0");
}

TEST(ModelTest, RefusesPartsThatDoNotFit) {
  const RandomModel random(kSeed);
  const auto message = [&](auto change) {
    Model model = random.model;
    change(model);
    return ValidateModel(model).message();
  };
  EXPECT_EQ(message([](Model&) {}), "");
  EXPECT_EQ(message([](Model& m) { m.member_table.num_rows = 41; }),
            "member_table has 41 rows; member_vocabulary has 42");
  EXPECT_EQ(message([](Model& m) { m.leaf_table.num_rows = 0; }), "leaf_table has no rows");
  EXPECT_EQ(message([](Model& m) { m.hashtag_table.dim = 0; }),
            "hashtag_table has 0 columns; needs at least 1");
  EXPECT_EQ(message([](Model& m) { m.inv_std = m.inv_std.subspan(0, 9); }),
            "normalizer: 10 means and 9 inv_stds for 4 shared features and dense ones");
  EXPECT_EQ(message([](Model& m) { m.towers.pop_back(); }),
            "objective 1 is in 0 towers; must be in 1");
  EXPECT_EQ(message([](Model& m) {
              m.towers[0].objectives = {0, 4};
            }),
            "towers[0]: objective 4 is not one of 4");
  EXPECT_EQ(message([](Model& m) { m.towers[0].objectives = {0}; }),
            "towers[0] has 2 outputs and 1 objectives");
  {
    const RandomModel other(kSeed, /*with_effects=*/true, Precision::kInt8);
    Model model = other.model;
    model.num_shared = RandomModel::kShared - 1;
    EXPECT_EQ(ValidateModel(model).message(),
              "towers[0] was made for 23 inputs that candidates share; the viewer has 22");
  }
  {
    const RandomModel other(kSeed, /*with_effects=*/true, Precision::kFp32, /*with_cross=*/true);
    Model model = random.model;
    model.cross = other.model.cross;
    EXPECT_EQ(ValidateModel(model).message(), "");
    model.member_table.dim = 8;
    EXPECT_EQ(ValidateModel(model).message(),
              "cross network has 51 inputs; the input vector has 55");
  }
  EXPECT_EQ(message([](Model& m) { m.calibrators.pop_back(); }), "3 calibrators for 4 objectives");
  EXPECT_EQ(message([](Model& m) {
              m.random_effects.coefficients = m.random_effects.coefficients.subspan(0, 5);
            }),
            "random_effects: 5 coefficients for 14 rows of 4 objectives");
  EXPECT_EQ(message([](Model& m) { m.forest = nullptr; }),
            "the model lacks a vocabulary or the forest");
}

TEST(NormalizeTest, ClipsAndFillsMissing) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {1.0f, nan, inf, -inf, 100.0f, inf};
  const std::vector<float> mean = {0.5f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  const std::vector<float> inv_std = {2.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.0f};
  std::vector<float> out(x.size());
  Normalize(x, mean, inv_std, out.data());
  EXPECT_EQ(out, (std::vector<float>{1.0f, 0.0f, 8.0f, -8.0f, 8.0f, 0.0f}));
}

}  // namespace
}  // namespace feedfast::scorer
