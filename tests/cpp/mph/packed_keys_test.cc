#include "cpp/mph/packed_keys.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace feedfast::mph {
namespace {

std::vector<std::string> Unpack(const PackedKeys& keys) {
  std::vector<std::string> unpacked;
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const auto begin = static_cast<std::size_t>(keys.offsets[at]);
    unpacked.push_back(
        keys.bytes.substr(begin, static_cast<std::size_t>(keys.offsets[at + 1]) - begin));
  }
  return unpacked;
}

// One byte at a time.
std::vector<std::string> NaiveLines(std::string_view text) {
  std::vector<std::string> lines;
  std::string line;
  const auto end_line = [&] {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(line);
    line.clear();
  };
  for (const char c : text) {
    if (c == '\n')
      end_line();
    else
      line.push_back(c);
  }
  if (!line.empty()) end_line();
  return lines;
}

TEST(PackedKeysTest, LinesOfWholeAndSplitTexts) {
  std::mt19937 random(20'240'601);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, ' ');
    for (char& c : text) c = "\n\ra\xff\0"[random() % 5];
    const Lines whole = SplitLines(text, /*is_last=*/true);
    ASSERT_EQ(whole.consumed, static_cast<std::int64_t>(text.size()));
    ASSERT_EQ(Unpack(whole.keys), NaiveLines(text));

    const Lines first = SplitLines(text, /*is_last=*/false);
    const auto consumed = static_cast<std::size_t>(first.consumed);
    ASSERT_EQ(text.find('\n', consumed), std::string::npos);
    ASSERT_TRUE(consumed == 0 || text[consumed - 1] == '\n');
    std::vector<std::string> keys = Unpack(first.keys);
    for (std::string& key : Unpack(SplitLines(text.substr(consumed), /*is_last=*/true).keys))
      keys.push_back(std::move(key));
    ASSERT_EQ(keys, NaiveLines(text));
  }
}

}  // namespace
}  // namespace feedfast::mph
