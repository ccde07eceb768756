// The vocabulary beside C++ maps and perfect hash functions, from string to number, in one program:
// std::unordered_map, and CMPH and BBHash where their development packages are installed.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cpp/mph/vocabulary.h"

#ifdef FEEDFAST_HAVE_CMPH
#include <cmph.h>
#endif
#ifdef FEEDFAST_HAVE_BBHASH
#include <BooPHF.h>
#endif

namespace feedfast::mph {
namespace {

constexpr std::int64_t kBatch = 1 << 16;

// Keys `urn:li:member:<random id>` one after the other, each with a NUL behind it for C.
class Members {
 public:
  explicit Members(std::int64_t size) {
    std::vector<std::size_t> ends = {0};
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size); ++i) {
      // Distinct below 2^34: the factor is odd.
      bytes_ +=
          "urn:li:member:" + std::to_string(i * 0x9E3779B97F4A7C15 % (std::uint64_t{1} << 34));
      bytes_ += '\0';
      ends.push_back(bytes_.size());
    }
    for (std::size_t i = 1; i < ends.size(); ++i)
      views_.emplace_back(bytes_.data() + ends[i - 1], ends[i] - ends[i - 1] - 1);
  }
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  const std::vector<std::string_view>& views() const { return views_; }

 private:
  std::string bytes_;
  std::vector<std::string_view> views_;
};

const Members& MembersOf(std::int64_t size) {
  static std::map<std::int64_t, std::unique_ptr<Members>> made;
  std::unique_ptr<Members>& members = made[size];
  if (members == nullptr) members = std::make_unique<Members>(size);
  return *members;
}

// One side: built once per size, since google-benchmark enters a benchmark several times.
struct Structure {
  double bytes_per_key = 0;
  double build_ns_per_key = 0;
  std::function<void(const std::vector<std::string_view>&, std::vector<std::int64_t>&)> lookup;
};

using Builder = Structure (*)(const Members& members);

Structure BuildVocabulary(const Members& members, int fingerprint_bits) {
  BuildOptions options;
  options.fingerprint_bits = fingerprint_bits;
  StatusOr<Vocabulary> built = Vocabulary::Build(members.views(), options);
  if (!built.ok()) std::abort();
  const auto vocabulary = std::make_shared<Vocabulary>(std::move(built).value());
  Structure made;
  made.bytes_per_key =
      static_cast<double>(vocabulary->image().size()) / static_cast<double>(vocabulary->size());
  made.lookup = [vocabulary](const auto& keys, auto& rows) { vocabulary->Lookup(keys, rows); };
  return made;
}

Structure BuildFeedfast(const Members& members) { return BuildVocabulary(members, 16); }
Structure BuildFeedfastHash(const Members& members) { return BuildVocabulary(members, 0); }

Structure BuildUnorderedMap(const Members& members) {
  const auto bytes_in_use = [] {
    const struct mallinfo2 info = mallinfo2();
    return static_cast<double>(info.uordblks + info.hblkhd);
  };
  const double before = bytes_in_use();
  const auto rows = std::make_shared<std::unordered_map<std::string, std::int64_t>>();
  rows->reserve(members.views().size());
  for (const std::string_view key : members.views())
    rows->emplace(key, static_cast<std::int64_t>(rows->size()) + 1);
  Structure made;
  made.bytes_per_key = (bytes_in_use() - before) / static_cast<double>(members.views().size());
  made.lookup = [rows](const auto& keys, auto& found) {
    std::string key;  // reused: C++17 finds no std::string by a view
    for (std::size_t i = 0; i < keys.size(); ++i) {
      key.assign(keys[i]);
      const auto row = rows->find(key);
      found[i] = row == rows->end() ? 0 : row->second;
    }
  };
  return made;
}

#ifdef FEEDFAST_HAVE_CMPH
Structure BuildCmph(const Members& members, CMPH_ALGO algorithm) {
  std::vector<char*> keys;
  for (const std::string_view key : members.views()) keys.push_back(const_cast<char*>(key.data()));
  cmph_io_adapter_t* source =
      cmph_io_vector_adapter(keys.data(), static_cast<cmph_uint32>(keys.size()));
  cmph_config_t* config = cmph_config_new(source);
  cmph_config_set_algo(config, algorithm);
  const std::shared_ptr<cmph_t> hash(cmph_new(config), cmph_destroy);
  cmph_config_destroy(config);
  cmph_io_vector_adapter_destroy(source);
  if (hash == nullptr) std::abort();
  Structure made;
  made.bytes_per_key =
      static_cast<double>(cmph_packed_size(hash.get())) / static_cast<double>(keys.size());
  made.lookup = [hash](const auto& asked, auto& found) {
    for (std::size_t i = 0; i < asked.size(); ++i)
      found[i] =
          1 + cmph_search(hash.get(), asked[i].data(), static_cast<cmph_uint32>(asked[i].size()));
  };
  return made;
}

Structure BuildCmphChd(const Members& members) { return BuildCmph(members, CMPH_CHD); }
Structure BuildCmphBdz(const Members& members) { return BuildCmph(members, CMPH_BDZ); }
#endif

#ifdef FEEDFAST_HAVE_BBHASH
struct KeyHasher {
  std::uint64_t operator()(const KeyCode& code, std::uint64_t seed = 0) const {
    return Remix(code ^ seed * 0x9E3779B97F4A7C15ULL);
  }
};

Structure BuildBbhash(const Members& members) {
  std::vector<KeyCode> codes(members.views().size());
  HashKeys(members.views(), 0, codes.data());
  using Hash = boomphf::mphf<KeyCode, KeyHasher>;
  const auto hash = std::make_shared<Hash>(codes.size(), codes, /*num_thread=*/1, /*gamma=*/2.0,
                                           /*writeEach=*/false, /*progress=*/false);
  Structure made;
  made.bytes_per_key =
      static_cast<double>(hash->totalBitSize()) / 8 / static_cast<double>(codes.size());
  made.lookup = [hash](const auto& keys, auto& found) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      KeyCode code = 0;
      HashKeys({&keys[i], 1}, 0, &code);
      found[i] = 1 + static_cast<std::int64_t>(hash->lookup(code));
    }
  };
  return made;
}
#endif

const Structure& StructureOf(Builder build, std::int64_t size) {
  static std::map<std::pair<Builder, std::int64_t>, Structure> made;
  const auto found = made.find({build, size});
  if (found != made.end()) return found->second;
  const Members& members = MembersOf(size);
  const auto start = std::chrono::steady_clock::now();
  Structure structure = build(members);
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  structure.build_ns_per_key = taken.count() / static_cast<double>(size);
  return made.emplace(std::pair{build, size}, std::move(structure)).first->second;
}

// Uniform known keys, new ones in each iteration of a cycle that no cache holds.
void BM_Lookup(benchmark::State& state, Builder build) {
  const Members& members = MembersOf(state.range(0));
  const Structure& structure = StructureOf(build, state.range(0));
  constexpr std::size_t kCycle = 16;
  std::mt19937_64 random(1);
  std::vector<std::vector<std::string_view>> batches(kCycle);
  for (std::vector<std::string_view>& batch : batches)
    for (std::int64_t i = 0; i < kBatch; ++i)
      batch.push_back(members.views()[random() % members.views().size()]);
  std::vector<std::int64_t> rows(static_cast<std::size_t>(kBatch));
  std::size_t turn = 0;
  for (auto _ : state) {
    structure.lookup(batches[turn++ % kCycle], rows);
    benchmark::ClobberMemory();
  }
  if (*std::min_element(rows.begin(), rows.end()) <= 0) std::abort();
  state.counters["bytes_per_key"] = structure.bytes_per_key;
  state.counters["build_ns_per_key"] = structure.build_ns_per_key;
  state.counters["time_per_key"] =
      benchmark::Counter(static_cast<double>(state.iterations() * kBatch),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.SetItemsProcessed(state.iterations() * kBatch);
}

#define FEEDFAST_PEER(name, build)          \
  BENCHMARK_CAPTURE(BM_Lookup, name, build) \
      ->ArgName("keys")                     \
      ->Arg(1'000'000)                      \
      ->Arg(10'000'000)                     \
      ->Unit(benchmark::kMicrosecond)

FEEDFAST_PEER(feedfast_16_bits, &BuildFeedfast);
FEEDFAST_PEER(feedfast_hash_alone, &BuildFeedfastHash);
FEEDFAST_PEER(std_unordered_map, &BuildUnorderedMap);
#ifdef FEEDFAST_HAVE_CMPH
FEEDFAST_PEER(cmph_chd, &BuildCmphChd);
FEEDFAST_PEER(cmph_bdz, &BuildCmphBdz);
#endif
#ifdef FEEDFAST_HAVE_BBHASH
FEEDFAST_PEER(bbhash, &BuildBbhash);
#endif

}  // namespace
}  // namespace feedfast::mph
