#include "cpp/embedding_kernels/bags.h"

#include <cmath>

namespace feedfast::embedding_kernels {
namespace {

Status ValidateOffsets(Span<const std::int64_t> offsets, std::int64_t num_values) {
  if (offsets.empty()) return InvalidArgument("offsets is empty; it needs num_bags + 1 values");
  if (offsets[0] != 0) return InvalidArgument("offsets[0] = ", offsets[0], " must be 0");
  for (std::int64_t b = 1; b < offsets.size(); ++b)
    if (offsets[b] < offsets[b - 1])
      return InvalidArgument("offsets[", b, "] = ", offsets[b], " is below offsets[", b - 1,
                             "] = ", offsets[b - 1]);
  const std::int64_t last = offsets.size() - 1;
  if (offsets[last] != num_values)
    return InvalidArgument("offsets[", last, "] = ", offsets[last],
                           " must equal the number of values, ", num_values);
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
  FEEDFAST_RETURN_IF_ERROR(ValidateOffsets(bags.offsets, num_values));
  // Without a branch per id; the search for the culprit runs only when there is one.
  const std::int64_t* values = bags.values.data();
  bool in_range = true;
  for (std::int64_t i = 0; i < num_values; ++i)
    in_range &= static_cast<std::uint64_t>(values[i]) < static_cast<std::uint64_t>(num_rows);
  if (!in_range)
    for (std::int64_t i = 0; i < num_values; ++i)
      if (values[i] < 0 || values[i] >= num_rows)
        return OutOfRange("values[", i, "] = ", values[i], " is not a row of a table with ",
                          num_rows, " rows");
  if (!bags.weights) return OkStatus();
  const Span<const float> weights = *bags.weights;
  if (weights.size() != num_values)
    return InvalidArgument("weights has ", weights.size(), " values; it must have one for each of ",
                           num_values, " ids");
  for (std::int64_t i = 0; i < num_values; ++i)
    if (!std::isfinite(weights[i]))
      return InvalidArgument("weights[", i, "] = ", weights[i], " is not finite");
  return OkStatus();
}

}  // namespace feedfast::embedding_kernels
