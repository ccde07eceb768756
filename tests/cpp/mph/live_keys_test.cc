#include "cpp/mph/live_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cpp/mph/live_sightings.h"

namespace feedfast::mph {
namespace {

constexpr std::uint64_t kSeed = 20'240'601;

// Few different codes, so that keys share slots, tags and whole codes.
KeyCode CrowdedCode(const std::string& key) {
  const auto number = static_cast<KeyCode>(key.size() + (key.empty() ? 0 : key.back() % 4U));
  return number << 32 | (key.size() % 3);
}

TEST(LiveKeysTest, AgreesWithAMapOverRandomCalls) {
  struct Known {
    std::int64_t row;
    double last_seen;
  };
  for (const bool crowded : {true, false}) {
    SCOPED_TRACE(crowded);
    std::mt19937_64 random(kSeed);
    std::vector<std::string> universe(601);  // the last one empty
    for (std::size_t i = 0; i < 600; ++i)
      universe[i] = std::string(random() % 40, 'x') + std::to_string(i);
    std::vector<KeyCode> codes(universe.size());
    for (std::size_t i = 0; i < universe.size(); ++i) {
      const std::string_view view = universe[i];
      HashKeys({&view, 1}, 0, &codes[i]);
      if (crowded) codes[i] = CrowdedCode(universe[i]);
    }
    LiveKeys keys;
    std::map<std::string, Known> known;
    double time = 0;
    for (int step = 0; step < 20'000; ++step) {
      time += static_cast<double>(random() % 2);
      const std::size_t i = random() % universe.size();
      const std::uint32_t entry = keys.Find(universe[i], codes[i]);
      const auto found = known.find(universe[i]);
      ASSERT_EQ(entry != LiveKeys::kNone, found != known.end());
      if (entry == LiveKeys::kNone) {
        double seen = time;
        if (random() % 50 == 0) seen = LiveKeys::kAlways;
        keys.Add(universe[i], codes[i], step + 1, seen);
        known[universe[i]] = {step + 1, seen};
      } else {
        ASSERT_EQ(keys.row(entry), found->second.row);
        ASSERT_EQ(keys.key(entry), universe[i]);
        if (random() % 3 == 0) {
          keys.Remove(entry);
          known.erase(found);
        } else {
          keys.Touch(entry, time);
          if (found->second.last_seen != LiveKeys::kAlways) found->second.last_seen = time;
        }
      }
      if (step % 5000 == 4999) keys.MakePermanent();
      if (step % 5000 == 4999)
        for (auto& [key, k] : known) k.last_seen = LiveKeys::kAlways;
      if (step % 1000 != 0) continue;
      ASSERT_EQ(keys.size(), static_cast<std::int64_t>(known.size()));
      std::int64_t visited = 0;
      double last = 0;
      keys.ForEach([&](std::uint32_t e) {
        const Known& want = known.at(std::string(keys.key(e)));
        EXPECT_EQ(keys.row(e), want.row);
        EXPECT_EQ(keys.last_seen(e), want.last_seen);
        if (want.last_seen != LiveKeys::kAlways) {
          EXPECT_GE(want.last_seen, last);
          last = want.last_seen;
        }
        ++visited;
      });
      EXPECT_EQ(visited, keys.size());
    }
    // A block at once finds what single calls find.
    std::vector<std::string_view> views(universe.begin(), universe.begin() + kKeyBlock);
    std::vector<std::uint32_t> entries(views.size());
    keys.Find(views, codes.data(), entries.data());
    for (std::size_t i = 0; i < views.size(); ++i)
      EXPECT_EQ(entries[i], keys.Find(views[i], codes[i]));
    keys.Clear();
    EXPECT_EQ(keys.size(), 0);
    EXPECT_EQ(keys.nbytes(), 0);
    EXPECT_EQ(keys.Find(universe[0], codes[0]), LiveKeys::kNone);
  }
}

TEST(LiveKeysTest, StringsOfRemovedKeysGiveTheirMemoryBack) {
  LiveKeys keys;
  std::int64_t most = 0;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const std::string key = std::to_string(i) + std::string(100, 'k');
    keys.Add(key, i << 32, 1, static_cast<double>(i));
    if (keys.size() > 100) keys.Remove(keys.oldest());
    most = std::max(most, keys.nbytes());
  }
  EXPECT_LT(most, 100 * 4 * (105 + 60) + 4096 * 4);
}

TEST(LiveSightingsTest, CountsAndForgets) {
  LiveSightings sightings(4);
  EXPECT_EQ(sightings.Count(7, 0, -1, 3), 1);
  EXPECT_EQ(sightings.Count(7, 1, 0, 3), 2);
  EXPECT_EQ(sightings.Count(7, 2, 1, 3), 3);
  EXPECT_EQ(sightings.Count(7, 3, 1, 3), 3);  // not above the limit
  EXPECT_EQ(sightings.Count(7, 9, 4, 3), 1);  // last seen before 4
  sightings.Forget(7);
  sightings.Forget(8);
  EXPECT_EQ(sightings.Count(7, 9, 4, 3), 1);
}

TEST(LiveSightingsTest, TheKeySeenLongestAgoGivesWay) {
  LiveSightings sightings(1);
  for (KeyCode code = 1; code <= 8; ++code) EXPECT_EQ(sightings.Count(code, 0, -1, 9), 1);
  EXPECT_EQ(sightings.Count(1, 0, -1, 9), 2);
  EXPECT_EQ(sightings.Count(9, 0, -1, 9), 1);  // for 2, not for 1
  EXPECT_EQ(sightings.Count(1, 0, -1, 9), 3);
  EXPECT_EQ(sightings.Count(3, 0, -1, 9), 2);
  EXPECT_EQ(sightings.Count(2, 0, -1, 9), 1);
}

TEST(LiveSightingsTest, CountsAreNeverTooHigh) {
  std::mt19937_64 random(kSeed);
  LiveSightings sightings(16);
  std::map<KeyCode, int> seen;
  std::vector<KeyCode> codes(300);
  for (KeyCode& code : codes) code = random();
  int exact = 0;
  for (int step = 0; step < 30'000; ++step) {
    const KeyCode code = codes[random() % codes.size()];
    const int count = sightings.Count(code, step, step - 200, 1000);
    EXPECT_LE(count, ++seen[code]);
    exact += count == seen[code] ? 1 : 0;
  }
  EXPECT_GT(exact, 300);
}

}  // namespace
}  // namespace feedfast::mph
