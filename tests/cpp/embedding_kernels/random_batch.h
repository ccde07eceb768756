#ifndef FEEDFAST_TESTS_CPP_EMBEDDING_KERNELS_RANDOM_BATCH_H_
#define FEEDFAST_TESTS_CPP_EMBEDDING_KERNELS_RANDOM_BATCH_H_

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/quantized_table.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels {

constexpr std::uint32_t kSeed = 20240601;
constexpr RowFormat kFormats[] = {RowFormat::kFloat32, RowFormat::kFloat16, RowFormat::kBfloat16,
                                  RowFormat::kInt8Rowwise, RowFormat::kInt4Rowwise};
constexpr Pooling kPoolings[] = {Pooling::kSum, Pooling::kMean, Pooling::kSqrtN};

// Bags that own their arrays.
struct OwnedBags {
  std::vector<std::int64_t> values;
  std::vector<std::int64_t> offsets = {0};
  std::vector<float> weights;
  std::vector<std::int32_t> values32;  // the same integers, filled by View32
  std::vector<std::int32_t> offsets32;

  void Add(const std::vector<std::int64_t>& ids) {
    values.insert(values.end(), ids.begin(), ids.end());
    offsets.push_back(static_cast<std::int64_t>(values.size()));
  }
  Bags View() const { return {values, offsets}; }
  // int32 ids where `narrow_values` is set, int32 offsets where `narrow_offsets` is.
  Bags View32(bool narrow_values, bool narrow_offsets) {
    values32.assign(values.begin(), values.end());
    offsets32.assign(offsets.begin(), offsets.end());
    return {narrow_values ? IndexSpan(values32) : IndexSpan(values),
            narrow_offsets ? IndexSpan(offsets32) : IndexSpan(offsets), Span<const float>(weights)};
  }
  Bags WeightedView() const { return {values, offsets, Span<const float>(weights)}; }
};

// Both ends of the table, repeated ids, empty bags first, in the middle and last, a bag of one, a
// bag of 300 ids, and random ones of mean length 5; weights in [0.1, 2).
inline OwnedBags RandomBags(std::int64_t num_rows, int num_random_bags, std::mt19937& rng) {
  std::uniform_int_distribution<std::int64_t> row(0, num_rows - 1);
  std::uniform_int_distribution<int> length(0, 10);
  const auto random_ids = [&](int n) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(n));
    for (std::int64_t& id : ids) id = row(rng);
    return ids;
  };
  OwnedBags bags;
  bags.Add({});
  bags.Add({0, num_rows - 1});
  bags.Add({num_rows - 1, num_rows - 1, num_rows - 1});
  bags.Add({});
  bags.Add({0});
  bags.Add(random_ids(300));
  for (int b = 0; b < num_random_bags; ++b) bags.Add(random_ids(length(rng)));
  bags.Add({});
  std::uniform_real_distribution<float> weight(0.1f, 2.0f);
  for (std::size_t i = 0; i < bags.values.size(); ++i) bags.weights.push_back(weight(rng));
  return bags;
}

inline std::vector<float> RandomFloats(std::int64_t size, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(size));
  for (float& v : x) v = normal(rng);
  return x;
}

// A random table in its memory layout and the same numbers decoded to doubles.
struct OwnedTable {
  std::vector<std::uint8_t> bytes;
  std::vector<double> decoded;
  Table view;
};

inline OwnedTable RandomTable(RowFormat format, std::int64_t num_rows, std::int64_t dim,
                              std::mt19937& rng) {
  const std::vector<float> x = RandomFloats(num_rows * dim, rng);
  OwnedTable table;
  table.bytes.resize(static_cast<std::size_t>(num_rows * RowBytes(format, dim)));
  if (IsQuantized(format))
    QuantizeRows(x.data(), num_rows, dim, format, RangeMethod::kMinMax, table.bytes.data(), 1);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    std::uint8_t* row = table.bytes.data() + r * RowBytes(format, dim);
    for (std::int64_t j = 0; j < dim; ++j) {
      const float value = x[static_cast<std::size_t>(r * dim + j)];
      std::uint16_t half = HalfFloor(value);
      if (format == RowFormat::kFloat32) {
        std::memcpy(row + 4 * j, &value, 4);
        table.decoded.push_back(value);
      } else if (format == RowFormat::kFloat16) {
        std::memcpy(row + 2 * j, &half, 2);
        table.decoded.push_back(HalfToFloat(half));
      } else if (format == RowFormat::kBfloat16) {
        std::memcpy(&half, reinterpret_cast<const char*>(&value) + 2, 2);
        std::memcpy(row + 2 * j, &half, 2);
        table.decoded.push_back(Bfloat16ToFloat(half));
      } else {
        std::uint16_t header[2];
        std::memcpy(header, row, sizeof header);
        const double scale = HalfToFloat(header[0]);
        const int code = format == RowFormat::kInt8Rowwise
                             ? row[kInt8HeaderBytes + j]
                             : row[kInt8HeaderBytes + j / 2] >> (4 * (j % 2)) & 15;
        table.decoded.push_back(scale * code + HalfToFloat(header[1]));
      }
    }
  }
  table.view = {table.bytes.data(), num_rows, dim, format};
  return table;
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_TESTS_CPP_EMBEDDING_KERNELS_RANDOM_BATCH_H_
