#ifndef FEEDFAST_CPP_MPH_KEY_HASH_H_
#define FEEDFAST_CPP_MPH_KEY_HASH_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"

namespace feedfast::mph {

// The 64-bit code of a key; everything else about a key is computed from it.
using KeyCode = std::uint64_t;

// codes[i] = XXH3_64bits_withSeed(keys[i], seed). Requires codes to hold keys.size() elements.
void HashKeys(Span<const std::string_view> keys, std::uint64_t seed, KeyCode* codes) noexcept;

// XXH3_64bits of a byte range, the checksum of images.
std::uint64_t Checksum(Span<const std::uint8_t> bytes) noexcept;

// High 64 bits of a * b: maps a uniform 64-bit `a` to [0, b), monotone in `a`.
inline std::uint64_t MultiplyHigh(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(a) * b) >> 64);
}

// The code that a key has one level further down. A bijection, so distinct codes stay distinct; the
// high bits of the result depend on all bits of `code`, because keys of one bumped bucket share
// theirs.
inline KeyCode Remix(KeyCode code) noexcept {
  return (code ^ (code >> 32)) * 0xBF58476D1CE4E5B9ULL;
}

// `bits` bits (1..32) that tell a stored key from others in the same slot. Keys of one slot agree
// in their high bits, so those are folded into the low ones and a multiplication spreads all of
// them.
inline constexpr std::uint64_t kFingerprintFactor = 0x94D049BB133111EBULL;
inline std::uint32_t Fingerprint(KeyCode code, int bits) noexcept {
  return static_cast<std::uint32_t>(((code ^ (code >> 29)) * kFingerprintFactor) >> (64 - bits));
}

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_KEY_HASH_H_
