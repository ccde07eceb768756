#ifndef FEEDFAST_CPP_MPH_MONOTONE_SEQUENCE_H_
#define FEEDFAST_CPP_MPH_MONOTONE_SEQUENCE_H_

#include <cstdint>

#include "cpp/common/span.h"

namespace feedfast::mph {

// A non-descending sequence of `size` integers below `limit` in Elias-Fano form: about
// 2 + log2(limit / size) bits per element. The low `low_bits` bits of each are packed; the high
// parts are a bit array in which element i sets bit (high part + i); `samples` hold the position of
// every kSampleDistance-th set bit. The shape follows from size and limit alone.
struct MonotoneShape {
  static constexpr std::int64_t kSampleDistance = 256;

  MonotoneShape() = default;
  // Requires 0 <= size < 2^45, 0 <= limit < 2^42.
  MonotoneShape(std::int64_t size, std::int64_t limit) noexcept;

  std::int64_t size = 0;
  int low_bits = 0;
  std::int64_t low_bytes = 0;
  std::int64_t high_words = 0;   // 64 bits each
  std::int64_t num_samples = 0;  // 64 bits each
};

// Reads such a sequence where it lies; no alignment needed.
class MonotoneSequence {
 public:
  MonotoneSequence() = default;
  MonotoneSequence(const MonotoneShape& shape, const std::uint8_t* low, const std::uint8_t* high,
                   const std::uint8_t* samples) noexcept
      : shape_(shape), low_(low), high_(high), samples_(samples) {}

  // Element i, or -1 where the stored bits are not a sequence: reads stay inside the arrays
  // whatever these hold. Requires 0 <= i < size.
  std::int64_t At(std::int64_t i) const noexcept;

 private:
  MonotoneShape shape_;
  const std::uint8_t* low_ = nullptr;
  const std::uint8_t* high_ = nullptr;
  const std::uint8_t* samples_ = nullptr;
};

// Writes `values` (non-descending, below the limit of the shape) into zeroed arrays.
void EncodeMonotone(Span<const std::int64_t> values, const MonotoneShape& shape, std::uint8_t* low,
                    std::uint8_t* high, std::uint8_t* samples) noexcept;

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_MONOTONE_SEQUENCE_H_
