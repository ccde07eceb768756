#include "cpp/common/parallel_for.h"

#include <gtest/gtest.h>

#include <cstdint>
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

}  // namespace
}  // namespace feedfast
