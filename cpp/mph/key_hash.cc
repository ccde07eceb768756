#include "cpp/mph/key_hash.h"

#include <xxhash.h>

namespace feedfast::mph {

// Images hold XXH3 values, which earlier releases computed differently.
static_assert(XXH_VERSION_NUMBER >= 800, "xxHash 0.8.0 or later is needed");

void HashKeys(Span<const std::string_view> keys, std::uint64_t seed, KeyCode* codes) noexcept {
  // Keys on the heap (lists, long string tensors) miss the cache one by one otherwise.
  constexpr std::int64_t kAhead = 8;
  const std::int64_t size = keys.size();
  for (std::int64_t i = 0; i < size; ++i) {
    if (i + kAhead < size) __builtin_prefetch(keys[i + kAhead].data());
    codes[i] = XXH3_64bits_withSeed(keys[i].data(), keys[i].size(), seed);
  }
}

std::uint64_t Checksum(Span<const std::uint8_t> bytes) noexcept {
  return XXH3_64bits(bytes.data(), static_cast<std::size_t>(bytes.size()));
}

}  // namespace feedfast::mph
