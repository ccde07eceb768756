#ifndef FEEDFAST_CPP_COMMON_CPU_TARGET_H_
#define FEEDFAST_CPP_COMMON_CPU_TARGET_H_

#include <string_view>
#include <vector>

#include "cpp/common/status.h"

namespace feedfast {

// An instruction set that kernels are compiled for, weakest first.
enum class CpuTarget {
  kScalar,      // the platform's baseline
  kAvx2,        // AVX2, FMA, F16C, BMI2
  kAvx512,      // AVX-512 F, BW, DQ, VL, VNNI
  kAvx512Bf16,  // kAvx512 and AVX-512 BF16
};

inline constexpr int kNumCpuTargets = 4;

// "scalar", "avx2", "avx512" or "avx512_bf16".
std::string_view CpuTargetName(CpuTarget target) noexcept;
StatusOr<CpuTarget> ParseCpuTarget(std::string_view name);

// Targets that this build contains and this machine can run, weakest first; never empty.
std::vector<CpuTarget> SupportedCpuTargets();

// The target of every dispatched kernel: the strongest supported one, or the one that the
// environment variable FEEDFAST_CPU_TARGET names, read once. Not ok: the variable names an unknown
// target or one that the machine or the build lacks.
const StatusOr<CpuTarget>& SelectedCpuTarget();

// Replaces the selected target for the module that contains this copy of the core (the Python
// module and the op library each link their own): for tests that run every target in one process.
// Call it while no kernel runs. Not ok: this machine or build lacks the target.
Status ForceCpuTarget(CpuTarget target);

// The selected target as a plain value, for dispatch; the baseline while the selection is an error
// (bindings refuse to load in that state, so no kernel runs on a target nobody asked for).
CpuTarget ActiveCpuTarget() noexcept;

// One entry point per CPU target. Built by FEEDFAST_KERNEL_TABLE in x.cc; Get() is called once per
// public call, outside loops.
template <typename Function>
struct KernelTable {
  Function scalar;
  Function avx2;
  Function avx512;
  Function avx512_bf16;

  Function Get() const noexcept {
    switch (ActiveCpuTarget()) {
      case CpuTarget::kAvx512Bf16:
        return avx512_bf16;
      case CpuTarget::kAvx512:
        return avx512;
      case CpuTarget::kAvx2:
        return avx2;
      case CpuTarget::kScalar:
        break;
    }
    return scalar;
  }
};

// Declares `signature` of a kernel in each target's namespace, as
//   FEEDFAST_DECLARE_KERNEL(void, PoolBags, (const PoolArgs& args));
// and the table is then KernelTable<decltype(&scalar::PoolBags)> t =
// FEEDFAST_KERNEL_TABLE(PoolBags). A build for another architecture has the scalar target alone
// (FEEDFAST_X86 is not defined).
#if defined(FEEDFAST_X86)
#define FEEDFAST_DECLARE_KERNEL(result, name, arguments) \
  namespace scalar {                                     \
  result name arguments noexcept;                        \
  }                                                      \
  namespace avx2 {                                       \
  result name arguments noexcept;                        \
  }                                                      \
  namespace avx512 {                                     \
  result name arguments noexcept;                        \
  }                                                      \
  namespace avx512_bf16 {                                \
  result name arguments noexcept;                        \
  }                                                      \
  static_assert(true)
#define FEEDFAST_KERNEL_TABLE(name) \
  { &scalar::name, &avx2::name, &avx512::name, &avx512_bf16::name }
#else
#define FEEDFAST_DECLARE_KERNEL(result, name, arguments) \
  namespace scalar {                                     \
  result name arguments noexcept;                        \
  }                                                      \
  static_assert(true)
#define FEEDFAST_KERNEL_TABLE(name) \
  { &scalar::name, &scalar::name, &scalar::name, &scalar::name }
#endif

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_CPU_TARGET_H_
