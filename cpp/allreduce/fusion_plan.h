#ifndef FEEDFAST_CPP_ALLREDUCE_FUSION_PLAN_H_
#define FEEDFAST_CPP_ALLREDUCE_FUSION_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::allreduce {

// How the elements of a gradient are stored outside of the fused array.
enum class ItemFormat : std::uint8_t {
  kFused,     // as those of the fused array
  kFloat16,   // IEEE binary16; the fused array is float
  kBfloat16,  // the upper half of a float; the fused array is float
};

// Where one gradient lies in the fused array, in elements.
struct FusionSlot {
  std::int64_t offset;
  std::int64_t size;
  ItemFormat format;
};

// The layout of all gradients in one flat array, so that one all-reduce carries them all. Gradients
// of 16 bits lie among those of float: sums of them in their own dtype would lose a bit with every
// doubling of micro-batches and processes, and an array of their own would be one exchange more.
// Gradients keep their order; each starts on a cache line, and the array ends on one:
//   offset(0) = 0,  offset(i + 1) = offset(i) + size(i) rounded up to a multiple of 64 bytes
// The layout follows from the shapes and `item_bytes` alone, so every process computes the same
// one. Elements between the gradients are zero.
class FusionPlan {
 public:
  // Shapes as in numpy: {} is a scalar, a dimension of 0 makes an empty gradient. `item_bytes`, the
  // size of an element of the fused array, divides 64. `formats` are those of the gradients; none
  // means kFused for all. InvalidArgument: a negative dimension, the array would have more than
  // 2^62 bytes, another number of formats, or one of 16 bits where item_bytes is not 4; the message
  // names gradient and dimension.
  static StatusOr<FusionPlan> Create(Span<const std::vector<std::int64_t>> shapes,
                                     std::int64_t item_bytes, Span<const ItemFormat> formats = {});

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
