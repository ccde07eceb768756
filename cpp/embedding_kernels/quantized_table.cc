#include "cpp/embedding_kernels/quantized_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpp/common/half.h"
#include "cpp/common/parallel_for.h"
#include "cpp/embedding_kernels/quantized_table_kernel.h"

namespace feedfast::embedding_kernels {
namespace {

constexpr std::int64_t kRowsPerRange = 1024;
constexpr KernelTable<decltype(&scalar::Quantize)> kQuantize = FEEDFAST_KERNEL_TABLE(Quantize);
constexpr KernelTable<decltype(&scalar::Dequantize)> kDequantize =
    FEEDFAST_KERNEL_TABLE(Dequantize);

}  // namespace

StatusOr<RangeMethod> ParseRangeMethod(std::string_view name) {
  if (name == "minmax") return RangeMethod::kMinMax;
  if (name == "clip") return RangeMethod::kClip;
  return InvalidArgument("method '", name, "' is unknown; allowed: minmax, clip");
}

Status ValidateQuantizable(const float* table, std::int64_t num_rows, std::int64_t dim) {
  for (std::int64_t i = 0; i < num_rows * dim; ++i)
    if (!(std::fabs(table[i]) <= kMaxHalf))
      return InvalidArgument("table[", i / dim, ", ", i % dim, "] = ", table[i],
                             " is outside [-65504, 65504], what a quantized table can hold");
  return OkStatus();
}

void QuantizeRows(const float* table, std::int64_t num_rows, std::int64_t dim, RowFormat format,
                  RangeMethod method, std::uint8_t* packed, int threads) {
  const std::int64_t row_bytes = RowBytes(format, dim);
  ParallelFor(num_rows, kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    kQuantize.Get()({table + begin * dim, end - begin, dim, format, method, nullptr,
                     packed + begin * row_bytes});
  });
}

Status ValidateRowsToUpdate(Span<const std::int64_t> rows, std::int64_t num_rows) {
  for (std::int64_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || rows[i] >= num_rows)
      return OutOfRange("rows[", i, "] = ", rows[i], " is not a row of a table with ", num_rows,
                        " rows");
  std::vector<std::int64_t> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return OkStatus();
  const std::int64_t* first = std::find(rows.begin(), rows.end(), *twice);
  const std::int64_t* second = std::find(first + 1, rows.end(), *twice);
  return InvalidArgument("rows[", second - rows.begin(), "] = ", *twice, " repeats rows[",
                         first - rows.begin(), "]; every row can be given once");
}

void QuantizeRowsAt(const float* values, Span<const std::int64_t> rows, std::int64_t dim,
                    RowFormat format, RangeMethod method, std::uint8_t* packed, int threads) {
  ParallelFor(rows.size(), kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    kQuantize.Get()(
        {values + begin * dim, end - begin, dim, format, method, rows.data() + begin, packed});
  });
}

void DequantizeRows(const Table& table, float* out, int threads) {
  const auto* packed = static_cast<const std::uint8_t*>(table.data);
  const std::int64_t row_bytes = RowBytes(table.format, table.dim);
  ParallelFor(table.num_rows, kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    kDequantize.Get()({packed + begin * row_bytes, end - begin, table.dim, table.format,
                       out + begin * table.dim});
  });
}

QuantizationError MeasureQuantizationError(const float* original, const Table& quantized,
                                           int threads) {
  struct Part {
    double greatest = 0.0;
    double squares = 0.0;
    std::int64_t saturated = 0;
  };
  const std::int64_t num_rows = quantized.num_rows;
  const std::int64_t dim = quantized.dim;
  const std::int64_t row_bytes = RowBytes(quantized.format, dim);
  const double max_code = quantized.format == RowFormat::kInt4Rowwise ? 15.0 : 255.0;
  const auto* packed = static_cast<const std::uint8_t*>(quantized.data);
  std::vector<Part> parts(static_cast<std::size_t>((num_rows + kRowsPerRange - 1) / kRowsPerRange));
  ParallelFor(num_rows, kRowsPerRange, threads, [&](std::int64_t begin, std::int64_t end) {
    Part& part = parts[static_cast<std::size_t>(begin / kRowsPerRange)];
    std::vector<float> decoded(static_cast<std::size_t>(dim));
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint8_t* row = packed + r * row_bytes;
      kDequantize.Get()({row, 1, dim, quantized.format, decoded.data()});
      std::uint16_t header[2];
      std::memcpy(header, row, sizeof header);
      const double scale = HalfToFloat(header[0]);
      const double low = HalfToFloat(header[1]) - scale / 2;
      const double high = HalfToFloat(header[1]) + (max_code + 0.5) * scale;
      bool saturated = false;
      for (std::int64_t j = 0; j < dim; ++j) {
        const double w = original[r * dim + j];
        const double error = std::fabs(w - decoded[static_cast<std::size_t>(j)]);
        part.greatest = std::max(part.greatest, error);
        part.squares += error * error;
        saturated |= scale != 0.0 && (w < low || w > high);
      }
      part.saturated += saturated ? 1 : 0;
    }
  });
  Part all;
  for (const Part& part : parts) {
    all.greatest = std::max(all.greatest, part.greatest);
    all.squares += part.squares;
    all.saturated += part.saturated;
  }
  if (num_rows == 0) return {};
  return {all.greatest,
          std::sqrt(all.squares / (static_cast<double>(num_rows) * static_cast<double>(dim))),
          static_cast<double>(all.saturated) / static_cast<double>(num_rows)};
}

}  // namespace feedfast::embedding_kernels
