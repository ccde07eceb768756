#include "cpp/gated_mlp/precision.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

namespace feedfast {

std::string_view PrecisionName(Precision precision) noexcept {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kBf16:
      return "bf16";
    case Precision::kInt8:
      break;
  }
  return "int8";
}

StatusOr<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8})
    if (PrecisionName(precision) == name) return precision;
  return InvalidArgument("precision '", name, "' is unknown; allowed: fp32, bf16, int8");
}

void RoundToBf16(Span<const float> values, Span<std::uint16_t> bits) noexcept {
  assert(values.size() == bits.size());
  for (std::int64_t i = 0; i < values.size(); ++i) {
    std::uint32_t word;
    std::memcpy(&word, &values[i], sizeof(word));
    // A NaN whose payload lies in the lower half would round to infinity.
    const std::uint32_t nan = (word & 0x7fffffffU) > 0x7f800000U ? 0x400000U : 0;
    const std::uint32_t rounded = nan != 0 ? word | nan : word + 0x7fffU + (word >> 16U & 1U);
    bits[i] = static_cast<std::uint16_t>(rounded >> 16U);
  }
}

Status QuantizeColumns(Span<const float> matrix, Span<std::int8_t> values, Span<float> scales) {
  const std::int64_t columns = scales.size();
  assert(values.size() == matrix.size());
  std::fill(scales.begin(), scales.end(), 0.0F);
  for (std::int64_t i = 0; i < matrix.size(); ++i) {
    const float size = std::abs(matrix[i]);
    if (!std::isfinite(size))
      return InvalidArgument("weight [", i / columns, ", ", i % columns, "] = ", matrix[i],
                             " has no int8 form; it must be finite");
    scales[i % columns] = std::max(scales[i % columns], size);
  }
  for (float& scale : scales) scale /= 127.0F;
  for (std::int64_t i = 0; i < matrix.size(); ++i) {
    const float scale = scales[i % columns];
    const float quotient = scale > 0 ? std::nearbyint(matrix[i] / scale) : 0.0F;
    // A subnormal scale has lost the digits that keep the quotient at 127.
    values[i] = static_cast<std::int8_t>(std::clamp(quotient, -127.0F, 127.0F));
  }
  return OkStatus();
}

}  // namespace feedfast
