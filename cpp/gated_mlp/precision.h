#ifndef FEEDFAST_CPP_GATED_MLP_PRECISION_H_
#define FEEDFAST_CPP_GATED_MLP_PRECISION_H_

#include <cstdint>
#include <string_view>
#include <type_traits>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast {

// What the factors of a product are; sums, biases and everything between layers are float32.
enum class Precision {
  kFp32,
  kBf16,  // weights and inputs are bfloat16; their products are exact
  kInt8,  // weights are int8 with a scale per column, inputs uint8 with a scale per row; sums of
          // products are exact integers
};

// "fp32", "bf16" or "int8".
std::string_view PrecisionName(Precision precision) noexcept;
StatusOr<Precision> ParsePrecision(std::string_view name);

// A row-major matrix of weights, as a view. Floats convert by themselves.
class WeightView {
 public:
  WeightView() = default;
  template <typename Floats,
            typename = std::enable_if_t<std::is_convertible_v<const Floats&, Span<const float>>>>
  // NOLINTNEXTLINE(google-explicit-constructor): an array of floats is fp32 weights
  WeightView(const Floats& floats) noexcept : floats_(floats) {}
  // The upper halves of float32 values.
  static WeightView Bf16(Span<const std::uint16_t> bits) noexcept {
    WeightView view;
    view.precision_ = Precision::kBf16;
    view.bf16_ = bits;
    return view;
  }
  // values[k, j] * scales[j], scales finite and not negative.
  static WeightView Int8(Span<const std::int8_t> values, Span<const float> scales) noexcept {
    WeightView view;
    view.precision_ = Precision::kInt8;
    view.int8_ = values;
    view.scales_ = scales;
    return view;
  }

  Precision precision() const noexcept { return precision_; }
  std::int64_t size() const noexcept { return floats_.size() + bf16_.size() + int8_.size(); }
  bool empty() const noexcept { return size() == 0; }
  // The arrays of the view's precision; the others are empty.
  Span<const float> floats() const noexcept { return floats_; }
  Span<const std::uint16_t> bf16() const noexcept { return bf16_; }
  Span<const std::int8_t> int8() const noexcept { return int8_; }
  Span<const float> scales() const noexcept { return scales_; }

 private:
  Precision precision_ = Precision::kFp32;
  Span<const float> floats_;
  Span<const std::uint16_t> bf16_;
  Span<const std::int8_t> int8_;
  Span<const float> scales_;
};

// bits[i] = values[i] rounded to bfloat16, ties to even; NaN stays NaN. Sizes are equal.
void RoundToBf16(Span<const float> values, Span<std::uint16_t> bits) noexcept;

// Symmetric int8 per column of a row-major matrix with scales.size() columns:
//   scales[j] = max over k of |matrix[k, j]| / 127
//   values[k, j] = matrix[k, j] / scales[j], rounded, ties to even; 0 where the scale is 0
// so -128 is not used and |values * scales - matrix| is at most half a scale. InvalidArgument, with
// its position: an element is NaN or infinite. Requires: values.size() == matrix.size(), a multiple
// of scales.size().
Status QuantizeColumns(Span<const float> matrix, Span<std::int8_t> values, Span<float> scales);

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_PRECISION_H_
