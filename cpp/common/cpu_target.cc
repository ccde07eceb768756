#include "cpp/common/cpu_target.h"

#if defined(FEEDFAST_X86)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>
#include <string>

namespace feedfast {
namespace {

constexpr std::string_view kNames[kNumCpuTargets] = {"scalar", "avx2", "avx512", "avx512_bf16"};

#if defined(FEEDFAST_X86)
// clang 14 does not know "f16c" in __builtin_cpu_supports.
bool HasF16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool MachineSupports(CpuTarget target) {
#if defined(FEEDFAST_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && HasF16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  switch (target) {
    case CpuTarget::kScalar:
      return true;
    case CpuTarget::kAvx2:
      return avx2;
    case CpuTarget::kAvx512:
      return avx512;
    case CpuTarget::kAvx512Bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return target == CpuTarget::kScalar;
#endif
}

std::string SupportedNames() {
  std::string names;
  for (const CpuTarget target : SupportedCpuTargets()) {
    if (!names.empty()) names += ", ";
    names += CpuTargetName(target);
  }
  return names;
}

Status RequireSupported(CpuTarget target) {
  if (MachineSupports(target)) return OkStatus();
  return FailedPrecondition("CPU target '", CpuTargetName(target),
                            "' is not supported here; supported: ", SupportedNames());
}

StatusOr<CpuTarget> SelectTarget() {
  const char* forced = std::getenv("FEEDFAST_CPU_TARGET");
  if (forced == nullptr || *forced == '\0') return SupportedCpuTargets().back();
  StatusOr<CpuTarget> target = ParseCpuTarget(forced);
  if (!target.ok()) return FailedPrecondition("FEEDFAST_CPU_TARGET: ", target.status().message());
  if (const Status status = RequireSupported(target.value()); !status.ok())
    return FailedPrecondition("FEEDFAST_CPU_TARGET: ", status.message());
  return target;
}

std::atomic<int>& ForcedTarget() {
  static std::atomic<int> forced{-1};
  return forced;
}

}  // namespace

std::string_view CpuTargetName(CpuTarget target) noexcept {
  return kNames[static_cast<int>(target)];
}

StatusOr<CpuTarget> ParseCpuTarget(std::string_view name) {
  for (int i = 0; i < kNumCpuTargets; ++i)
    if (kNames[i] == name) return static_cast<CpuTarget>(i);
  return InvalidArgument("CPU target '", name,
                         "' is unknown; allowed: scalar, avx2, avx512, avx512_bf16");
}

std::vector<CpuTarget> SupportedCpuTargets() {
  std::vector<CpuTarget> supported;
  for (int i = 0; i < kNumCpuTargets; ++i)
    if (MachineSupports(static_cast<CpuTarget>(i))) supported.push_back(static_cast<CpuTarget>(i));
  return supported;
}

const StatusOr<CpuTarget>& SelectedCpuTarget() {
  static const StatusOr<CpuTarget> selected = SelectTarget();
  return selected;
}

Status ForceCpuTarget(CpuTarget target) {
  FEEDFAST_RETURN_IF_ERROR(RequireSupported(target));
  ForcedTarget().store(static_cast<int>(target), std::memory_order_relaxed);
  return OkStatus();
}

CpuTarget ActiveCpuTarget() noexcept {
  if (const int forced = ForcedTarget().load(std::memory_order_relaxed); forced >= 0)
    return static_cast<CpuTarget>(forced);
  const StatusOr<CpuTarget>& selected = SelectedCpuTarget();
  return selected.ok() ? selected.value() : CpuTarget::kScalar;
}

}  // namespace feedfast
