// The C interface on the golden stores of tests/data: what Python wrote scores alike, whatever is
// damaged is refused or harmless (under the sanitizers, too), and threads share a scorer.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpp/c_api/include/feedfast/feedfast.h"
#include "tests/cpp/testing.h"

namespace {

namespace fs = std::filesystem;

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

struct GoldenModel {
  const char* store;
  const char* model;
  // Of REQUEST of tests/test_golden_store.py, [3 candidates, 5 objectives].
  float probabilities[15];
};
constexpr GoldenModel kModels[] = {
    {"model_store_v1",
     "feed",
     {0.833402f, 0.266341f, 0.598049f, 0.214523f, 0.122816f, 0.948112f, 0.139412f, 0.140035f,
      0.577265f, 0.072720f, 0.654639f, 0.364583f, 0.687973f, 0.354397f, 0.390058f}},
    {"model_store_v1",
     "feed-int8",
     {0.833361f, 0.266390f, 0.597957f, 0.214749f, 0.122860f, 0.948096f, 0.139535f, 0.140029f,
      0.577664f, 0.072733f, 0.654616f, 0.364590f, 0.687966f, 0.354451f, 0.390037f}},
    {"model_store_v2",
     "ranker",
     {0.834816f, 0.304816f, 0.783166f, 0.540172f, 0.727607f, 0.617499f, 0.568382f, 0.645963f,
      0.399519f, 0.306516f, 0.676870f, 0.358042f, 0.675147f, 0.372735f, 0.376083f}},
};

ff_string S(const char* text) { return {text, std::strlen(text)}; }

// REQUEST of tests/test_golden_store.py.
class GoldenRequest {
 public:
  GoldenRequest() {
    for (int i = 0; i < 21; ++i) dense_[i] = static_cast<float>(-2.0 + i * 0.2);
    request_.struct_size = sizeof(request_);
    request_.viewer = &viewer_;
    request_.history_members = history_members_;
    request_.num_history_members = 3;
    request_.history_hashtags = history_hashtags_;
    request_.num_history_hashtags = 1;
    request_.shared = shared_;
    request_.num_shared = 3;
    request_.num_candidates = 3;
    request_.item = item_;
    request_.actor = actor_;
    request_.root_actor = root_actor_;
    request_.hashtags = hashtags_;
    request_.hashtag_offsets = hashtag_offsets_;
    request_.dense = dense_;
    request_.num_dense = 7;
  }
  ff_request* operator->() { return &request_; }

  struct Answer {
    ff_status status;
    std::string message;
    std::vector<float> probabilities = std::vector<float>(15);
    std::vector<float> score = std::vector<float>(3);
    std::vector<int64_t> order = std::vector<int64_t>(3);
  };
  Answer Score(const ff_scorer* scorer) const {
    Answer answer;
    const ff_result result = {sizeof(result),
                              answer.probabilities.data(),
                              15,
                              answer.score.data(),
                              3,
                              answer.order.data(),
                              3,
                              nullptr,
                              0};
    char message[256] = "";
    answer.status = ff_scorer_score(scorer, &request_, &result, message, sizeof(message));
    answer.message = message;
    return answer;
  }

 private:
  ff_string viewer_ = S("member:3");
  ff_string history_members_[3] = {S("member:5"), S("member:19"), S("nobody")};
  ff_string history_hashtags_[1] = {S("tag:1")};
  float shared_[3] = {0.5f, -1.0f, kMissing};
  ff_string item_[3] = {S("item:0"), S("item:7"), S("unknown")};
  ff_string actor_[3] = {S("member:1"), S("member:2"), S("member:99")};
  ff_string root_actor_[3] = {S("member:1"), S("member:4"), S("member:0")};
  ff_string hashtags_[3] = {S("tag:0"), S("tag:7"), S("tag:2")};
  int64_t hashtag_offsets_[4] = {0, 2, 2, 3};
  float dense_[21];
  ff_request request_ = {};
};

// A handle, or what was said instead.
struct Opened {
  Opened(const fs::path& store, const char* model, int32_t verify) {
    const std::string path = store.string();
    ff_scorer_options options = {};
    options.struct_size = sizeof(options);
    options.path = path.c_str();
    options.model = model;
    options.verify = verify;
    char text[1024] = "";
    status = ff_scorer_open(&options, &scorer, text, sizeof(text));
    message = text;
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() { ff_scorer_close(scorer); }

  ff_scorer* scorer = nullptr;
  ff_status status;
  std::string message;
};

fs::path Golden(const char* store) { return fs::path(FEEDFAST_TEST_DATA) / store; }

std::string ReadFile(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

TEST(CApiTest, GoldenStoresScoreAsEver) {
  for (const GoldenModel& golden : kModels) {
    SCOPED_TRACE(golden.model);
    const Opened opened(Golden(golden.store), golden.model, FF_VERIFY_FULL);
    ASSERT_EQ(opened.status, FF_OK) << opened.message;
    const GoldenRequest::Answer answer = GoldenRequest().Score(opened.scorer);
    ASSERT_EQ(answer.status, FF_OK) << answer.message;
    for (std::size_t i = 0; i < 15; ++i)  // CPU targets differ in the last places
      EXPECT_NEAR(answer.probabilities[i], golden.probabilities[i], 2e-6) << i;
  }
}

TEST(CApiTest, ThreadsShareAScorer) {
  const Opened opened(Golden("model_store_v2"), "ranker", FF_VERIFY_HEADER);
  ASSERT_EQ(opened.status, FF_OK) << opened.message;
  GoldenRequest request;
  const GoldenRequest::Answer wanted = request.Score(opened.scorer);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  threads.reserve(wrong.size());
  for (int& count : wrong)
    threads.emplace_back([&count, &request, &wanted, &opened] {
      for (int i = 0; i < 200; ++i) {
        const GoldenRequest::Answer answer = request.Score(opened.scorer);
        count += answer.status != FF_OK || answer.probabilities != wanted.probabilities ||
                 answer.order != wanted.order;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// A copy of the golden stores whose files can be damaged one at a time.
TEST(CApiTest, NoDamageIsServedAndNoneCrashes) {
  std::mt19937 rng(20261122);
  const auto below = [&rng](std::size_t end) { return rng() % end; };
  GoldenRequest request;
  for (const GoldenModel& golden : kModels) {
    const fs::path store = feedfast::testing::TestPath(std::string("c_api_") + golden.model);
    fs::copy(Golden(golden.store), store, fs::copy_options::recursive);
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(store / "blobs")) files.push_back(entry.path());
    const fs::path manifest = store / "models" / golden.model / "000001/manifest.json";
    const std::string named = ReadFile(manifest);
    files.push_back(manifest);
    int opened_anyway = 0;
    for (const fs::path& file : files) {
      const std::string original = ReadFile(file);
      const bool used = file == manifest || named.find(file.filename()) != std::string::npos;
      for (int round = 0; round < 10; ++round) {
        std::string content = original;
        const std::size_t at =
            below(round % 2 == 0 ? content.size() : std::size_t{300}) % content.size();
        switch (round % 5) {
          case 0:
            content.resize(at);
            break;
          case 1:
            content.append(1 + below(200), 'x');
            break;
          case 2:
            for (std::size_t i = at; i < std::min(at + 32, content.size()); ++i)
              content[i] = static_cast<char>(rng());
            break;
          default:
            content[at] = static_cast<char>(content[at] ^ 1 << below(8));
        }
        fs::remove(file);  // a new file: what is mapped must not change
        std::ofstream(file, std::ios::binary) << content;
        SCOPED_TRACE(file.string() + ", round " + std::to_string(round));
        if (used && file != manifest && content != original) {
          const Opened full(store, golden.model, FF_VERIFY_FULL);
          EXPECT_EQ(full.status, FF_DATA_LOSS);
          EXPECT_NE(full.message.find(file.filename()), std::string::npos) << full.message;
        }
        const Opened opened(store, golden.model, FF_VERIFY_HEADER);
        if (opened.status == FF_OK) {
          ++opened_anyway;
          (void)request.Score(opened.scorer);
        } else {
          EXPECT_EQ(opened.status, FF_DATA_LOSS) << opened.message;
          EXPECT_EQ(opened.scorer, nullptr);
        }
      }
      fs::remove(file);
      std::ofstream(file, std::ios::binary) << original;
    }
    EXPECT_GT(opened_anyway, 5);
    fs::remove_all(store);
  }
}

TEST(CApiTest, WhatIsMissingIsSaid) {
  const fs::path store = feedfast::testing::TestPath("c_api_missing");
  fs::copy(Golden("model_store_v2"), store, fs::copy_options::recursive);
  const std::string manifest = ReadFile(store / "models/ranker/000001/manifest.json");
  for (const auto& entry : fs::directory_iterator(Golden("model_store_v2") / "blobs")) {
    const std::string name = entry.path().filename().string();
    if (manifest.find(name) == std::string::npos) continue;
    fs::remove(store / "blobs" / name);
    const auto refusal = [&store] { return Opened(store, "ranker", FF_VERIFY_HEADER).message; };
    EXPECT_NE(refusal().find("version 000001: section '"), std::string::npos) << refusal();
    EXPECT_NE(refusal().find("': blob " + name + " is missing"), std::string::npos) << refusal();
    fs::create_directory(store / "blobs" / name);
    EXPECT_NE(refusal().find(name + " is not a regular file"), std::string::npos) << refusal();
    fs::remove(store / "blobs" / name);
    fs::copy(entry.path(), store / "blobs" / name);
  }
  EXPECT_EQ(Opened(store, "ranker", FF_VERIFY_HEADER).status, FF_OK);
  fs::remove_all(store);
  EXPECT_EQ(Opened(store, "ranker", FF_VERIFY_HEADER).status, FF_NOT_FOUND);
}

}  // namespace
