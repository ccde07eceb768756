#include "cpp/allreduce/wire_rows_kernel.h"

#include <cstring>

namespace feedfast::allreduce {
namespace FEEDFAST_TARGET {

// Integer arithmetic on the bits, which every target vectorises and no rounding mode touches.
void ToBfloat16(const float* __restrict values, std::int64_t size,
                std::uint16_t* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    out[i] = static_cast<std::uint16_t>(is_nan ? quiet : rounded);
  }
}

void FromBfloat16(const std::uint16_t* __restrict bits, std::int64_t size,
                  float* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits[i]) << 16;
    std::memcpy(out + i, &wide, sizeof(wide));
  }
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
