// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/embedding_kernels/quantized_table_kernel.h"

#include <cstdint>
#include <cstring>

#include "cpp/embedding_kernels/half.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

struct Header {
  std::uint16_t scale;
  std::uint16_t bias;
};
static_assert(sizeof(Header) == kInt8HeaderBytes);

Header RowHeader(const float* row, std::int64_t dim) {
  float least = row[0];
  float greatest = row[0];
  for (std::int64_t j = 1; j < dim; ++j) {
    least = row[j] < least ? row[j] : least;
    greatest = row[j] > greatest ? row[j] : greatest;
  }
  Header header;
  header.bias = HalfFloor(least);
  header.scale = HalfCeil((greatest - HalfToFloat(header.bias)) / 255.0f);
  return header;
}

}  // namespace

void Quantize(const float* table, std::int64_t num_rows, std::int64_t dim,
              std::uint8_t* packed) noexcept {
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const float* row = table + r * dim;
    std::uint8_t* out = packed + r * (kInt8HeaderBytes + dim);
    const Header header = RowHeader(row, dim);
    std::memcpy(out, &header, sizeof header);
    std::uint8_t* codes = out + kInt8HeaderBytes;
    const float bias = HalfToFloat(header.bias);
    const float scale = HalfToFloat(header.scale);
    if (scale == 0.0f) {
      std::memset(codes, 0, static_cast<std::size_t>(dim));
      continue;
    }
    // A difference, a quotient and a sum, each rounded once: nothing that a target could fuse. The
    // sum with 1.5 * 2^23 rounds to an integer, ties to even, which its low bits then hold.
    constexpr float kShift = 0x1.8p23f;
    constexpr std::int32_t kShiftBits = 0x4b400000;
    for (std::int64_t j = 0; j < dim; ++j) {
      const float shifted = (row[j] - bias) / scale + kShift;
      std::int32_t q;
      std::memcpy(&q, &shifted, sizeof q);
      q -= kShiftBits;
      codes[j] = static_cast<std::uint8_t>(q > 255 ? 255 : q);
    }
  }
}

void Dequantize(const std::uint8_t* packed, std::int64_t num_rows, std::int64_t dim,
                float* table) noexcept {
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const std::uint8_t* row = packed + r * (kInt8HeaderBytes + dim);
    Header header;
    std::memcpy(&header, row, sizeof header);
    const float scale = HalfToFloat(header.scale);
    const float bias = HalfToFloat(header.bias);
    const std::uint8_t* codes = row + kInt8HeaderBytes;
    // scale has 11 bits and q has 8: the product is exact and fusing changes nothing.
    for (std::int64_t j = 0; j < dim; ++j)
      table[r * dim + j] = scale * static_cast<float>(codes[j]) + bias;
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
