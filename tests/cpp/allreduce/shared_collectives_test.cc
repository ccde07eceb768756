#include "cpp/allreduce/shared_collectives.h"

#include <gtest/gtest.h>
#include <sys/time.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/cpp/allreduce/ranks.h"

namespace feedfast::allreduce {
namespace {

// What `rank` brings to exchange number `call`; every process can compute it.
template <typename T>
std::vector<T> Data(int rank, int call, std::int64_t size) {
  std::mt19937 rng(static_cast<unsigned>(rank * 1000 + call));
  std::normal_distribution<T> normal;
  std::vector<T> data(static_cast<std::size_t>(size));
  for (T& each : data) each = normal(rng);
  return data;
}

// The definition: sums in the order of the ranks.
template <typename T>
std::vector<T> Sum(int size, int call, std::int64_t count) {
  std::vector<T> sum = Data<T>(0, call, count);
  for (int rank = 1; rank < size; ++rank) {
    const std::vector<T> data = Data<T>(rank, call, count);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += data[i];
  }
  return sum;
}

template <typename T>
bool SameBits(const T* got, const std::vector<T>& want) {
  return want.empty() || std::memcmp(got, want.data(), want.size() * sizeof(T)) == 0;
}

template <typename T>
Complaint CheckAllReduce(int rank, int size) {
  auto joined = SharedGroup::Join(TestGroup("reduce", rank, size));
  if (!joined.ok()) return joined.status().message();
  int call = 0;
  // Buffers hold 4096 floats: less than a cache line each, one piece, several.
  for (const std::int64_t count : {0, 1, 5, 100, 2048, 2049, 3000, 30'000}) {
    std::vector<T> data = Data<T>(rank, ++call, count);
    const Status status = AllReduce<T>(*joined.value(), "x", data);
    if (!status.ok()) return status.message();
    if (!SameBits(data.data(), Sum<T>(size, call, count)))
      return "a wrong sum of " + std::to_string(count);
  }
  return {};
}

TEST(SharedCollectivesTest, AllReduceSumsInTheOrderOfTheRanks) {
  for (const int size : {1, 2, 3, 6}) {
    RunRanks(size, [size](int rank) { return CheckAllReduce<float>(rank, size); });
    RunRanks(size, [size](int rank) { return CheckAllReduce<double>(rank, size); });
  }
}

TEST(SharedCollectivesTest, BroadcastGivesAllTheSame) {
  for (const int size : {1, 2, 4})
    RunRanks(size, [size](int rank) -> Complaint {
      auto joined = SharedGroup::Join(TestGroup("broadcast", rank, size));
      if (!joined.ok()) return joined.status().message();
      for (int call = 0; call < 30; ++call) {
        const int root = call % size;
        const std::int64_t count = call * 1003;
        std::vector<float> data = Data<float>(rank, call, count);
        auto* const bytes = reinterpret_cast<std::uint8_t*>(data.data());
        const Status status = Broadcast(*joined.value(), "x", root, {bytes, 4 * count});
        if (!status.ok()) return status.message();
        if (!SameBits(data.data(), Data<float>(root, call, count))) return "a wrong value";
      }
      return {};
    });
}

// What AllGather and AllToAll return, with room for it.
struct Received {
  explicit Received(const std::vector<std::int64_t>& counts) {
    for (const std::int64_t count : counts) parts.emplace_back(static_cast<std::size_t>(count));
    for (auto& part : parts) pointers.push_back(part.data());
  }
  std::vector<std::vector<std::uint8_t>> parts;
  std::vector<std::uint8_t*> pointers;
};

TEST(SharedCollectivesTest, AllGatherTakesAnyCounts) {
  for (const int size : {1, 2, 3})
    RunRanks(size, [size](int rank) -> Complaint {
      auto joined = SharedGroup::Join(TestGroup("gather", rank, size));
      if (!joined.ok()) return joined.status().message();
      SharedGroup& group = *joined.value();
      for (int call = 0; call < 30; ++call) {
        // Nothing, a few bytes, and more than a buffer.
        const auto bytes_of = [call](std::int64_t r) {
          return (call * 7919 + r * 977) % 3 * call * 1000;
        };
        const auto byte_of = [call](std::int64_t r, std::int64_t i) {
          return static_cast<std::uint8_t>(i * 31 + r * 7 + call);
        };
        std::vector<std::uint8_t> mine(static_cast<std::size_t>(bytes_of(rank)));
        for (std::size_t i = 0; i < mine.size(); ++i)
          mine[i] = byte_of(rank, static_cast<std::int64_t>(i));
        std::vector<std::int64_t> counts(static_cast<std::size_t>(size));
        Status status = BeginAllGather(group, "rows", mine, counts);
        if (!status.ok()) return status.message();
        Received received(counts);
        status = FinishAllGather(group, mine, counts, received.pointers);
        if (!status.ok()) return status.message();
        for (int r = 0; r < size; ++r) {
          const std::vector<std::uint8_t>& part = received.parts[static_cast<std::size_t>(r)];
          if (static_cast<std::int64_t>(part.size()) != bytes_of(r)) return "a wrong count";
          for (std::size_t i = 0; i < part.size(); ++i)
            if (part[i] != byte_of(r, static_cast<std::int64_t>(i)))
              return "a wrong byte in call " + std::to_string(call);
        }
      }
      return {};
    });
}

TEST(SharedCollectivesTest, AllToAllTakesAnyCounts) {
  for (const int size : {1, 2, 3, 5})
    RunRanks(size, [size](int rank) -> Complaint {
      auto joined = SharedGroup::Join(TestGroup("to-all", rank, size));
      if (!joined.ok()) return joined.status().message();
      SharedGroup& group = *joined.value();
      for (int call = 0; call < 30; ++call) {
        const auto bytes_of = [call](std::int64_t from, std::int64_t to) {
          return (call * 7919 + from * 977 + to * 31) % 4 * call * 500;
        };
        const auto byte_of = [call](std::int64_t from, std::int64_t to, std::int64_t i) {
          return static_cast<std::uint8_t>(i * 31 + from * 7 + to * 3 + call);
        };
        std::vector<std::vector<std::uint8_t>> mine;
        std::vector<Bytes> parts;
        for (int to = 0; to < size; ++to) {
          mine.emplace_back();
          for (std::int64_t i = 0; i < bytes_of(rank, to); ++i)
            mine.back().push_back(byte_of(rank, to, i));
        }
        for (const auto& part : mine) parts.emplace_back(part);
        SendCounts counts;
        Status status = BeginAllToAll(group, "rows", parts, counts);
        if (!status.ok()) return status.message();
        std::vector<std::int64_t> received;
        for (int from = 0; from < size; ++from) {
          received.push_back(bytes_of(from, rank));
          const std::int64_t said = counts[static_cast<std::size_t>(from * size + rank)];
          if (said != (from == rank ? 0 : received.back())) return "a wrong count";
        }
        Received got(received);
        status = FinishAllToAll(group, parts, counts, got.pointers);
        if (!status.ok()) return status.message();
        for (int from = 0; from < size; ++from)
          for (std::int64_t i = 0; i < bytes_of(from, rank); ++i)
            if (got.parts[static_cast<std::size_t>(from)][static_cast<std::size_t>(i)] !=
                byte_of(from, rank, i))
              return "a wrong byte in call " + std::to_string(call);
      }
      return {};
    });
}

// One rank is killed at a random time while the group forms or exchanges: all others say so.
// FEEDFAST_TEST_DEATHS sets how often.
TEST(SharedCollectivesTest, ADeathAtAnyPointNamesTheRank) {
  constexpr int kSize = 3;
  const char* const wanted = std::getenv("FEEDFAST_TEST_DEATHS");
  const int deaths = wanted != nullptr ? std::atoi(wanted) : 24;
  std::mt19937 rng(20'261'122);
  for (int death = 0; death < deaths; ++death) {
    const int victim = static_cast<int>(rng() % kSize);
    const auto delay_us = static_cast<std::int64_t>(1 + rng() % 10'000);
    const bool while_joining = death % 8 == 0;  // a few: those who did not come are waited for
    RunRanks(
        kSize,
        [&](int rank) -> Complaint {
          // The alarm ends the process, whatever it does.
          const itimerval alarm{{0, 0}, {0, delay_us}};
          if (rank == victim && while_joining) ::setitimer(ITIMER_REAL, &alarm, nullptr);
          SharedGroupOptions options = TestGroup("death-" + std::to_string(death), rank, kSize);
          options.timeout = std::chrono::milliseconds(3000);
          auto joined = SharedGroup::Join(options);
          if (rank == victim) ::setitimer(ITIMER_REAL, &alarm, nullptr);
          Status status = joined.status();
          std::vector<float> data(30'000);
          std::vector<std::int64_t> counts(kSize);
          SendCounts sends;
          Received received(std::vector<std::int64_t>(kSize, 40'000));
          const Bytes bytes{reinterpret_cast<const std::uint8_t*>(data.data()), 40'000};
          const std::vector<Bytes> parts(kSize, bytes);
          while (status.ok()) {
            SharedGroup& group = *joined.value();
            status = AllReduce<float>(group, "a", data);
            if (status.ok()) status = BeginAllGather(group, "b", bytes, counts);
            if (status.ok()) status = FinishAllGather(group, bytes, counts, received.pointers);
            if (status.ok()) status = BeginAllToAll(group, "c", parts, sends);
            if (status.ok()) status = FinishAllToAll(group, parts, sends, received.pointers);
          }
          const bool named =
              status.message().find("rank " + std::to_string(victim)) != std::string::npos;
          return named ? "" : "killed " + std::to_string(victim) + ": " + status.message();
        },
        victim);
  }
}

TEST(SharedCollectivesTest, RefusesCallsThatDiffer) {
  RunRanks(3, [](int rank) -> Complaint {
    auto joined = SharedGroup::Join(TestGroup("differ", rank, 3));
    if (!joined.ok()) return joined.status().message();
    SharedGroup& group = *joined.value();
    const auto said = [&](const Status& status, const char* want) -> Complaint {
      const bool same = status.code() == StatusCode::kInvalidArgument &&
                        status.message().find(want) != std::string::npos;
      return same ? "" : "instead of '" + std::string(want) + "': " + status.message();
    };
    std::vector<float> data(rank == 1 ? 12 : 10, 1.0f);
    std::vector<std::int64_t> counts(3);
    const std::string longer(200, 'x');
    Complaint complaint =
        said(AllReduce<float>(group, "a", data),
             "rank 0 calls all_reduce(a, 10 elements), rank 1 calls all_reduce(a, 12 elements)");
    if (data[0] != 1.0f) complaint += "data were written";
    complaint += said(rank == 2 ? BeginAllGather(group, "a", {}, counts)
                                : AllReduce<float>(group, "a", {data.data(), 10}),
                      "rank 0 calls all_reduce(a, 10 elements), rank 2 calls all_gather(a)");
    complaint += said(AgreedBarrier(group, rank == 1 ? "b" : "a"),
                      "rank 0 calls barrier(a), rank 1 calls barrier(b)");
    complaint +=
        said(AgreedBarrier(group, longer + (rank == 1 ? "b" : "a")), "rank 0 calls barrier(xxx");
    complaint += said(Broadcast(group, "a", rank == 2 ? 1 : 0, {}),
                      "rank 0 calls broadcast(a, root 0, 0 bytes), rank 2 calls broadcast(a, "
                      "root 1, 0 bytes)");
    // The group itself is still whole.
    return complaint + BeginAllGather(group, "a", {}, counts).message();
  });
}

}  // namespace
}  // namespace feedfast::allreduce
