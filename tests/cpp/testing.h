#ifndef FEEDFAST_TESTS_CPP_TESTING_H_
#define FEEDFAST_TESTS_CPP_TESTING_H_

#include <gtest/gtest.h>

#include <string>

#include "cpp/common/cpu_target.h"

namespace feedfast::testing {

// Runs `body` once under every CPU target of this machine and restores the target afterwards.
template <typename Body>
void ForEachCpuTarget(const Body& body) {
  const CpuTarget before = ActiveCpuTarget();
  for (const CpuTarget target : SupportedCpuTargets()) {
    SCOPED_TRACE(std::string("CPU target ") + std::string(CpuTargetName(target)));
    ASSERT_TRUE(ForceCpuTarget(target).ok());
    body();
  }
  ASSERT_TRUE(ForceCpuTarget(before).ok());
}

}  // namespace feedfast::testing

#endif  // FEEDFAST_TESTS_CPP_TESTING_H_
