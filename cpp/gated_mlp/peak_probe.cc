#include "cpp/gated_mlp/peak_probe.h"

#include "cpp/common/cpu_target.h"

namespace feedfast {
namespace gated_mlp {

FEEDFAST_DECLARE_KERNEL(std::int64_t, PeakFp32, (std::int64_t steps));
FEEDFAST_DECLARE_KERNEL(std::int64_t, PeakBf16, (std::int64_t steps));
FEEDFAST_DECLARE_KERNEL(std::int64_t, PeakInt8, (std::int64_t steps));

namespace {
using Table = KernelTable<decltype(&scalar::PeakFp32)>;
constexpr Table kPeakFp32 = FEEDFAST_KERNEL_TABLE(PeakFp32);
constexpr Table kPeakBf16 = FEEDFAST_KERNEL_TABLE(PeakBf16);
constexpr Table kPeakInt8 = FEEDFAST_KERNEL_TABLE(PeakInt8);
}  // namespace

}  // namespace gated_mlp

std::int64_t PeakProbe(Precision precision, std::int64_t steps) noexcept {
  switch (precision) {
    case Precision::kFp32:
      return gated_mlp::kPeakFp32.Get()(steps);
    case Precision::kBf16:
      return gated_mlp::kPeakBf16.Get()(steps);
    case Precision::kInt8:
      break;
  }
  return gated_mlp::kPeakInt8.Get()(steps);
}

}  // namespace feedfast
