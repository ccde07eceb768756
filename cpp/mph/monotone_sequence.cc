#include "cpp/mph/monotone_sequence.h"

#include <cstring>

#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {

MonotoneShape::MonotoneShape(std::int64_t sequence_size, std::int64_t limit) noexcept
    : size(sequence_size) {
  if (size == 0) return;
  const std::int64_t gap = limit / size;
  low_bits = gap > 1 ? BitWidth(static_cast<std::uint64_t>(gap)) - 1 : 0;
  low_bytes = PackedBytes(size, low_bits);
  high_words = (size + (limit >> low_bits) + 1 + 63) / 64;
  num_samples = (size + kSampleDistance - 1) / kSampleDistance;
}

std::int64_t MonotoneSequence::At(std::int64_t i) const noexcept {
  const std::int64_t sample = i / MonotoneShape::kSampleDistance;
  const auto start = LoadUnaligned<std::uint64_t>(samples_ + sample * 8);
  if (start >= static_cast<std::uint64_t>(shape_.high_words) * 64) return -1;
  // Skip `skip` set bits from `start` on, which is itself the first of them.
  std::int64_t skip = i % MonotoneShape::kSampleDistance;
  auto word_index = static_cast<std::int64_t>(start >> 6);
  std::uint64_t word =
      LoadUnaligned<std::uint64_t>(high_ + word_index * 8) & (~std::uint64_t{0} << (start & 63));
  for (int ones = __builtin_popcountll(word); ones <= skip; ones = __builtin_popcountll(word)) {
    skip -= ones;
    if (++word_index == shape_.high_words) return -1;
    word = LoadUnaligned<std::uint64_t>(high_ + word_index * 8);
  }
  for (; skip > 0; --skip) word &= word - 1;
  const std::int64_t high = word_index * 64 + __builtin_ctzll(word) - i;
  if (high < 0) return -1;
  return (high << shape_.low_bits) |
         static_cast<std::int64_t>(LoadPacked(low_, shape_.low_bits, i));
}

void EncodeMonotone(Span<const std::int64_t> values, const MonotoneShape& shape, std::uint8_t* low,
                    std::uint8_t* high, std::uint8_t* samples) noexcept {
  const std::int64_t mask = (std::int64_t{1} << shape.low_bits) - 1;
  for (std::int64_t i = 0; i < values.size(); ++i) {
    const std::int64_t bit = (values[i] >> shape.low_bits) + i;
    StorePacked(low, shape.low_bits, i, static_cast<std::uint64_t>(values[i] & mask));
    high[bit >> 3] = static_cast<std::uint8_t>(high[bit >> 3] | (1U << (bit & 7)));
    if (i % MonotoneShape::kSampleDistance == 0)
      std::memcpy(samples + i / MonotoneShape::kSampleDistance * 8, &bit, 8);
  }
}

}  // namespace feedfast::mph
