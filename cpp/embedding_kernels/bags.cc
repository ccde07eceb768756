#include "cpp/embedding_kernels/bags.h"

#include <cmath>
#include <cstring>

namespace feedfast::embedding_kernels {
namespace {

// The loops below run without a branch per element; the search for the culprit runs only when there
// is one.

template <typename Offset>
Status ValidateOffsets(Span<const Offset> offsets, std::int64_t num_values) {
  if (offsets.empty()) return InvalidArgument("offsets is empty; it needs num_bags + 1 values");
  if (offsets[0] != 0) return InvalidArgument("offsets[0] = ", offsets[0], " must be 0");
  const Offset* at = offsets.data();
  const std::int64_t last = offsets.size() - 1;
  bool falls = false;
  for (std::int64_t b = 0; b < last; ++b) falls |= at[b + 1] < at[b];
  for (std::int64_t b = 1; falls && b <= last; ++b)
    if (at[b] < at[b - 1])
      return InvalidArgument("offsets[", b, "] = ", at[b], " is below offsets[", b - 1,
                             "] = ", at[b - 1]);
  if (at[last] != num_values)
    return InvalidArgument("offsets[", last, "] = ", at[last], " must equal the number of values, ",
                           num_values);
  return OkStatus();
}

template <typename Id>
Status ValidateValues(Span<const Id> values, std::int64_t num_rows) {
  const Id* ids = values.data();
  const std::int64_t last_row = num_rows - 1;
  // The sign of id | (last_row - id) is set for an id outside [0, last_row]: either one of the two
  // is negative, or the id is and the difference does not matter. Unsigned, because the difference
  // may wrap.
  std::uint64_t signs = 0;
  for (std::int64_t i = 0; i < values.size(); ++i) {
    const auto id = static_cast<std::uint64_t>(std::int64_t{ids[i]});
    signs |= id | (static_cast<std::uint64_t>(last_row) - id);
  }
  if (signs >> 63 != 0)
    for (std::int64_t i = 0; i < values.size(); ++i)
      if (ids[i] < 0 || ids[i] > last_row)
        return OutOfRange("values[", i, "] = ", ids[i], " is not a row of a table with ", num_rows,
                          " rows");
  return OkStatus();
}

Status ValidateWeights(Span<const float> weights, std::int64_t num_values) {
  if (weights.size() != num_values)
    return InvalidArgument("weights has ", weights.size(), " values; it must have one for each of ",
                           num_values, " ids");
  // An infinite or NaN weight has every bit of the exponent set: adding one to it carries into the
  // sign.
  constexpr std::uint32_t kExponent = 0x7f800000u;
  std::uint32_t signs = 0;
  for (std::int64_t i = 0; i < num_values; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, weights.data() + i, sizeof bits);
    signs |= (bits & kExponent) + 0x00800000u;
  }
  if (signs >> 31 != 0)
    for (std::int64_t i = 0; i < num_values; ++i)
      if (!std::isfinite(weights[i]))
        return InvalidArgument("weights[", i, "] = ", weights[i], " is not finite");
  return OkStatus();
}

}  // namespace

StatusOr<Pooling> ParsePooling(std::string_view name) {
  if (name == "sum") return Pooling::kSum;
  if (name == "mean") return Pooling::kMean;
  if (name == "sqrtn") return Pooling::kSqrtN;
  return InvalidArgument("pooling '", name, "' is unknown; allowed: sum, mean, sqrtn");
}

Status ValidateBags(const Bags& bags, std::int64_t num_rows) {
  const std::int64_t num_values = bags.values.size();
  FEEDFAST_RETURN_IF_ERROR(
      bags.offsets.Visit([&](auto offsets) { return ValidateOffsets(offsets, num_values); }));
  FEEDFAST_RETURN_IF_ERROR(
      bags.values.Visit([&](auto values) { return ValidateValues(values, num_rows); }));
  return bags.weights ? ValidateWeights(*bags.weights, num_values) : OkStatus();
}

Status OffsetsOfBags(std::string_view name, const std::int64_t* bag_of, std::int64_t num_values,
                     std::int64_t stride, std::int64_t num_bags, std::int64_t* offsets) {
  std::int64_t next = 0;  // offset to write
  for (std::int64_t i = 0; i < num_values; ++i) {
    const std::int64_t bag = bag_of[i * stride];
    // The offsets up to that of the bag before have been written, and nothing behind them.
    if (bag < 0 || bag >= num_bags)
      return InvalidArgument(name, "[", i, "] = ", bag, " is not one of ", num_bags, " rows");
    if (bag + 1 < next)
      return InvalidArgument(name, "[", i, "] = ", bag, " is below ", name, "[", i - 1,
                             "] = ", next - 1, "; they must ascend");
    while (next <= bag) offsets[next++] = i;
  }
  while (next <= num_bags) offsets[next++] = num_values;
  return OkStatus();
}

}  // namespace feedfast::embedding_kernels
