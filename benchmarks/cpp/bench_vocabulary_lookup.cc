#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kBatch = 1'000'000;

// Keys one after the other in memory with 32-bit offsets, as Arrow holds them.
class OffsetKeys final : public KeySource {
 public:
  void Append(std::string_view key) {
    bytes_.append(key);
    offsets_.push_back(static_cast<std::int32_t>(bytes_.size()));
  }

  std::int64_t size() const noexcept override {
    return static_cast<std::int64_t>(offsets_.size()) - 1;
  }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    const std::int32_t* offsets = offsets_.data() + begin;
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {bytes_.data() + offsets[i],
                  static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }

 private:
  std::string bytes_;
  std::vector<std::int32_t> offsets_ = {0};
};

std::string Member(std::int64_t i) {
  // Distinct below 2^34: the factor is odd.
  const std::uint64_t id = static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL % (1ULL << 34);
  return "urn:li:member:" + std::to_string(id);
}

// The vocabulary of `size` members, built once.
const Vocabulary& Members(std::int64_t size) {
  static std::int64_t built_size = 0;
  static std::unique_ptr<Vocabulary> built;
  if (built_size != size) {
    OffsetKeys keys;
    for (std::int64_t i = 0; i < size; ++i) keys.Append(Member(i));
    BuildOptions options;
    options.threads = 2;
    StatusOr<Vocabulary> vocabulary = Vocabulary::Build(keys, options);
    if (!vocabulary.ok()) std::abort();
    built = std::make_unique<Vocabulary>(std::move(vocabulary).value());
    built_size = size;
  }
  return *built;
}

// Uniform known keys, so that no cache helps.
std::unique_ptr<KeySource> UniformBatch(std::int64_t size) {
  auto asked = std::make_unique<OffsetKeys>();
  std::mt19937_64 random(1);
  for (std::int64_t i = 0; i < kBatch; ++i)
    asked->Append(Member(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(size))));
  return asked;
}

void BM_VocabularyLookup(benchmark::State& state) {
  const Vocabulary& vocabulary = Members(state.range(0));
  const std::unique_ptr<KeySource> asked = UniformBatch(state.range(0));
  std::vector<std::int64_t> rows(static_cast<std::size_t>(kBatch));
  // Calls of range(1) keys over one long batch: the strings are never in the cache.
  for (auto _ : state) {
    for (std::int64_t begin = 0; begin + state.range(1) <= kBatch; begin += state.range(1))
      vocabulary.Lookup(*asked, begin, {rows.data() + begin, state.range(1)});
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * (kBatch / state.range(1) * state.range(1)));
}
BENCHMARK(BM_VocabularyLookup)
    ->ArgNames({"keys", "batch"})
    ->ArgsProduct({{1'000'000, 10'000'000}, {1, 64, 4096, kBatch}})
    ->Unit(benchmark::kMillisecond);

// The share of the string hash.
void BM_HashOfBatch(benchmark::State& state) {
  const std::unique_ptr<KeySource> asked = UniformBatch(10'000'000);
  KeyCode codes[kKeyBlock];
  for (auto _ : state)
    ForEachKeyBlock(*asked, 0, kBatch, [&](std::int64_t, Span<const std::string_view> views) {
      HashKeys(views, 0, codes);
      benchmark::ClobberMemory();
    });
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(BM_HashOfBatch)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace feedfast::mph
