#include "cpp/model_store/tensor_header.h"

#include <gtest/gtest.h>

#include <string>

namespace feedfast::model_store {
namespace {

// A file with this header, and as many bytes behind it.
StatusOr<TensorHeader> Parse(const std::string& json, std::int64_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(json.size() >> (8 * i));
  file += json;
  return ParseTensorHeader(
      {reinterpret_cast<const std::uint8_t*>(file.data()), static_cast<std::int64_t>(file.size())},
      static_cast<std::int64_t>(file.size()) + data_bytes);
}

std::string Tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(TensorHeaderTest, ReadsTensorsThatFillTheFile) {
  const StatusOr<TensorHeader> header = Parse(
      R"({"__metadata__":{"a":"b"},"y":)" + Tensor("BF16", "[3]", "[24,30]") + R"(,"x":)" +
          Tensor("F32", "[2,3]", "[0,24]") + R"(,"e":)" + Tensor("U8", "[0,5]", "[30,30]") + "}   ",
      30);
  ASSERT_TRUE(header.ok()) << header.status().message();
  EXPECT_EQ(header->tensors.size(), 3U);
  const TensorSpec& x = header->tensors.at("x");
  EXPECT_EQ(x.dtype, Dtype::kF32);
  EXPECT_EQ(x.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(x.end, 24);
  EXPECT_EQ(header->tensors.at("y").begin, 24);
}

TEST(TensorHeaderTest, RefusesOthers) {
  const auto message = [](const std::string& json, std::int64_t bytes) {
    const StatusOr<TensorHeader> header = Parse(json, bytes);
    return header.ok() ? "read" : header.status().message();
  };
  const auto of = [&message](const std::string& tensor, std::int64_t bytes) {
    return message(R"({"x":)" + tensor + "}", bytes);
  };
  const std::string huge = "4611686018427387904";
  EXPECT_EQ(message("{}", 1), "tensors end at byte 10 of 11");
  EXPECT_EQ(message("[]", 0), "header is not a JSON object");
  EXPECT_EQ(message("{", 0), "header is not JSON: syntax error at byte 2");
  EXPECT_EQ(of("{}", 0), "tensor 'x': not an object of dtype, shape and data_offsets");
  EXPECT_EQ(of(Tensor("F64", "[1]", "[0,8]"), 8), "tensor 'x': dtype \"F64\" is unknown");
  EXPECT_EQ(of(Tensor("F32", "[-1]", "[0,4]"), 4), "tensor 'x': shape is not a list of sizes");
  EXPECT_EQ(of(Tensor("F32", "[" + huge + "]", "[0,4]"), 4),
            "tensor 'x': shape is not a list of sizes");
  EXPECT_EQ(of(Tensor("F32", "[1]", "[0]"), 4), "tensor 'x': data_offsets has 1 values; needs 2");
  for (const auto& [shape, offsets] :
       {std::pair("[2]", "[0,4]"), std::pair("[1]", "[2,6]"), std::pair("[1]", "[8,4]"),
        std::pair("[4294967296,4294967296]", "[0,4]"), std::pair("[2,0]", "[0,4]"),
        std::pair("[1,1,1,1,1,1,1,1,1]", "[0,4]")})
    EXPECT_NE(of(Tensor("F32", shape, offsets), 4).find("does not fill bytes"), std::string::npos)
        << shape << offsets;
  EXPECT_EQ(of(Tensor("U8", "[4]", "[1,5]"), 5), "tensor 'x': starts at byte 1; expected 0");
  EXPECT_EQ(message(R"({"x":)" + Tensor("U8", "[2]", "[0,2]") + R"(,"y":)" +
                        Tensor("U8", "[2]", "[1,3]") + "}",
                    3),
            "tensor 'y': starts at byte 1; expected 2");
}

TEST(TensorHeaderTest, LengthsAreBounded) {
  const std::uint8_t zeros[16] = {};
  EXPECT_EQ(ParseTensorHeader({zeros, 7}, 7).status().message(),
            "7 bytes are too few for a safetensors header");
  std::uint8_t head[16];
  std::fill(std::begin(head), std::end(head), std::uint8_t{0xFF});
  EXPECT_EQ(TensorHeadBytes({head, 8}), 8 + kMaxTensorHeaderBytes);
  EXPECT_FALSE(ParseTensorHeader({head, 16}, 16).ok());
  head[0] = 9;
  std::fill(head + 1, head + 8, std::uint8_t{0});
  EXPECT_EQ(ParseTensorHeader({head, 16}, 16).status().message(),
            "header of 9 bytes does not fit into 16 bytes");
}

}  // namespace
}  // namespace feedfast::model_store
