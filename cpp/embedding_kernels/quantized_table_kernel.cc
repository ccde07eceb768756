// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
// Without contraction of products and sums, so that every target searches the same errors.
#include "cpp/embedding_kernels/quantized_table_kernel.h"

#include <cstdint>
#include <cstring>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

struct Header {
  std::uint16_t scale;
  std::uint16_t bias;
};
static_assert(sizeof(Header) == kInt8HeaderBytes);

struct Range {
  float low;
  float high;
};

Header MakeHeader(Range range, float max_code) {
  Header header;
  header.bias = HalfFloor(range.low);
  // Numbers around both ends of the halves' range lie further apart than a half can name.
  const float scale = (range.high - HalfToFloat(header.bias)) / max_code;
  header.scale = HalfCeil(scale < 0.0f ? 0.0f : scale > kMaxHalf ? kMaxHalf : scale);
  return header;
}

// The code of `x`, as a float; scale != 0. A difference, a quotient and a sum, each rounded once.
// The sum with 1.5 * 2^23 rounds to an integer, ties to even.
inline float Code(float x, float scale, float bias, float max_code) {
  constexpr float kShift = 0x1.8p23f;
  float q = (x - bias) / scale;
  q = q < 0.0f ? 0.0f : q;
  q = q > max_code ? max_code : q;
  return q + kShift - kShift;
}

Range MinMax(const float* row, std::int64_t dim) {
  Range range{row[0], row[0]};
  for (std::int64_t j = 1; j < dim; ++j) {
    range.low = row[j] < range.low ? row[j] : range.low;
    range.high = row[j] > range.high ? row[j] : range.high;
  }
  return range;
}

// Sum of the squared errors of a row under `header`. Sixteen sums side by side, in the same order
// on every target.
float SquaredError(const float* row, std::int64_t dim, Header header, float max_code) {
  constexpr std::int64_t kSums = 16;
  const float scale = HalfToFloat(header.scale);
  const float bias = HalfToFloat(header.bias);
  const float divisor = scale == 0.0f ? 1.0f : scale;
  const float limit = scale == 0.0f ? 0.0f : max_code;
  float sums[kSums] = {};
  const auto add = [&](std::int64_t j, std::int64_t lane) {
    const float error = row[j] - (scale * Code(row[j], divisor, bias, limit) + bias);
    sums[lane] += error * error;
  };
  std::int64_t j = 0;
  for (; j + kSums <= dim; j += kSums)
    for (std::int64_t lane = 0; lane < kSums; ++lane) add(j + lane, lane);
  for (std::int64_t lane = 0; j + lane < dim; ++lane) add(j + lane, lane);
  float sum = 0.0f;
  for (const float part : sums) sum += part;
  return sum;
}

Header ClippedHeader(const float* row, std::int64_t dim, Range range, float max_code) {
  constexpr int kSteps = 64;
  const float step = (range.high - range.low) / kSteps;
  Header best = MakeHeader(range, max_code);
  float least = SquaredError(row, dim, best, max_code);
  for (int i = 1; i < kSteps; ++i) {
    const Range raised{range.low + step, range.high};
    const Range lowered{range.low, range.high - step};
    const Header raised_header = MakeHeader(raised, max_code);
    const Header lowered_header = MakeHeader(lowered, max_code);
    const float raised_error = SquaredError(row, dim, raised_header, max_code);
    const float lowered_error = SquaredError(row, dim, lowered_header, max_code);
    const bool raise = raised_error < lowered_error;
    range = raise ? raised : lowered;
    const float error = raise ? raised_error : lowered_error;
    if (error < least) {
      least = error;
      best = raise ? raised_header : lowered_header;
    }
  }
  return best;
}

void QuantizeRow(const float* row, const QuantizeArgs& args, std::uint8_t* out) {
  const bool nibbles = args.format == RowFormat::kInt4Rowwise;
  const float max_code = nibbles ? 15.0f : 255.0f;
  const Range range = MinMax(row, args.dim);
  const Header header = args.method == RangeMethod::kClip
                            ? ClippedHeader(row, args.dim, range, max_code)
                            : MakeHeader(range, max_code);
  std::memcpy(out, &header, sizeof header);
  std::uint8_t* codes = out + kInt8HeaderBytes;
  std::memset(codes, 0, static_cast<std::size_t>(RowBytes(args.format, args.dim)) - sizeof header);
  const float scale = HalfToFloat(header.scale);
  const float bias = HalfToFloat(header.bias);
  if (scale == 0.0f) return;
  if (!nibbles) {
    for (std::int64_t j = 0; j < args.dim; ++j)
      codes[j] =
          static_cast<std::uint8_t>(static_cast<std::int32_t>(Code(row[j], scale, bias, max_code)));
    return;
  }
  for (std::int64_t j = 0; j < args.dim; ++j) {
    const auto code = static_cast<int>(Code(row[j], scale, bias, max_code));
    codes[j / 2] = static_cast<std::uint8_t>(codes[j / 2] | code << (4 * (j % 2)));
  }
}

}  // namespace

void Quantize(const QuantizeArgs& args) noexcept {
  const std::int64_t row_bytes = RowBytes(args.format, args.dim);
  for (std::int64_t r = 0; r < args.num_rows; ++r)
    QuantizeRow(args.table + r * args.dim, args,
                args.packed + (args.rows == nullptr ? r : args.rows[r]) * row_bytes);
}

void Dequantize(const DequantizeArgs& args) noexcept {
  for (std::int64_t r = 0; r < args.num_rows; ++r) {
    const std::uint8_t* row = args.packed + r * RowBytes(args.format, args.dim);
    Header header;
    std::memcpy(&header, row, sizeof header);
    const float scale = HalfToFloat(header.scale);
    const float bias = HalfToFloat(header.bias);
    const std::uint8_t* codes = row + kInt8HeaderBytes;
    float* out = args.table + r * args.dim;
    // scale has 11 bits and q has 8: the product is exact.
    if (args.format == RowFormat::kInt8Rowwise)
      for (std::int64_t j = 0; j < args.dim; ++j)
        out[j] = scale * static_cast<float>(codes[j]) + bias;
    else
      for (std::int64_t j = 0; j < args.dim; ++j)
        out[j] = scale * static_cast<float>(codes[j / 2] >> (4 * (j % 2)) & 15) + bias;
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
