#include <algorithm>
#include <cstring>
#include <utility>

#include "cpp/mph/packed_ints.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {
namespace {

Status ValidateRowMap(Span<const std::int64_t> row_map, std::int64_t num_rows) {
  if (row_map.size() != num_rows)
    return InvalidArgument("row_map has ", row_map.size(), " elements; the vocabulary has ",
                           num_rows, " rows");
  if (row_map[0] != 0)
    return InvalidArgument("row_map[0] = ", row_map[0], "; row 0 of unknown keys stays 0");
  constexpr std::int64_t kMaxRows = std::int64_t{1} << kMaxRowBits;
  for (std::int64_t row = 0; row < row_map.size(); ++row)
    if (row_map[row] < 0 || row_map[row] >= kMaxRows)
      return OutOfRange("row_map[", row, "] = ", row_map[row], " is not in 0..2^", kMaxRowBits,
                        " - 1");
  return OkStatus();
}

}  // namespace

StatusOr<Vocabulary> Vocabulary::MapRows(Span<const std::int64_t> row_map) const {
  FEEDFAST_RETURN_IF_ERROR(ValidateRowMap(row_map, num_rows()));
  ImageShape shape = shape_;
  shape.num_rows = 1 + *std::max_element(row_map.begin(), row_map.end());
  // Also without a row beyond 0: row_bits = 0 would stand for slot + 1.
  shape.row_bits = std::max(1, BitWidth(static_cast<std::uint64_t>(shape.num_rows - 1)));
  const ImageLayout from(shape_);
  const ImageLayout to(shape);
  AlignedBuffer<std::uint8_t> image(to.image_bytes);
  std::memset(image.data(), 0, static_cast<std::size_t>(image.size()));
  // All sections before the rows are where they were; their padding is 0 in both.
  std::memcpy(image.data() + kHeaderBytes, image_.data() + kHeaderBytes,
              static_cast<std::size_t>(from.sections[kRows].begin - kHeaderBytes));
  const std::uint8_t* const old_rows = image_.data() + from.sections[kRows].begin;
  std::uint8_t* const new_rows = image.data() + to.sections[kRows].begin;
  for (std::int64_t slot = 0; slot < shape.num_keys; ++slot) {
    std::int64_t row = slot + 1;
    if (shape_.row_bits != 0)
      row = static_cast<std::int64_t>(LoadPacked(old_rows, shape_.row_bits, slot));
    if (row >= shape_.num_rows) row = 0;  // as a lookup in an altered image
    StorePacked(new_rows, shape.row_bits, slot, static_cast<std::uint64_t>(row_map[row]));
  }
  SealImage(shape, image.span());
  Vocabulary mapped(image.span(), shape);
  mapped.owned_ = std::move(image);
  return mapped;
}

}  // namespace feedfast::mph
