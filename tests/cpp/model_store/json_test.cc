#include "cpp/model_store/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace feedfast::model_store {
namespace {

StatusOr<Json> Parse(std::string_view text, RepeatedNames repeated = RepeatedNames::kLastWins) {
  return ParseJson(
      {reinterpret_cast<const std::uint8_t*>(text.data()), static_cast<std::int64_t>(text.size())},
      repeated);
}

std::string Canonical(std::string_view text) {
  const StatusOr<Json> value = Parse(text);
  return value.ok() ? CanonicalJson(value.value()) : value.status().message();
}

// What json.dumps of Python writes.
TEST(JsonTest, CanonicalFormIsThatOfPython) {
  EXPECT_EQ(Canonical(R"( {"b": 1, "a": [true, false, null, {}, []], "ä": -5,
                          "Z": 18446744073709551615, "b": 2} )"),
            R"({"Z":18446744073709551615,"a":[true,false,null,{},[]],"b":2,"\u00e4":-5})");
  EXPECT_EQ(
      Canonical("\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7f\xc2\x80\xc3\xa4\xe2\x80\xa8\xed\x9f"
                "\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\\ud83d\\ude00\xf4\x8f\xbf\xbf\""),
      "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u0080\\u00e4\\u2028\\ud7ff\\ue000\\uffff"
      "\\ud800\\udc00\\ud83d\\ude00\\udbff\\udfff\"");
  EXPECT_EQ(Canonical("\"\\u0000\""), "\"\\u0000\"");
  EXPECT_EQ(Canonical("-0"), "0");
}

TEST(JsonTest, FloatsAreThoseOfRepr) {
  for (const std::string_view repr : {"0.1",
                                      "-0.0",
                                      "0.0",
                                      "1000000000000000.0",
                                      "1e+16",
                                      "1.2345678901234568e+17",
                                      "0.0001",
                                      "1e-05",
                                      "1.5e-07",
                                      "5e-324",
                                      "1.7976931348623157e+308",
                                      "100.0",
                                      "12345.678",
                                      "2.5",
                                      "0.3333333333333333",
                                      "9007199254740992.0",
                                      "1e+22",
                                      "1e+23",
                                      "4.35",
                                      "5e-05",
                                      "-1.25"})
    EXPECT_EQ(Canonical(repr), repr);
  EXPECT_EQ(Canonical("1E2"), "100.0");
  EXPECT_EQ(Canonical("0.10000000000000000555"), "0.1");
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const std::string_view text :
       {"", "{", "{}x", "[1,]", "NaN", "1e999", "\"\xff\"", "\"\\ud800\"", "\"\x01\"", "'a'",
        "\xef\xbb\xbf{}", "01", "// c\n1", "nul", "{\"a\" 1}"})
    EXPECT_FALSE(Parse(text).ok()) << text;
  EXPECT_FALSE(Parse(std::string_view("{}\0", 3)).ok());
  EXPECT_EQ(Canonical("18446744073709551616"),
            "not JSON: an integer of 20 digits is beyond 64 bits");
  EXPECT_EQ(Canonical("[1, }"), "not JSON: syntax error at byte 5");
}

TEST(JsonTest, NamesMayOccurOnce) {
  EXPECT_TRUE(Parse(R"([{"a": 1}, {"a": 2, "b": {"a": 3}}])", RepeatedNames::kRefused).ok());
  const StatusOr<Json> twice = Parse(R"({"a": 1, "a": 1})", RepeatedNames::kRefused);
  EXPECT_EQ(twice.status().message(), "not JSON: a name occurs twice");
  EXPECT_EQ(twice.status().code(), StatusCode::kDataLoss);
}

TEST(JsonTest, DepthAndNumberOfValuesAreBounded) {
  const std::string deep(kMaxJsonDepth, '[');
  const std::string closed(kMaxJsonDepth, ']');
  EXPECT_TRUE(Parse(deep + closed).ok());
  EXPECT_EQ(Canonical("[" + deep + closed + "]"), "not JSON: deeper than 64 levels");
  std::string many = "[";
  for (std::int64_t i = 0; i < kMaxJsonValues; ++i) many += "0,";
  many.back() = ']';
  EXPECT_EQ(Canonical(many), "not JSON: more than 4194304 values");
}

}  // namespace
}  // namespace feedfast::model_store
