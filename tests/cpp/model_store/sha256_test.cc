#include "cpp/model_store/sha256.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace feedfast::model_store {
namespace {

Span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()),
          static_cast<std::int64_t>(text.size())};
}

// The examples of FIPS 180-4 and its supplement.
TEST(Sha256Test, KnownDigests) {
  EXPECT_EQ(Sha256Hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex(Bytes("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(Bytes(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, PiecesDoNotMatter) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  for (std::size_t length : {55, 56, 63, 64, 65, 119, 120, 127, 128, 300}) {
    const std::string whole = text.substr(0, length);
    for (const std::size_t piece : {1, 3, 64, 100}) {
      Sha256 digest;
      for (std::size_t at = 0; at < length; at += piece)
        digest.Update(Bytes(whole.substr(at, piece)));
      EXPECT_EQ(digest.HexDigest(), Sha256Hex(Bytes(whole))) << length << " " << piece;
    }
  }
}

}  // namespace
}  // namespace feedfast::model_store
