#include "cpp/common/parallel_for.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <new>
#include <vector>

namespace feedfast {
namespace {

TEST(ParallelForTest, CoversEveryIndexOnceInRangesThatStartAtMultiplesOfTheGrain) {
  for (const int threads : {1, 2, 7})
    for (const std::int64_t size : {0, 1, 9, 10, 11, 1000})
      for (const std::int64_t grain : {1, 10, 5000}) {
        std::vector<int> seen(static_cast<std::size_t>(size), 0);
        ParallelFor(size, grain, threads, [&](std::int64_t begin, std::int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_LE(end - begin, grain);
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        EXPECT_EQ(seen, std::vector<int>(static_cast<std::size_t>(size), 1));
      }
}

TEST(ParallelForTest, WhatABodyThrowsEndsTheWorkAndReachesTheCaller) {
  for (const int threads : {1, 2, 7}) {
    std::atomic<int> begun{0};
    EXPECT_THROW(ParallelFor(1'000'000, 1, threads,
                             [&](std::int64_t, std::int64_t) {
                               ++begun;
                               throw std::bad_alloc();
                             }),
                 std::bad_alloc);
    EXPECT_GE(begun, 1);
    EXPECT_LE(begun, threads);
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // both map memory of their own
TEST(ParallelForTest, FinishesWithTheThreadsThatTheSystemGrants) {
  std::vector<int> seen(1000, 0);
  const std::function<void(std::int64_t, std::int64_t)> body = [&](std::int64_t begin,
                                                                   std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  };
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  const rlimit none = {1, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &none), 0);  // no room for the stack of another thread
  ParallelFor(1000, 1, 64, body);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_EQ(seen, std::vector<int>(1000, 1));
}
#endif

}  // namespace
}  // namespace feedfast
