#include "cpp/allreduce/wire_rows_kernel.h"

#include "cpp/common/half.h"

namespace feedfast::allreduce {
namespace FEEDFAST_TARGET {

void ToBfloat16(const float* __restrict values, std::int64_t size,
                std::uint16_t* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) out[i] = FloatToBfloat16(values[i]);
}

void FromBfloat16(const std::uint16_t* __restrict bits, std::int64_t size,
                  float* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) out[i] = Bfloat16ToFloat(bits[i]);
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
