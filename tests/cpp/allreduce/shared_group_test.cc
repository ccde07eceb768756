#include "cpp/allreduce/shared_group.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "tests/cpp/allreduce/ranks.h"

namespace feedfast::allreduce {
namespace {

using std::chrono::milliseconds;

TEST(SharedGroupTest, RefusesBadOptions) {
  const auto message = [](auto change) {
    SharedGroupOptions options{"x", 0, 1, 8192, milliseconds(50)};
    change(options);
    return SharedGroup::Join(options).status().message();
  };
  EXPECT_EQ(message([](auto& o) { o.name = "a/b"; }),
            "name 'a/b' is not 1 to 96 letters, digits, '.', '_' and '-'");
  EXPECT_EQ(message([](auto& o) { o.size = 0; }), "size = 0 is not in 1..256");
  EXPECT_EQ(message([](auto& o) { o.rank = 1; }), "rank = 1 is not in 0..0");
  EXPECT_EQ(message([](auto& o) { o.buffer_bytes = 100; }),
            "buffer_bytes = 100 is not a multiple of 8192 in 8192..1099511627776");
  EXPECT_EQ(message([](auto& o) { o.timeout = milliseconds(0); }),
            "timeout = 0 ms; must be above 0");
}

TEST(SharedGroupTest, ExchangesNoticesAndBuffers) {
  for (const int size : {1, 2, 3, 5})
    RunRanks(size, [size](int rank) -> Complaint {
      auto joined = SharedGroup::Join(TestGroup("exchange", rank, size));
      if (!joined.ok()) return joined.status().message();
      SharedGroup& group = *joined.value();
      for (std::uint64_t round = 0; round < 200; ++round) {
        group.buffer(rank)[round] = static_cast<std::uint8_t>(rank + round);
        group.MyNotice().counts[size - 1] = static_cast<std::int64_t>(round) * 1000 + rank;
        const Status status = group.Barrier();
        if (!status.ok()) return status.message();
        for (int other = 0; other < size; ++other) {
          if (group.NoticeOf(other).counts[size - 1] !=
              static_cast<std::int64_t>(round) * 1000 + other)
            return "a wrong number in round " + std::to_string(round);
          if (group.buffer(other)[round] !=
              static_cast<std::uint8_t>(other + static_cast<int>(round)))
            return "a wrong byte in round " + std::to_string(round);
        }
      }
      return {};
    });
}

TEST(SharedGroupTest, ARankThatDiesBreaksTheGroupForAll) {
  constexpr int kSize = 4;
  for (int victim = 0; victim < kSize; ++victim)
    RunRanks(
        kSize,
        [victim](int rank) -> Complaint {
          auto joined = SharedGroup::Join(TestGroup("dies", rank, kSize));
          if (!joined.ok()) return joined.status().message();
          SharedGroup& group = *joined.value();
          const std::string want = "group 'dies-" + std::to_string(::getppid()) +
                                   "' is broken: rank " + std::to_string(victim) +
                                   " of 4 has ended";
          for (int round = 0;; ++round) {
            if (rank == victim && round == 3) ::raise(SIGKILL);
            const Status status = group.Barrier();
            if (status.ok()) continue;
            if (status.message() != want) return status.message();
            return group.Barrier().message() == want ? "" : "a broken group went on";
          }
        },
        victim);
}

TEST(SharedGroupTest, ALateRankBreaksTheGroup) {
  RunRanks(2, [](int rank) -> Complaint {
    SharedGroupOptions options = TestGroup("late", rank, 2);
    options.timeout = milliseconds(300);
    auto joined = SharedGroup::Join(options);
    if (!joined.ok()) return joined.status().message();
    if (rank == 1) std::this_thread::sleep_for(milliseconds(700));
    const std::string message = joined.value()->Barrier().message();
    return message.find("rank 1 of 2 did not arrive in time") != std::string::npos ? "" : message;
  });
}

TEST(SharedGroupTest, ARankThatIsInterruptedLeaves) {
  RunRanks(3, [](int rank) -> Complaint {
    SharedGroupOptions options = TestGroup("interrupted", rank, 3);
    bool stop = false;
    if (rank == 1) options.interrupted = [&] { return stop; };
    auto joined = SharedGroup::Join(options);
    if (!joined.ok()) return joined.status().message();
    SharedGroup& group = *joined.value();
    stop = true;
    if (rank == 2) std::this_thread::sleep_for(milliseconds(300));
    const std::string message = group.Barrier().message();
    return message.find("is broken: rank 1 of 3 has left") != std::string::npos ? "" : message;
  });
}

TEST(SharedGroupTest, JoiningCanBeInterrupted) {
  for (const int rank : {0, 1}) {
    SharedGroupOptions options = TestGroup("interrupted", rank, 2);
    options.interrupted = [] { return true; };
    const auto began = std::chrono::steady_clock::now();
    const std::string message = SharedGroup::Join(options).status().message();
    EXPECT_NE(message.find("rank " + std::to_string(rank) + " was interrupted while it joined"),
              std::string::npos)
        << message;
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(60));
  }
}

TEST(SharedGroupTest, NamesTheRanksThatDidNotJoin) {
  RunRanks(2, [](int rank) -> Complaint {
    SharedGroupOptions options = TestGroup("missing", rank, 4);
    options.timeout = milliseconds(300);
    const std::string message = SharedGroup::Join(options).status().message();
    const std::string want =
        rank == 0 ? "rank 2, 3 of 4 did not join in time" : "rank 2 of 4 did not arrive in time";
    return message.find(want) != std::string::npos ? "" : message;
  });
  SharedGroupOptions alone = TestGroup("alone", 1, 2);
  alone.timeout = milliseconds(50);
  EXPECT_NE(SharedGroup::Join(alone).status().message().find("rank 0 did not join in time"),
            std::string::npos);
}

TEST(SharedGroupTest, RefusesOtherTermsAndTakenRanks) {
  RunRanks(4, [](int rank) -> Complaint {
    // Processes 0 and 1 are the group; 2 comes with another buffer, 3 as a rank that is taken.
    SharedGroupOptions options = TestGroup("terms", rank < 2 ? rank : 1, 2);
    if (rank == 1) std::this_thread::sleep_for(milliseconds(300));
    if (rank == 2) options.buffer_bytes *= 2;
    if (rank == 3) {
      // Comes when rank 1 has joined: nobody listens under the name any more.
      std::this_thread::sleep_for(milliseconds(600));
      options.timeout = milliseconds(100);
    }
    auto joined = SharedGroup::Join(options);
    if (rank < 2) {
      if (joined.ok()) std::this_thread::sleep_for(milliseconds(600));
      return joined.ok() ? "" : joined.status().message();
    }
    const std::string want =
        rank == 2 ? "has another size or other buffers than rank 0" : "rank 0 did not join in time";
    return joined.status().message().find(want) != std::string::npos ? "" : "joined";
  });
}

TEST(SharedGroupTest, RefusesAForkedChild) {
  RunRanks(1, [](int rank) -> Complaint {
    auto joined = SharedGroup::Join(TestGroup("fork", rank, 1));
    if (!joined.ok()) return joined.status().message();
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string message = joined.value()->Barrier().message();
      ::_exit(message.find("a forked child cannot stand in") != std::string::npos ? 0 : 1);
    }
    int state = 1;
    ::waitpid(child, &state, 0);
    return state == 0 ? joined.value()->Barrier().message() : "the child went on";
  });
}

TEST(SharedGroupTest, SaysWhenThereIsNoMemory) {
  RunRanks(1, [](int rank) -> Complaint {
    // A limit on the size of files stands for memory that has run out.
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    SharedGroupOptions options = TestGroup("memory", rank, 1);
    options.buffer_bytes = std::int64_t{1} << 30;
    const Status status = SharedGroup::Join(options).status();
    const bool said = status.code() == StatusCode::kResourceExhausted &&
                      status.message().find("bytes of shared memory") != std::string::npos;
    return said ? "" : status.message();
  });
}

TEST(SharedGroupTest, SignalsDoNotKeepItFromFormingOrMeeting) {
  RunRanks(2, [](int rank) -> Complaint {
    struct sigaction action = {};
    action.sa_handler = [](int) {};  // without SA_RESTART
    ::sigaction(SIGALRM, &action, nullptr);
    const itimerval often{{0, 2000}, {0, 2000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
    SharedGroupOptions options = TestGroup("signals", rank, 2);
    options.buffer_bytes = 64 << 20;
    auto joined = SharedGroup::Join(options);
    if (!joined.ok()) return joined.status().message();
    if (rank == 1) std::this_thread::sleep_for(milliseconds(50));
    return joined.value()->Barrier().message();
  });
}

TEST(SharedGroupTest, ARankThatLeavesBehindTheLastBarrierBreaksNothing) {
  RunRanks(3, [](int rank) -> Complaint {
    for (int group = 0; group < 3; ++group) {
      auto joined = SharedGroup::Join(TestGroup("leaves-" + std::to_string(group), rank, 3));
      if (!joined.ok()) return joined.status().message();
      // The others look meanwhile whether it still runs.
      if (rank == group) std::this_thread::sleep_for(milliseconds(70));
      const Status status = joined.value()->Barrier();
      if (!status.ok()) return status.message();
    }
    return {};
  });
}

TEST(SharedGroupTest, LongNamesStayApart) {
  RunRanks(4, [](int process) -> Complaint {
    // A user whose number is long, where the test may become one.
    if (::getuid() == 0 && ::setuid(4'000'000'000) != 0) return "cannot become another user";
    SharedGroupOptions options = TestGroup("long", process % 2, 2);
    options.timeout = std::chrono::seconds(10);
    options.name.resize(95, 'x');
    options.name += process < 2 ? 'a' : 'b';
    auto joined = SharedGroup::Join(options);
    return joined.ok() ? joined.value()->Barrier().message() : joined.status().message();
  });
}

// Leaves this process room for `count` more descriptors.
void LeaveDescriptors(int count) {
  const int next = ::dup(STDERR_FILENO);
  ::close(next);
  const rlimit limit{static_cast<rlim_t>(next) + static_cast<rlim_t>(count),
                     static_cast<rlim_t>(next) + static_cast<rlim_t>(count)};
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

TEST(SharedGroupTest, SaysWhenThereIsNoDescriptor) {
  // Rank 0 needs one for the memory, one to listen and one to meet rank 1; rank 1 a socket and the
  // memory.
  for (const int poor : {0, 1})
    RunRanks(2, [poor](int rank) -> Complaint {
      SharedGroupOptions options = TestGroup("poor-" + std::to_string(poor), rank, 2);
      options.timeout = milliseconds(500);
      if (rank == poor) LeaveDescriptors(rank == 0 ? 2 : 1);
      const std::string message = SharedGroup::Join(options).status().message();
      const char* want[2][2] = {
          {"cannot meet the other ranks: Too many open files", "rank 0 did not join in time"},
          {"rank 1 of 2 ended while it joined", "rank 1 has no room for another descriptor"}};
      return message.find(want[poor][rank]) != std::string::npos ? "" : message;
    });
}

}  // namespace
}  // namespace feedfast::allreduce
