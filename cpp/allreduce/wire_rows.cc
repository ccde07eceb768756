#include "cpp/allreduce/wire_rows.h"

#include <cassert>
#include <cstring>

#include "cpp/allreduce/wire_rows_kernel.h"

namespace feedfast::allreduce {
namespace {

constexpr KernelTable<decltype(&scalar::ToBfloat16)> kToBfloat16 =
    FEEDFAST_KERNEL_TABLE(ToBfloat16);
constexpr KernelTable<decltype(&scalar::FromBfloat16)> kFromBfloat16 =
    FEEDFAST_KERNEL_TABLE(FromBfloat16);

// Floats that are asked for ahead of the row that is copied: 64 cache lines.
constexpr std::int64_t kFloatsAhead = 1024;

}  // namespace

void GatherRows(const float* values, std::int64_t dim, Span<const std::int64_t> positions,
                float* out) noexcept {
  const std::int64_t ahead = dim < kFloatsAhead ? kFloatsAhead / dim : 1;
  const auto bytes = static_cast<std::size_t>(dim) * sizeof(float);
  for (std::int64_t k = 0; k < positions.size(); ++k) {
    if (k + ahead < positions.size()) {
      const float* later = values + positions[k + ahead] * dim;
      for (std::int64_t j = 0; j < dim; j += 16) __builtin_prefetch(later + j);
    }
    std::memcpy(out + k * dim, values + positions[k] * dim, bytes);
  }
}

void ToBfloat16(Span<const float> values, Span<std::uint16_t> bits) noexcept {
  assert(values.size() == bits.size());
  kToBfloat16.Get()(values.data(), values.size(), bits.data());
}

void FromBfloat16(Span<const std::uint16_t> bits, Span<float> values) noexcept {
  assert(values.size() == bits.size());
  kFromBfloat16.Get()(bits.data(), bits.size(), values.data());
}

}  // namespace feedfast::allreduce
