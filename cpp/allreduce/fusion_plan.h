#ifndef FEEDFAST_CPP_ALLREDUCE_FUSION_PLAN_H_
#define FEEDFAST_CPP_ALLREDUCE_FUSION_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::allreduce {

// Where one gradient lies in the fused array, in elements.
struct FusionSlot {
  std::int64_t offset;
  std::int64_t size;
};

// The layout of all gradients of one dtype in one flat array, so that one all-reduce carries them
// all. Gradients keep their order; each starts on a cache line, and the array ends on one:
//   offset(0) = 0,  offset(i + 1) = offset(i) + size(i) rounded up to a multiple of 64 bytes
// The layout follows from the shapes and the dtype alone, so every process computes the same one.
// Elements between the gradients are zero.
class FusionPlan {
 public:
  // Shapes as in numpy: {} is a scalar, a dimension of 0 makes an empty gradient. `item_bytes`, the
  // size of an element, divides 64. InvalidArgument: a negative dimension, or the array would have
  // more than 2^62 bytes; the message names gradient and dimension.
  static StatusOr<FusionPlan> Create(Span<const std::vector<std::int64_t>> shapes,
                                     std::int64_t item_bytes);

  // In the order of the shapes.
  Span<const FusionSlot> slots() const noexcept { return slots_; }
  // Elements of the array, those between gradients included.
  std::int64_t num_elements() const noexcept { return num_elements_; }

 private:
  std::vector<FusionSlot> slots_;
  std::int64_t num_elements_ = 0;
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_FUSION_PLAN_H_
