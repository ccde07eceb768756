#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/mph/live_vocabulary.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kBatch = 1 << 16;
constexpr std::int64_t kNewKeys = 100'000;

// Distinct keys `<prefix><random id>`, one after the other in memory.
class Keys {
 public:
  Keys(const std::string& prefix, std::int64_t size) {
    std::vector<std::size_t> ends = {0};
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size); ++i) {
      bytes_ += prefix + std::to_string(i * 0x9E3779B97F4A7C15 % (std::uint64_t{1} << 40));
      ends.push_back(bytes_.size());
    }
    for (std::size_t i = 1; i < ends.size(); ++i)
      views_.emplace_back(bytes_.data() + ends[i - 1], ends[i] - ends[i - 1]);
  }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;

  const std::vector<std::string_view>& views() const { return views_; }

 private:
  std::string bytes_;
  std::vector<std::string_view> views_;
};

// A snapshot of `size` members, 100 000 new ones, and a batch with `new_percent` of them.
struct Setup {
  Setup(std::int64_t size, std::int64_t new_percent)
      : members("urn:li:member:", size), fresh("urn:li:post:", kNewKeys) {
    StatusOr<Vocabulary> built = Vocabulary::Build(members.views(), BuildOptions());
    if (!built.ok()) std::abort();
    snapshot = std::make_unique<Vocabulary>(std::move(built).value());
    std::mt19937_64 random(20'240'601);
    for (std::int64_t i = 0; i < kBatch; ++i) {
      const auto& from =
          static_cast<std::int64_t>(random() % 100) < new_percent ? fresh.views() : members.views();
      batch.push_back(from[random() % from.size()]);
    }
    // One behind the other, as Arrow holds them.
    std::string& bytes = batch_bytes;
    for (const std::string_view key : batch) bytes += key;
    const char* begin = bytes.data();
    for (std::string_view& key : batch) {
      key = {begin, key.size()};
      begin += key.size();
    }
    rows.resize(batch.size());
  }

  Keys members;
  Keys fresh;
  std::unique_ptr<Vocabulary> snapshot;
  std::string batch_bytes;
  std::vector<std::string_view> batch;
  std::vector<std::int64_t> rows;
};

// The last one asked for; building it takes longer than measuring.
Setup& SetupOf(std::int64_t size, std::int64_t new_percent) {
  static std::unique_ptr<Setup> setup;
  static std::pair<std::int64_t, std::int64_t> made;
  if (setup == nullptr || made != std::pair(size, new_percent)) {
    setup.reset();
    setup = std::make_unique<Setup>(size, new_percent);
    made = {size, new_percent};
  }
  return *setup;
}

std::unique_ptr<LiveVocabulary> Create(const Setup& setup) {
  LiveOptions options;
  options.min_count = 1;
  auto live = LiveVocabulary::Create(*setup.snapshot, options);
  if (!live.ok()) std::abort();
  return std::move(live).value();
}

void Admit(const Setup& setup, LiveVocabulary* live) {
  std::vector<std::int64_t> rows(setup.fresh.views().size());
  const Status status =
      live->Observe(SpanKeys(setup.fresh.views()), 0, LiveVocabulary::Novelty::kAsserted, rows);
  if (!status.ok() || std::count(rows.begin(), rows.end(), 0) != 0) std::abort();
}

void SetKeys(benchmark::State& state) { state.SetItemsProcessed(state.iterations() * kBatch); }

// The peer: unknown keys get row 0.
void BM_LookupSnapshot(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  for (auto _ : state) {
    setup.snapshot->Lookup(setup.batch, setup.rows);
    benchmark::ClobberMemory();
  }
  SetKeys(state);
}

void BM_LookupEmptyOverlay(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  const std::unique_ptr<LiveVocabulary> live = Create(setup);
  const SpanKeys keys(setup.batch);
  for (auto _ : state) {
    live->Lookup(keys, 0, setup.rows);
    benchmark::ClobberMemory();
  }
  SetKeys(state);
}

void BM_LookupOverlay(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  const std::unique_ptr<LiveVocabulary> live = Create(setup);
  Admit(setup, live.get());
  const SpanKeys keys(setup.batch);
  for (auto _ : state) {
    live->Lookup(keys, 0, setup.rows);
    benchmark::ClobberMemory();
  }
  if (std::count(setup.rows.begin(), setup.rows.end(), 0) != 0) std::abort();
  SetKeys(state);
}

void BM_LookupSegment(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  const std::unique_ptr<LiveVocabulary> live = Create(setup);
  Admit(setup, live.get());
  if (!live->Compact().ok()) std::abort();
  const SpanKeys keys(setup.batch);
  for (auto _ : state) {
    live->Lookup(keys, 0, setup.rows);
    benchmark::ClobberMemory();
  }
  SetKeys(state);
}

// Sightings of keys that are all known or admitted.
void BM_ObserveAdmitted(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  const std::unique_ptr<LiveVocabulary> live = Create(setup);
  Admit(setup, live.get());
  const SpanKeys keys(setup.batch);
  double time = 0;
  for (auto _ : state)
    if (!live->Observe(keys, ++time, LiveVocabulary::Novelty::kUnknown, setup.rows).ok())
      std::abort();
  SetKeys(state);
}

// A stream of keys that are seen once: each is counted, none is admitted.
void BM_ObserveFlood(benchmark::State& state) {
  Setup& setup = SetupOf(state.range(0), state.range(1));
  auto created = LiveVocabulary::Create(*setup.snapshot, LiveOptions());
  if (!created.ok()) std::abort();
  LiveVocabulary& live = *created.value();
  std::string key = "urn:li:post:00000000";
  std::string bytes;
  for (std::uint32_t i = 0; i < kBatch; ++i) bytes += key;
  std::vector<std::string_view> views;
  for (std::uint32_t i = 0; i < kBatch; ++i)
    views.emplace_back(bytes.data() + i * key.size(), key.size());
  std::uint64_t next = 0;
  for (auto _ : state) {
    state.PauseTiming();
    for (std::uint32_t i = 0; i < kBatch; ++i, ++next)
      for (std::size_t k = 0; k < 8; ++k)
        bytes[i * key.size() + 12 + k] = static_cast<char>('a' + (next >> (4 * k) & 15));
    state.ResumeTiming();
    if (!live.Observe(SpanKeys(views), 0, LiveVocabulary::Novelty::kUnknown, setup.rows).ok())
      std::abort();
  }
  SetKeys(state);
}

void BM_Compact(benchmark::State& state) {
  Setup& setup = SetupOf(1000, 10);
  for (auto _ : state) {
    state.PauseTiming();
    std::unique_ptr<LiveVocabulary> live = Create(setup);
    Admit(setup, live.get());
    state.ResumeTiming();
    if (!live->Compact().ok()) std::abort();
  }
  state.SetItemsProcessed(state.iterations() * kNewKeys);
}

void SnapshotsAndShares(benchmark::internal::Benchmark* b) {
  b->ArgNames({"snapshot", "new_percent"})->Unit(benchmark::kMicrosecond);
  for (const std::int64_t size : {1'000'000, 10'000'000})
    for (const std::int64_t percent : {0, 10}) b->Args({size, percent});
}
BENCHMARK(BM_LookupSnapshot)->Apply(SnapshotsAndShares);
BENCHMARK(BM_LookupEmptyOverlay)->Apply(SnapshotsAndShares);
BENCHMARK(BM_LookupOverlay)->Apply(SnapshotsAndShares);
BENCHMARK(BM_LookupSegment)->Apply(SnapshotsAndShares);
BENCHMARK(BM_ObserveAdmitted)->Apply(SnapshotsAndShares);
BENCHMARK(BM_ObserveFlood)->ArgNames({"snapshot", "new_percent"})->Args({1'000'000, 10});
BENCHMARK(BM_Compact)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace feedfast::mph
