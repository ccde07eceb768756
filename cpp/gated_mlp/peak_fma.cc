#include "cpp/gated_mlp/peak_fma.h"

#include "cpp/common/cpu_target.h"

namespace feedfast {
namespace gated_mlp {

FEEDFAST_DECLARE_KERNEL(std::int64_t, PeakFma, (std::int64_t steps));

namespace {
constexpr KernelTable<decltype(&scalar::PeakFma)> kPeakFma = FEEDFAST_KERNEL_TABLE(PeakFma);
}  // namespace

}  // namespace gated_mlp

std::int64_t PeakFma(std::int64_t steps) noexcept { return gated_mlp::kPeakFma.Get()(steps); }

}  // namespace feedfast
