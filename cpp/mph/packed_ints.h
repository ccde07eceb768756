#ifndef FEEDFAST_CPP_MPH_PACKED_INTS_H_
#define FEEDFAST_CPP_MPH_PACKED_INTS_H_

#include <cstdint>
#include <cstring>

namespace feedfast::mph {

// Images hold little-endian integers and are read in place.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "feedfast needs a little-endian machine");

template <typename T>
T LoadUnaligned(const std::uint8_t* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Integers of `width` bits (0..kMaxPackedBits) one after the other, lowest bit first. Element i
// starts at bit i * width. The array ends with 8 spare bytes, because elements are read by words.
inline constexpr int kMaxPackedBits = 56;

constexpr std::int64_t PackedBytes(std::int64_t size, int width) noexcept {
  return (size * width + 7) / 8 + 8;
}

inline std::uint64_t LoadPacked(const std::uint8_t* packed, int width, std::int64_t i) noexcept {
  const std::int64_t bit = i * width;
  return (LoadUnaligned<std::uint64_t>(packed + (bit >> 3)) >> (bit & 7)) &
         ((std::uint64_t{1} << width) - 1);
}

// The same for width <= 25 in an array without spare bytes: reads the word that ends with the last
// byte of the element, so 3 bytes before the array have to be readable.
inline std::uint32_t LoadPackedByEnd(const std::uint8_t* packed, int width,
                                     std::int64_t i) noexcept {
  const std::int64_t bit = i * width;
  const std::int64_t first_byte = ((bit + width + 7) >> 3) - 4;
  return (LoadUnaligned<std::uint32_t>(packed + first_byte) >> (bit - first_byte * 8)) &
         ((std::uint32_t{1} << width) - 1);
}

// Writes element i of an array that is zero there. Requires value < 2^width.
inline void StorePacked(std::uint8_t* packed, int width, std::int64_t i,
                        std::uint64_t value) noexcept {
  const std::int64_t bit = i * width;
  const std::uint64_t word =
      LoadUnaligned<std::uint64_t>(packed + (bit >> 3)) | (value << (bit & 7));
  std::memcpy(packed + (bit >> 3), &word, sizeof(word));
}

// The same for threads that write neighbours at once. Requires `packed` on a multiple of 8 bytes,
// and memory up to one behind the array.
inline void StorePackedShared(std::uint8_t* packed, int width, std::int64_t i,
                              std::uint64_t value) noexcept {
  const std::int64_t bit = i * width;
  const int offset = static_cast<int>(bit & 63);
  auto* word = reinterpret_cast<std::uint64_t*>(packed) + (bit >> 6);
  __atomic_fetch_or(word, value << offset, __ATOMIC_RELAXED);
  if (offset + width > 64) __atomic_fetch_or(word + 1, value >> (64 - offset), __ATOMIC_RELAXED);
}

// Number of bits needed to write `value`; 0 for 0.
constexpr int BitWidth(std::uint64_t value) noexcept {
  int width = 0;
  for (; value != 0; value >>= 1) ++width;
  return width;
}

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PACKED_INTS_H_
