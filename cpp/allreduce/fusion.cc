#include "cpp/allreduce/fusion.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpp/allreduce/add_kernel.h"
#include "cpp/allreduce/fusion_kernel.h"
#include "cpp/common/parallel_for.h"

namespace feedfast::allreduce {
namespace {

// Elements that one thread takes at a time.
constexpr std::int64_t kGrain = std::int64_t{1} << 16;

template <typename T>
auto ScaleKernel() {
  if constexpr (std::is_same_v<T, float>) {
    static constexpr KernelTable<decltype(&scalar::ScaleFloat)> kTable =
        FEEDFAST_KERNEL_TABLE(ScaleFloat);
    return kTable.Get();
  } else {
    static constexpr KernelTable<decltype(&scalar::ScaleDouble)> kTable =
        FEEDFAST_KERNEL_TABLE(ScaleDouble);
    return kTable.Get();
  }
}

// For gradients of one format of 16 bits.
struct NarrowKernels {
  decltype(&scalar::AddFloat16) add;
  decltype(&scalar::WidenFloat16) widen;
  decltype(&scalar::ScaleToFloat16) scale;
};

NarrowKernels NarrowKernelsOf(ItemFormat format) {
  static constexpr KernelTable<decltype(&scalar::AddFloat16)> kAdd[] = {
      FEEDFAST_KERNEL_TABLE(AddFloat16), FEEDFAST_KERNEL_TABLE(AddBfloat16)};
  static constexpr KernelTable<decltype(&scalar::WidenFloat16)> kWiden[] = {
      FEEDFAST_KERNEL_TABLE(WidenFloat16), FEEDFAST_KERNEL_TABLE(WidenBfloat16)};
  static constexpr KernelTable<decltype(&scalar::ScaleToFloat16)> kScale[] = {
      FEEDFAST_KERNEL_TABLE(ScaleToFloat16), FEEDFAST_KERNEL_TABLE(ScaleToBfloat16)};
  const int index = format == ItemFormat::kBfloat16 ? 1 : 0;
  return {kAdd[index].Get(), kWiden[index].Get(), kScale[index].Get()};
}

// Calls narrow(kernels) for a gradient of 16 bits an element, whole() for one of T.
template <typename T, typename Narrow, typename Whole>
void ByFormat(ItemFormat format, const Narrow& narrow, const Whole& whole) {
  if constexpr (std::is_same_v<T, float>)
    if (format != ItemFormat::kFused) return narrow(NarrowKernelsOf(format));
  whole();
}

// Calls body(gradient, first, position, count) for the part of every gradient that lies in
// [begin, end): its elements first..first + count - 1 are at `position` of the fused array.
template <typename Body>
void ForEachPart(const FusionPlan& plan, std::int64_t begin, std::int64_t end, const Body& body) {
  const Span<const FusionSlot> slots = plan.slots();
  const FusionSlot* slot = std::partition_point(
      slots.begin(), slots.end(),
      [begin](const FusionSlot& each) { return each.offset + each.size <= begin; });
  for (; slot != slots.end() && slot->offset < end; ++slot) {
    const std::int64_t first = std::max<std::int64_t>(begin - slot->offset, 0);
    const std::int64_t count = std::min(slot->size, end - slot->offset) - first;
    if (count > 0) body(slot - slots.begin(), first, slot->offset + first, count);
  }
}

// Element `first` of a gradient and what follows it.
template <typename Item>
const Item* From(const void* gradient, std::int64_t first) {
  return static_cast<const Item*>(gradient) + first;
}

template <typename T>
std::size_t Bytes(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(T);
}

}  // namespace

template <typename T>
void StoreGradients(const FusionPlan& plan, Span<const void* const> gradients, std::int64_t begin,
                    std::int64_t end, T* fused) noexcept {
  std::int64_t written = begin;
  const auto zero_until = [&](std::int64_t position) {
    if (position > written) std::memset(fused + written, 0, Bytes<T>(position - written));
  };
  ForEachPart(plan, begin, end,
              [&](std::int64_t i, std::int64_t first, std::int64_t position, std::int64_t count) {
                T* const out = fused + position;
                zero_until(position);
                ByFormat<T>(
                    plan.slots()[i].format,
                    [&](const auto& kernels) {
                      kernels.widen(From<std::uint16_t>(gradients[i], first), count, out);
                    },
                    [&] { std::memcpy(out, From<T>(gradients[i], first), Bytes<T>(count)); });
                written = position + count;
              });
  zero_until(end);
}

template <typename T>
void AddGradients(const FusionPlan& plan, Span<const void* const> gradients, std::int64_t begin,
                  std::int64_t end, T* fused) noexcept {
  const auto add = AddKernel<T>();
  ForEachPart(plan, begin, end,
              [&](std::int64_t i, std::int64_t first, std::int64_t position, std::int64_t count) {
                T* const sum = fused + position;
                ByFormat<T>(
                    plan.slots()[i].format,
                    [&](const auto& kernels) {
                      kernels.add(From<std::uint16_t>(gradients[i], first), count, sum);
                    },
                    [&] { add(From<T>(gradients[i], first), count, sum); });
              });
}

template <typename T>
void UnpackGradients(const FusionPlan& plan, const T* fused, T scale, std::int64_t begin,
                     std::int64_t end, Span<void* const> gradients) noexcept {
  const auto multiply = ScaleKernel<T>();
  ForEachPart(plan, begin, end,
              [&](std::int64_t i, std::int64_t first, std::int64_t position, std::int64_t count) {
                const T* const sum = fused + position;
                ByFormat<T>(
                    plan.slots()[i].format,
                    [&](const auto& kernels) {
                      kernels.scale(sum, scale, count,
                                    static_cast<std::uint16_t*>(gradients[i]) + first);
                    },
                    [&] { multiply(sum, scale, count, static_cast<T*>(gradients[i]) + first); });
              });
}

template <typename T>
void FusionArena<T>::Accumulate(Span<const void* const> gradients, int threads) {
  const bool first = num_accumulated_ == 0;
  ParallelFor(fused_.size(), kGrain, threads, [&](std::int64_t begin, std::int64_t end) {
    if (first) {
      StoreGradients(plan_, gradients, begin, end, fused_.data());
    } else {
      AddGradients(plan_, gradients, begin, end, fused_.data());
    }
  });
  ++num_accumulated_;
}

template <typename T>
void FusionArena<T>::Unpack(T scale, Span<void* const> gradients, int threads) const {
  ParallelFor(fused_.size(), kGrain, threads, [&](std::int64_t begin, std::int64_t end) {
    UnpackGradients(plan_, fused_.data(), scale, begin, end, gradients);
  });
}

template void StoreGradients(const FusionPlan&, Span<const void* const>, std::int64_t, std::int64_t,
                             float*) noexcept;
template void StoreGradients(const FusionPlan&, Span<const void* const>, std::int64_t, std::int64_t,
                             double*) noexcept;
template void AddGradients(const FusionPlan&, Span<const void* const>, std::int64_t, std::int64_t,
                           float*) noexcept;
template void AddGradients(const FusionPlan&, Span<const void* const>, std::int64_t, std::int64_t,
                           double*) noexcept;
template void UnpackGradients(const FusionPlan&, const float*, float, std::int64_t, std::int64_t,
                              Span<void* const>) noexcept;
template void UnpackGradients(const FusionPlan&, const double*, double, std::int64_t, std::int64_t,
                              Span<void* const>) noexcept;
template class FusionArena<float>;
template class FusionArena<double>;

}  // namespace feedfast::allreduce
