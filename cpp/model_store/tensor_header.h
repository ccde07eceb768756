#ifndef FEEDFAST_CPP_MODEL_STORE_TENSOR_HEADER_H_
#define FEEDFAST_CPP_MODEL_STORE_TENSOR_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::model_store {

inline constexpr std::int64_t kMaxTensorHeaderBytes = std::int64_t{16} << 20;

enum class Dtype { kF32, kF16, kBf16, kI64, kI32, kU8, kI8 };

// As safetensors names it: "F32", "F16", "BF16", "I64", "I32", "U8" or "I8".
std::string_view DtypeName(Dtype dtype) noexcept;
std::int64_t DtypeBytes(Dtype dtype) noexcept;

// "[2, 3]".
std::string ShapeText(Span<const std::int64_t> shape);

// Where a tensor lies: bytes [begin, end) after the header, aligned to its items.
struct TensorSpec {
  Dtype dtype = Dtype::kU8;
  std::vector<std::int64_t> shape;  // at most 8 extents, whose items fill the bytes
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// The tensors of a safetensors file, and the byte of the file at which their data start.
struct TensorHeader {
  std::map<std::string, TensorSpec, std::less<>> tensors;
  std::int64_t data_start = 0;
};

// How many of the first bytes ParseTensorHeader needs, of a file that starts with `head` (8 bytes
// or more); at most 8 + kMaxTensorHeaderBytes.
std::int64_t TensorHeadBytes(Span<const std::uint8_t> head) noexcept;

// The header of a safetensors file of `file_size` bytes from its first ones: all of
// TensorHeadBytes, unless the file is shorter. DataLoss: it is truncated or malformed, or the
// tensors do not fill the file without gaps; any bytes are safe. Throws std::bad_alloc.
StatusOr<TensorHeader> ParseTensorHeader(Span<const std::uint8_t> head, std::int64_t file_size);

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_TENSOR_HEADER_H_
