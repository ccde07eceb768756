#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/perfect_hash_builder.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kBatch = 1 << 16;

// Keys `urn:li:member:<random id>` one after the other in memory, as Arrow holds them.
class Members {
 public:
  explicit Members(std::int64_t size) {
    std::vector<std::size_t> ends = {0};
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size); ++i) {
      // Distinct below 2^40: the factor is odd.
      bytes_ +=
          "urn:li:member:" + std::to_string(i * 0x9E3779B97F4A7C15 % (std::uint64_t{1} << 40));
      ends.push_back(bytes_.size());
    }
    for (std::size_t i = 1; i < ends.size(); ++i)
      views_.emplace_back(bytes_.data() + ends[i - 1], ends[i] - ends[i - 1]);
  }
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  const std::vector<std::string_view>& views() const { return views_; }

 private:
  std::string bytes_;
  std::vector<std::string_view> views_;
};

BuildOptions Options(std::int64_t fingerprint_bits, std::int64_t preset) {
  BuildOptions options;
  options.fingerprint_bits = static_cast<int>(fingerprint_bits);
  options.preset = preset == 0 ? Preset::kCompact : Preset::kFast;
  return options;
}

Vocabulary BuildOrDie(const Members& members, const BuildOptions& options) {
  StatusOr<Vocabulary> vocabulary = Vocabulary::Build(members.views(), options);
  if (!vocabulary.ok()) std::abort();
  return std::move(vocabulary).value();
}

// The whole build: hashing, sorting, placement, fingerprints, checksums.
void BM_BuildVocabulary(benchmark::State& state) {
  const Members members(state.range(0));
  BuildOptions options = Options(16, state.range(1));
  options.threads = static_cast<int>(state.range(2));
  double bits_per_key = 0;
  for (auto _ : state) bits_per_key = BuildOrDie(members, options).bits_per_key();
  state.counters["bits_per_key"] = bits_per_key;
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_BuildVocabulary)
    ->ArgNames({"keys", "fast", "threads"})
    ->ArgsProduct({{100'000, 1'000'000, 10'000'000}, {0, 1}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// The choice of seed_bits and keys_per_bucket (in hundredths) that the presets make.
void BM_BuildPerfectHash(benchmark::State& state) {
  const std::int64_t num_keys = state.range(0);
  std::mt19937_64 random(20'240'601);
  std::vector<KeyCode> codes(static_cast<std::size_t>(num_keys));
  for (KeyCode& code : codes) code = random();
  SortCodes(codes, 1);
  const PerfectHashOptions options = {static_cast<int>(state.range(1)),
                                      static_cast<double>(state.range(2)) / 100};
  double bits_per_key = 0;
  double bumped = 0;
  for (auto _ : state) {
    BuildMonitor monitor;
    const StatusOr<PerfectHashParts> parts =
        BuildPerfectHash(codes, options, static_cast<int>(state.range(3)), &monitor);
    if (!parts.ok()) std::abort();
    const MonotoneShape holes(static_cast<std::int64_t>(parts->holes.size()), num_keys);
    const std::int64_t bytes = static_cast<std::int64_t>(parts->seeds.size()) + holes.low_bytes +
                               (holes.high_words + holes.num_samples) * 8;
    bits_per_key = 8.0 * static_cast<double>(bytes) / static_cast<double>(num_keys);
    bumped = static_cast<double>(parts->holes.size()) / static_cast<double>(num_keys);
  }
  state.counters["bits_per_key"] = bits_per_key;
  state.counters["holes_per_key"] = bumped;
  state.SetItemsProcessed(state.iterations() * num_keys);
}
BENCHMARK(BM_BuildPerfectHash)
    ->ArgNames({"keys", "seed_bits", "keys_per_bucket_100", "threads"})
    ->ArgsProduct({{1'000'000}, {8}, {475, 495, 515}, {1}})
    ->ArgsProduct({{1'000'000}, {10}, {595, 615, 635}, {1}})
    ->ArgsProduct({{1'000'000}, {12}, {720, 740, 760}, {1}})
    ->ArgsProduct({{10'000, 100'000, 10'000'000}, {10}, {615}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// Uniform keys, all known: no cache helps, unlike the skewed ones of a feed.
void BM_Lookup(benchmark::State& state) {
  const Members members(state.range(0));
  const Vocabulary vocabulary = BuildOrDie(members, Options(state.range(1), 0));
  std::vector<std::string_view> keys;
  std::sample(members.views().begin(), members.views().end(), std::back_inserter(keys),
              std::min(kBatch, state.range(0)), std::mt19937_64(1));
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(2));
  std::vector<std::int64_t> rows(keys.size());
  for (auto _ : state) {
    vocabulary.Lookup(keys, rows);
    benchmark::ClobberMemory();
  }
  if (std::count(rows.begin(), rows.end(), 0) != 0) std::abort();
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(keys.size()));
}
BENCHMARK(BM_Lookup)
    ->ArgNames({"keys", "fingerprint_bits"})
    ->ArgsProduct({{1000, 1'000'000}, {0, 8, 16, 32}})
    ->Unit(benchmark::kMicrosecond);

// The share of the string hash in a lookup.
void BM_HashKeys(benchmark::State& state) {
  const Members members(kBatch);
  std::vector<KeyCode> codes(static_cast<std::size_t>(kBatch));
  for (auto _ : state) {
    HashKeys(members.views(), 0, codes.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(BM_HashKeys)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace feedfast::mph
