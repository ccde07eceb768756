#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_HALF_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_HALF_H_

#include <cstdint>
#include <cstring>

#include "cpp/common/host_device.h"

// 16-bit floats as they lie in memory. All functions are static: kernel objects of different CPU
// targets include this file and must not share code.
namespace feedfast::embedding_kernels {

inline constexpr float kMaxHalf = 65504.0f;

// IEEE binary16 to float32, with the bits of the F16C instruction: exact for every number, NaN
// becomes quiet and keeps its payload. No operand or result is a subnormal float, so the thread's
// flush-to-zero and denormals-are-zero modes change nothing.
FEEDFAST_HOST_DEVICE static inline float HalfToFloat(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7fffu;
  float value;
  std::uint32_t bits;
  if (magnitude < 0x0400u) {  // zero or subnormal: units of 2^-24
    value = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof bits);
  } else {
    bits = (magnitude << 13) + (112u << 23);  // moves the exponent's origin
    if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
    if (magnitude > 0x7c00u) bits |= 0x00400000u;
  }
  bits |= (half & 0x8000u) << 16;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// bfloat16 to float32, exact.
FEEDFAST_HOST_DEVICE static inline float Bfloat16ToFloat(std::uint16_t bfloat16) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The greatest half that is not above `value`, and the least that is not below it.
// Requires |value| <= kMaxHalf.
static inline std::uint16_t HalfFloor(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits >> 31;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  float absolute;
  std::memcpy(&absolute, &magnitude, sizeof absolute);
  std::uint32_t half;
  if (absolute >= 0x1p-14f)
    half = (magnitude - (112u << 23)) >> 13;  // toward zero
  else
    half = static_cast<std::uint32_t>(absolute * 0x1p24f);  // subnormal: units of 2^-24
  if (sign != 0 && HalfToFloat(static_cast<std::uint16_t>(half)) != absolute) ++half;
  return static_cast<std::uint16_t>(half | (sign << 15));
}

static inline std::uint16_t HalfCeil(float value) {
  return static_cast<std::uint16_t>(HalfFloor(-value) ^ 0x8000u);
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_HALF_H_
