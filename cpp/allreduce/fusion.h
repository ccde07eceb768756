#ifndef FEEDFAST_CPP_ALLREDUCE_FUSION_H_
#define FEEDFAST_CPP_ALLREDUCE_FUSION_H_

#include <cstdint>
#include <utility>

#include "cpp/allreduce/fusion_plan.h"
#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"

namespace feedfast::allreduce {

// Copies between gradients and the fused array of a plan made for sizeof(T); T is float or double.
// Each works on the elements [begin, end) of the fused array alone, so that callers split the work
// over threads as they like; [0, plan.num_elements()) is all of it. gradients[i] has
// plan.slots()[i].size elements of plan.slots()[i].format (T where that is kFused) and may be null
// when it has none. Nothing overlaps. 16-bit elements convert to T exactly, each sum is rounded
// once, and so is each product, which is then rounded to 16 bits where the gradient has 16: the
// bits are the same for every CPU target and every split.

// fused[slot(i) + j] = gradients[i][j], and zero between the gradients.
template <typename T>
void StoreGradients(const FusionPlan& plan, Span<const void* const> gradients, std::int64_t begin,
                    std::int64_t end, T* fused) noexcept;

// fused[slot(i) + j] += gradients[i][j]; what is between the gradients stays.
template <typename T>
void AddGradients(const FusionPlan& plan, Span<const void* const> gradients, std::int64_t begin,
                  std::int64_t end, T* fused) noexcept;

// gradients[i][j] = scale * fused[slot(i) + j], to nearest with ties to even.
template <typename T>
void UnpackGradients(const FusionPlan& plan, const T* fused, T scale, std::int64_t begin,
                     std::int64_t end, Span<void* const> gradients) noexcept;

// The fused array over a window of micro-batches: the first one stores, later ones add in the order
// of the calls, so nothing is ever set to zero in between. Movable.
template <typename T>
class FusionArena {
 public:
  explicit FusionArena(FusionPlan plan) : plan_(std::move(plan)), fused_(plan_.num_elements()) {}

  const FusionPlan& plan() const noexcept { return plan_; }
  // Micro-batches in the window so far.
  std::int64_t num_accumulated() const noexcept { return num_accumulated_; }
  // The array to reduce, on a cache line; its address stays the same. Zeros before the first
  // micro-batch ever.
  Span<T> fused() noexcept { return fused_.span(); }

  // Adds one micro-batch, or stores it when it is the first of its window. Requires threads >= 1.
  void Accumulate(Span<const void* const> gradients, int threads);
  // gradients[i][j] = scale * sum of the window; 1 / (micro-batches * processes) makes it the mean.
  void Unpack(T scale, Span<void* const> gradients, int threads) const;
  // Begins a new window: the next micro-batch stores.
  void StartWindow() noexcept { num_accumulated_ = 0; }

 private:
  FusionPlan plan_;
  AlignedBuffer<T> fused_;
  std::int64_t num_accumulated_ = 0;
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_FUSION_H_
