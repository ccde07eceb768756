#ifndef FEEDFAST_FUZZ_FUZZ_TARGET_H_
#define FEEDFAST_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpp/common/cpu_target.h"

// A fuzz target is one source that defines LLVMFuzzerTestOneInput. It is linked twice: with
// libFuzzer (preset fuzz), and with replay.cc, so that the ordinary tests run every input of the
// corpus. What must hold is checked with Require; memory errors are left to the sanitizers.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// Mutators of libFuzzer; the second is ours to define where random bytes would not get past a
// checksum. replay.cc has no use for them.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned int seed);

namespace feedfast::fuzz {

inline void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: not so: %s\n", what);
  std::abort();
}

// Calls body() once under every CPU target of this machine.
template <typename Body>
void ForEachCpuTarget(const Body& body) {
  static const std::vector<CpuTarget> targets = SupportedCpuTargets();
  for (const CpuTarget target : targets) {
    Require(ForceCpuTarget(target).ok(), "a supported CPU target can be forced");
    body();
  }
}

}  // namespace feedfast::fuzz

#endif  // FEEDFAST_FUZZ_FUZZ_TARGET_H_
