#ifndef FEEDFAST_TESTS_CPP_TESTING_H_
#define FEEDFAST_TESTS_CPP_TESTING_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "cpp/common/cpu_target.h"

namespace feedfast::testing {

// A path in the temporary folder that no other test process uses.
inline std::string TestPath(const std::string& name) {
  return ::testing::TempDir() + "/feedfast_" + std::to_string(::getpid()) + "_" + name;
}

// Writes `content` to TestPath(name) and returns the path.
inline std::string WriteTestFile(const std::string& name, const std::string& content) {
  std::string path = TestPath(name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

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
