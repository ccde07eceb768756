#include "cpp/allreduce/fusion_plan.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

#include "cpp/common/aligned_buffer.h"

namespace feedfast::allreduce {
namespace {

constexpr std::int64_t kMaxBytes = std::int64_t{1} << 62;

// The number of elements of `shape`, or -1 when it is above `limit`.
std::int64_t NumElements(Span<const std::int64_t> shape, std::int64_t limit) {
  // An empty gradient stays empty however large its other dimensions are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::int64_t size = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension > limit / size) return -1;
    size *= dimension;
  }
  return size;
}

}  // namespace

StatusOr<FusionPlan> FusionPlan::Create(Span<const std::vector<std::int64_t>> shapes,
                                        std::int64_t item_bytes, Span<const ItemFormat> formats) {
  assert(item_bytes > 0 && kCacheLineBytes % item_bytes == 0);
  if (!formats.empty() && formats.size() != shapes.size())
    return InvalidArgument(formats.size(), " formats for ", shapes.size(), " gradients");
  for (std::int64_t i = 0; i < formats.size(); ++i)
    if (formats[i] != ItemFormat::kFused && item_bytes != sizeof(float))
      return InvalidArgument("formats[", i, "] has 16 bits; sums of it are float32, not ",
                             item_bytes, " bytes");
  const std::int64_t line = kCacheLineBytes / item_bytes;
  const std::int64_t limit = kMaxBytes / item_bytes - line;
  FusionPlan plan;
  plan.slots_.reserve(static_cast<std::size_t>(shapes.size()));
  for (std::int64_t i = 0; i < shapes.size(); ++i) {
    const Span<const std::int64_t> shape = shapes[i];
    for (std::int64_t axis = 0; axis < shape.size(); ++axis)
      if (shape[axis] < 0)
        return InvalidArgument("shapes[", i, "][", axis, "] = ", shape[axis],
                               "; a dimension must be >= 0");
    const std::int64_t size = NumElements(shape, limit - plan.num_elements_);
    if (size < 0)
      return InvalidArgument("shapes[", i, "] makes the fused array larger than ", kMaxBytes,
                             " bytes");
    plan.slots_.push_back(
        {plan.num_elements_, size, formats.empty() ? ItemFormat::kFused : formats[i]});
    plan.num_elements_ += (size + line - 1) / line * line;
  }
  return plan;
}

}  // namespace feedfast::allreduce
