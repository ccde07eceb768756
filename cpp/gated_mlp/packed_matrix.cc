#include "cpp/gated_mlp/packed_matrix.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "cpp/common/cpu_target.h"

namespace feedfast::gated_mlp {

FEEDFAST_DECLARE_KERNEL(void, DenseFp32, (const DenseArgs& args));
FEEDFAST_DECLARE_KERNEL(void, DenseBf16, (const DenseArgs& args));
FEEDFAST_DECLARE_KERNEL(void, DenseInt8, (const DenseArgs& args));
FEEDFAST_DECLARE_KERNEL(void, ConvertBf16, (const ConvertArgs& args));
FEEDFAST_DECLARE_KERNEL(void, ConvertInt8, (const ConvertArgs& args));

namespace {

using DenseTable = KernelTable<decltype(&scalar::DenseFp32)>;
using ConvertTable = KernelTable<decltype(&scalar::ConvertBf16)>;
constexpr DenseTable kDenseFp32 = FEEDFAST_KERNEL_TABLE(DenseFp32);
constexpr DenseTable kDenseBf16 = FEEDFAST_KERNEL_TABLE(DenseBf16);
constexpr DenseTable kDenseInt8 = FEEDFAST_KERNEL_TABLE(DenseInt8);
constexpr ConvertTable kConvertBf16 = FEEDFAST_KERNEL_TABLE(ConvertBf16);
constexpr ConvertTable kConvertInt8 = FEEDFAST_KERNEL_TABLE(ConvertInt8);

constexpr std::int64_t kWordBytes = 4;

// Writes values [in, out] to the panels. Inputs from `prefix` on are moved to the group border
// behind it.
template <typename T>
void PackValues(Span<const T> values, std::int64_t out, PackedMatrix& packed) {
  constexpr auto kGroup = kWordBytes / static_cast<std::int64_t>(sizeof(T));
  auto* bytes = reinterpret_cast<unsigned char*>(packed.panels.data());
  for (std::int64_t first = 0; first < out; first += kPanelColumns) {
    const std::int64_t width = std::min(kPanelColumns, packed.padded_out - first);
    const std::int64_t columns = std::min(kPanelColumns, out - first);
    unsigned char* panel = bytes + first * packed.num_groups * kWordBytes;
    for (std::int64_t k = 0; k < packed.in; ++k) {
      const std::int64_t place =
          k < packed.prefix ? k : packed.prefix_groups * kGroup + k - packed.prefix;
      const T* row = values.data() + k * out + first;
      unsigned char* target = panel + place / kGroup * width * kWordBytes +
                              place % kGroup * static_cast<std::int64_t>(sizeof(T));
      for (std::int64_t j = 0; j < columns; ++j)
        std::memcpy(target + j * kWordBytes, row + j, sizeof(T));
    }
  }
}

}  // namespace

std::int64_t RoundUp(std::int64_t value, std::int64_t multiple) noexcept {
  return (value + multiple - 1) / multiple * multiple;
}

std::int64_t RowStride(std::int64_t size) noexcept {
  return size > 0 ? RoundUp(size, kColumnAlign) + kColumnAlign : 0;
}

std::int64_t RowsPerThread(std::int64_t num_rows, int threads) noexcept {
  constexpr std::int64_t kTallestTile = 6;
  return RoundUp((num_rows + threads - 1) / threads, kTallestTile);
}

std::int64_t GroupSize(Precision precision) noexcept {
  switch (precision) {
    case Precision::kFp32:
      return 1;
    case Precision::kBf16:
      return 2;
    case Precision::kInt8:
      break;
  }
  return 4;
}

std::int64_t NumGroups(Precision precision, std::int64_t size) noexcept {
  const std::int64_t group = GroupSize(precision);
  return (size + group - 1) / group;
}

std::int64_t PackedMatrix::nbytes() const noexcept {
  return kWordBytes *
         (panels.size() + bias.size() + scales.size() + prefix_sums.size() + own_sums.size());
}

PackedMatrix Pack(const WeightView& weights, Span<const float> bias, std::int64_t in,
                  std::int64_t out, std::int64_t prefix) {
  assert(weights.size() == in * out);
  PackedMatrix packed;
  packed.precision = weights.precision();
  packed.in = in;
  packed.padded_out = RoundUp(out, kColumnAlign);
  if (packed.precision == Precision::kInt8) packed.prefix = prefix;
  packed.prefix_groups = NumGroups(packed.precision, packed.prefix);
  packed.num_groups = packed.prefix_groups + NumGroups(packed.precision, in - packed.prefix);
  packed.panels = AlignedBuffer<std::uint32_t>(packed.num_groups * packed.padded_out);
  packed.bias = AlignedBuffer<float>(packed.padded_out);
  std::copy(bias.begin(), bias.end(), packed.bias.data());
  switch (packed.precision) {
    case Precision::kFp32:
      PackValues(weights.floats(), out, packed);
      break;
    case Precision::kBf16:
      PackValues(weights.bf16(), out, packed);
      break;
    case Precision::kInt8:
      PackValues(weights.int8(), out, packed);
      packed.scales = AlignedBuffer<float>(packed.padded_out);
      packed.prefix_sums = AlignedBuffer<std::int32_t>(packed.padded_out);
      packed.own_sums = AlignedBuffer<std::int32_t>(packed.padded_out);
      std::copy(weights.scales().begin(), weights.scales().end(), packed.scales.data());
      for (std::int64_t k = 0; k < in; ++k) {
        std::int32_t* sums = (k < prefix ? packed.prefix_sums : packed.own_sums).data();
        for (std::int64_t j = 0; j < out; ++j) sums[j] += weights.int8()[k * out + j];
      }
      break;
  }
  return packed;
}

Status CheckWeights(const char* where, const char* name, const WeightView& weights,
                    std::int64_t rows, std::int64_t columns) {
  // Without multiplying: both sizes come from the caller.
  if (weights.size() % columns != 0 || weights.size() / columns != rows)
    return InvalidArgument(where, name, " has ", weights.size(), " values; expected ", rows, " x ",
                           columns);
  if (weights.precision() != Precision::kInt8) return OkStatus();
  if (rows > kMostInt8Inputs)
    return InvalidArgument(where, name, " has ", rows, " rows; int8 sums hold at most ",
                           kMostInt8Inputs);
  const Span<const float> scales = weights.scales();
  if (scales.size() != columns)
    return InvalidArgument(where, name, " has ", scales.size(), " scales; expected ", columns);
  for (std::int64_t j = 0; j < columns; ++j)
    if (!(scales[j] >= 0) || std::isinf(scales[j]))
      return InvalidArgument(where, "scale ", j, " of ", name, " is ", scales[j],
                             "; it must be finite and not negative");
  return OkStatus();
}

void RunDense(const PackedMatrix& matrix, std::int64_t group_begin, std::int64_t group_end,
              DenseArgs args) noexcept {
  args.panels = matrix.panels.data();
  args.num_groups = matrix.num_groups;
  args.group_begin = group_begin;
  args.group_end = group_end;
  args.padded_out = matrix.padded_out;
  args.column_scales = matrix.scales.data();
  args.column_sums =
      (group_begin < matrix.prefix_groups ? matrix.prefix_sums : matrix.own_sums).data();
  switch (matrix.precision) {
    case Precision::kFp32:
      return kDenseFp32.Get()(args);
    case Precision::kBf16:
      return kDenseBf16.Get()(args);
    case Precision::kInt8:
      return kDenseInt8.Get()(args);
  }
}

void Convert(Precision precision, const ConvertArgs& args) noexcept {
  assert(precision != Precision::kFp32);
  if (precision == Precision::kBf16) return kConvertBf16.Get()(args);
  kConvertInt8.Get()(args);
}

}  // namespace feedfast::gated_mlp
