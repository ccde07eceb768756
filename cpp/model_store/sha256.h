#ifndef FEEDFAST_CPP_MODEL_STORE_SHA256_H_
#define FEEDFAST_CPP_MODEL_STORE_SHA256_H_

#include <array>
#include <cstdint>
#include <string>

#include "cpp/common/span.h"

namespace feedfast::model_store {

// SHA-256 (FIPS 180-4) of bytes that come in pieces.
class Sha256 {
 public:
  void Update(Span<const std::uint8_t> bytes) noexcept;
  // The digest in hexadecimal, lower case. Ends the computation.
  std::string HexDigest();

 private:
  static constexpr std::int64_t kBlockBytes = 64;

  void AddBlock(const std::uint8_t* block) noexcept;

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, kBlockBytes> pending_{};  // the first num_bytes_ % kBlockBytes
  std::int64_t num_bytes_ = 0;
};

// Of all bytes at once.
std::string Sha256Hex(Span<const std::uint8_t> bytes);

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_SHA256_H_
