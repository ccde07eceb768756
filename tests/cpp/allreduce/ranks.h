#ifndef FEEDFAST_TESTS_CPP_ALLREDUCE_RANKS_H_
#define FEEDFAST_TESTS_CPP_ALLREDUCE_RANKS_H_

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "cpp/allreduce/shared_group.h"

namespace feedfast::allreduce {

// What one rank found wrong, or nothing.
using Complaint = std::string;

// Runs body(rank), which returns a Complaint, in `size` processes of their own and expects none to
// complain. A rank in `killed` is expected to end by a signal.
template <typename Body>
void RunRanks(int size, const Body& body, int killed = -1) {
  std::vector<pid_t> processes;
  for (int rank = 0; rank < size; ++rank) {
    const pid_t process = ::fork();
    ASSERT_GE(process, 0);
    if (process == 0) {
      const Complaint complaint = body(rank);
      if (!complaint.empty()) std::cerr << "rank " << rank << ": " << complaint << std::endl;
      ::_exit(complaint.empty() ? 0 : 1);
    }
    processes.push_back(process);
  }
  for (int rank = 0; rank < size; ++rank) {
    int state = 0;
    ASSERT_EQ(::waitpid(processes[static_cast<std::size_t>(rank)], &state, 0),
              processes[static_cast<std::size_t>(rank)]);
    if (rank == killed) {
      EXPECT_TRUE(WIFSIGNALED(state));
    } else {
      EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << "rank " << rank;
    }
  }
}

// Options of a group that no other test process has.
inline SharedGroupOptions TestGroup(const std::string& name, int rank, int size) {
  SharedGroupOptions options;
  options.name = name + "-" + std::to_string(::getppid());
  options.rank = rank;
  options.size = size;
  options.buffer_bytes = 16 << 10;
  return options;
}

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_TESTS_CPP_ALLREDUCE_RANKS_H_
