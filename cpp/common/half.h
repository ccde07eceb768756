#ifndef FEEDFAST_CPP_COMMON_HALF_H_
#define FEEDFAST_CPP_COMMON_HALF_H_

#include <cstdint>
#include <cstring>

#include "cpp/common/host_device.h"

// 16-bit floats as they lie in memory. All functions are static: kernel objects of different CPU
// targets include this file and must not share code.
namespace feedfast {

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

// float32 to IEEE binary16, to nearest with ties to even, with the bits of the F16C instruction:
// what rounds to 2^16 and more is infinite, NaN becomes quiet and keeps the upper bits of its
// payload.
static inline std::uint16_t FloatToHalf(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x03ffu);
  } else if (magnitude >= 0x47800000u) {  // 2^16
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14
    half = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {  // subnormal: beside 0.5, a float counts units of 2^-24
    float absolute;
    std::memcpy(&absolute, &magnitude, sizeof absolute);
    absolute += 0.5f;
    std::memcpy(&half, &absolute, sizeof half);
    half -= 0x3f000000u;
  }
  return static_cast<std::uint16_t>(half | ((bits >> 16) & 0x8000u));
}

// float32 to bfloat16, to nearest with ties to even; NaN becomes quiet. Integer arithmetic, which
// every CPU target vectorises and no mode of the thread touches.
static inline std::uint16_t FloatToBfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? quiet : rounded);
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

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_HALF_H_
