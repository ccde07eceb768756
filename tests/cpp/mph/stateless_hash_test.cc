#include "cpp/mph/stateless_hash.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/oov_rows.h"

namespace feedfast::mph {
namespace {

__extension__ using Wide = unsigned __int128;

std::vector<std::string> MakeKeys(std::int64_t size) {
  std::vector<std::string> keys = {"", std::string(1, '\0'), "\xff", std::string(10'000, 'x')};
  for (std::int64_t i = 4; i < size; ++i) keys.push_back("urn:li:member:" + std::to_string(i));
  return keys;
}

std::uint64_t Hash(std::string_view key, std::uint64_t seed) {
  KeyCode code = 0;
  HashKeys(std::vector<std::string_view>{key}, seed, &code);
  return code;
}

TEST(StatelessHashTest, RowsAreTheHighPartOfTheHashTimesTheirNumber) {
  const std::vector<std::string> keys = MakeKeys(1000);
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const std::vector<std::uint64_t> seeds = {0, 7, std::numeric_limits<std::uint64_t>::max()};
  for (const std::int64_t num_rows : {std::int64_t{1}, std::int64_t{10}, kMaxHashedRows}) {
    std::vector<std::int64_t> rows(2700, -1);
    HashRows(SpanKeys(views), 100, seeds, num_rows, rows);
    for (std::size_t i = 0; i < 900; ++i)
      for (std::size_t j = 0; j < 3; ++j)
        ASSERT_EQ(rows[3 * i + j],
                  static_cast<std::int64_t>(
                      (static_cast<Wide>(Hash(keys[100 + i], seeds[j])) * num_rows) >> 64));
  }
}

TEST(StatelessHashTest, QuotientAndRemainderAreThoseOfOneHashedId) {
  const std::vector<std::string> keys = MakeKeys(1000);
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  for (const auto& [quotients, remainders] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1}, {1, 100}, {100, 1}, {17, 31}, {std::int64_t{1} << 31, std::int64_t{1} << 31}}) {
    std::vector<std::int64_t> rows(2000, -1);
    std::vector<std::int64_t> ids(1000, -1);
    QuotientRemainderRows(SpanKeys(views), 0, 5, quotients, remainders, rows);
    HashRows(SpanKeys(views), 0, std::vector<std::uint64_t>{5}, quotients * remainders, ids);
    std::vector<std::int64_t> split(2000, -1);
    SplitIds(ids, remainders, split);
    ASSERT_EQ(rows, split);
    for (std::size_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(split[2 * i], ids[i] / remainders);
      ASSERT_EQ(split[2 * i + 1], ids[i] % remainders);
    }
  }
}

TEST(StatelessHashTest, IntegersStandForTheirLittleEndianBytes) {
  const std::vector<std::int64_t> ids = {0, 1, -1, std::numeric_limits<std::int64_t>::min()};
  const std::vector<std::string> bytes = {
      std::string(8, '\0'), std::string("\x01\0\0\0\0\0\0\0", 8), std::string(8, '\xff'),
      std::string("\0\0\0\0\0\0\0\x80", 8)};
  std::vector<std::int64_t> rows(4);
  HashRows(IntegerKeys(ids), 0, std::vector<std::uint64_t>{3}, 1'000'000, rows);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(rows[i], HashRow(bytes[i], 3, 1'000'000));
}

TEST(StatelessHashTest, EmptyInputGivesNothing) {
  const SpanKeys none{Span<const std::string_view>()};
  HashRows(none, 0, std::vector<std::uint64_t>{0}, 1, {});
  QuotientRemainderRows(none, 0, 0, 1, 1, {});
  SplitIds({}, 1, {});
  EXPECT_TRUE(ValidateIds({}, 1).ok());
}

TEST(StatelessHashTest, ValidationNamesTheValueAndTheLimit) {
  EXPECT_TRUE(ValidateHashedRows(1).ok());
  EXPECT_TRUE(ValidateHashedRows(kMaxHashedRows).ok());
  EXPECT_EQ(ValidateHashedRows(0).message(), "num_rows = 0 is not in 1..2^62");
  EXPECT_FALSE(ValidateHashedRows(kMaxHashedRows + 1).ok());
  EXPECT_TRUE(ValidateQuotientRemainder(std::int64_t{1} << 31, std::int64_t{1} << 31).ok());
  EXPECT_EQ(ValidateQuotientRemainder(0, 1).message(), "num_quotients = 0 is below 1");
  EXPECT_EQ(ValidateQuotientRemainder(1, -1).message(), "num_remainders = -1 is below 1");
  EXPECT_EQ(ValidateQuotientRemainder((std::int64_t{1} << 31) + 1, std::int64_t{1} << 31).message(),
            "num_quotients * num_remainders = 2147483649 * 2147483648 is above 2^62");
  const std::vector<std::int64_t> ids = {3, 4, -1};
  EXPECT_EQ(ValidateIds(Span<const std::int64_t>(ids).subspan(0, 2), 4).message(),
            "ids[1] = 4 is not in [0, num_quotients * num_remainders = 4)");
  EXPECT_EQ(ValidateIds(Span<const std::int64_t>(ids).subspan(2, 1), 4).message(),
            "ids[0] = -1 is not in [0, num_quotients * num_remainders = 4)");
}

TEST(OovRowsTest, KnownRowsAreShiftedAndUnknownKeysSpread) {
  const std::vector<std::string> keys = MakeKeys(20'000);
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  const Span<const std::string_view> known = Span<const std::string_view>(views).subspan(0, 9'000);
  BuildOptions options;
  options.fingerprint_bits = 32;
  StatusOr<Vocabulary> vocabulary = Vocabulary::Build(known, options);
  ASSERT_TRUE(vocabulary.ok());
  std::vector<std::int64_t> plain(20'000);
  vocabulary->Lookup(views, plain);
  for (const std::int64_t num_oov : {1, 2, 1000}) {
    std::vector<std::int64_t> rows(19'990, -1);
    LookupWithOov(vocabulary.value(), SpanKeys(views), 10, num_oov, rows);
    for (std::size_t i = 0; i < rows.size(); ++i)
      ASSERT_EQ(rows[i], plain[i + 10] == 0 ? HashRow(keys[i + 10], 0, num_oov)
                                            : plain[i + 10] + num_oov - 1);
  }
}

}  // namespace
}  // namespace feedfast::mph
