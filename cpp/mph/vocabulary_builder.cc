#include "cpp/mph/vocabulary_builder.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cpp/common/parallel_for.h"
#include "cpp/mph/packed_ints.h"

namespace feedfast::mph {
namespace {

// Keys per unit of work; a multiple of kKeyBlock.
constexpr std::int64_t kGrain = 64 * kKeyBlock;

// A key as error messages show it.
std::string Quote(std::string_view key) {
  constexpr std::size_t kShown = 80;
  if (key.size() <= kShown) return "'" + std::string(key) + "'";
  return "'" + std::string(key.substr(0, kShown)) + "...' (" + std::to_string(key.size()) +
         " bytes)";
}

Status CheckRows(Span<const std::int64_t> rows, std::int64_t num_keys) {
  if (rows.size() != num_keys)
    return InvalidArgument("rows has ", rows.size(), " elements for ", num_keys, " keys");
  FEEDFAST_RETURN_IF_ERROR(CheckRowRange(rows, 0));
  std::vector<std::int64_t> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twin = std::adjacent_find(sorted.begin(), sorted.end());
  if (twin == sorted.end()) return OkStatus();
  const std::int64_t* first = std::find(rows.begin(), rows.end(), *twin);
  const std::int64_t* second = std::find(first + 1, rows.end(), *twin);
  return InvalidArgument("rows[", first - rows.begin(), "] and rows[", second - rows.begin(),
                         "] are both ", *twin, "; rows must be distinct");
}

Status CheckOptions(const KeySource& keys, const BuildOptions& options) {
  FEEDFAST_RETURN_IF_ERROR(CheckBuildOptions(options));
  if (keys.size() > kMaxKeys)
    return InvalidArgument("keys has ", keys.size(), " elements; at most ", kMaxKeys, " fit");
  if (options.rows.has_value()) return CheckRows(*options.rows, keys.size());
  return OkStatus();
}

}  // namespace

PerfectHashOptions HashOptions(Preset preset) noexcept {
  return preset == Preset::kFast ? PerfectHashOptions{/*seed_bits=*/8, /*keys_per_bucket=*/4.95}
                                 : PerfectHashOptions{/*seed_bits=*/10, /*keys_per_bucket=*/6.15};
}

Status CheckBuildOptions(const BuildOptions& options) {
  const int bits = options.fingerprint_bits;
  if (bits != 0 && bits != 8 && bits != 16 && bits != 32)
    return InvalidArgument("fingerprint_bits = ", bits, " is not 0, 8, 16 or 32");
  if (options.threads < 1) return InvalidArgument("threads = ", options.threads, " is below 1");
  return OkStatus();
}

Status CheckRowRange(Span<const std::int64_t> rows, std::int64_t first) {
  constexpr std::int64_t kEnd = std::int64_t{1} << kMaxRowBits;
  for (std::int64_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 1 || rows[i] >= kEnd)
      return InvalidArgument("rows[", first + i, "] = ", rows[i], " is not in 1..2^", kMaxRowBits,
                             " - 1 (row 0 is for unknown keys)");
  return OkStatus();
}

Status CheckDistinct(std::vector<std::pair<std::string_view, std::int64_t>> keys) {
  std::sort(keys.begin(), keys.end());
  const auto twin = std::adjacent_find(
      keys.begin(), keys.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twin == keys.end()) return OkStatus();
  return InvalidArgument("keys[", twin[0].second, "] and keys[", twin[1].second, "] are both ",
                         Quote(twin->first), "; keys must be distinct");
}

ImageShape ShapeOfBuild(std::int64_t num_keys, std::int64_t max_row, std::uint64_t hash_seed,
                        const BuildOptions& options) noexcept {
  ImageShape shape;
  shape.num_keys = num_keys;
  shape.num_rows = max_row == 0 ? num_keys + 1 : max_row + 1;
  shape.row_bits = BitWidth(static_cast<std::uint64_t>(max_row));
  shape.hash_seed = hash_seed;
  shape.fingerprint_bits = options.fingerprint_bits;
  shape.format = HashOptions(options.preset).format();
  return shape;
}

void WriteHash(const PerfectHashParts& parts, const ImageLayout& layout, std::uint8_t* image) {
  const auto section = [&](Section s) { return image + layout.sections[s].begin; };
  std::copy(parts.seeds.begin(), parts.seeds.end(), section(kSeeds));
  EncodeMonotone(parts.holes, layout.holes, section(kHolesLow), section(kHolesHigh),
                 section(kHolesSamples));
}

AlignedBuffer<KeyCode> VocabularyBuilder::SortedCodes(std::uint64_t seed) {
  AlignedBuffer<KeyCode> codes(keys_.size());
  monitor_.Start(BuildPhase::kHash, keys_.size());
  ParallelFor(keys_.size(), kGrain, options_.threads, [&](std::int64_t begin, std::int64_t end) {
    if (monitor_.cancelled()) return;
    ForEachKeyBlock(keys_, begin, end, [&](std::int64_t first, Span<const std::string_view> views) {
      hash_(views, seed, codes.data() + first);
    });
    monitor_.Add(end - begin);
  });
  if (monitor_.cancelled()) return codes;
  monitor_.Start(BuildPhase::kSort, keys_.size());
  SortCodes(codes.span(), options_.threads);
  return codes;
}

Status VocabularyBuilder::CheckKeysOfCode(KeyCode code, std::uint64_t seed) const {
  std::vector<std::pair<std::string_view, std::int64_t>> found;
  ForEachKeyBlock(keys_, 0, keys_.size(),
                  [&](std::int64_t first, Span<const std::string_view> views) {
                    KeyCode codes[kKeyBlock];
                    hash_(views, seed, codes);
                    for (std::int64_t i = 0; i < views.size(); ++i)
                      if (codes[i] == code) found.emplace_back(views[i], first + i);
                  });
  return CheckDistinct(std::move(found));
}

StatusOr<Vocabulary> VocabularyBuilder::Assemble(Span<const KeyCode> codes, std::uint64_t seed,
                                                 const PerfectHashParts& parts) {
  const std::int64_t max_row = options_.rows.has_value() && !options_.rows->empty()
                                   ? *std::max_element(options_.rows->begin(), options_.rows->end())
                                   : 0;
  ImageShape shape = ShapeOfBuild(codes.size(), max_row, seed, options_);
  shape.num_levels = static_cast<int>(parts.levels.size());
  std::copy(parts.levels.begin(), parts.levels.end(), shape.levels.begin());
  const ImageLayout layout(shape);
  AlignedBuffer<std::uint8_t> image(layout.image_bytes);
  const auto section = [&](Section s) { return image.data() + layout.sections[s].begin; };
  WriteHash(parts, layout, image.data());
  const PerfectHash hash = VocabularyLookup(image.span(), shape).hash();

  monitor_.Start(BuildPhase::kWrite, codes.size());
  if (shape.fingerprint_bits != 0) {
    std::uint8_t* fingerprints = section(kFingerprints);
    const std::int64_t width = shape.fingerprint_bits / 8;
    ParallelFor(codes.size(), kGrain, options_.threads, [&](std::int64_t begin, std::int64_t end) {
      if (monitor_.cancelled()) return;
      // Neighbours among sorted codes are neighbours among seeds and slots.
      for (const KeyCode code : codes.subspan(begin, end - begin)) {
        const std::uint32_t fingerprint = Fingerprint(code, shape.fingerprint_bits);
        std::memcpy(fingerprints + hash.Slot(code) * width, &fingerprint,
                    static_cast<std::size_t>(width));
      }
      if (shape.row_bits == 0) monitor_.Add(end - begin);
    });
  }
  if (shape.row_bits != 0)
    ParallelFor(keys_.size(), kGrain, options_.threads, [&](std::int64_t begin, std::int64_t end) {
      if (monitor_.cancelled()) return;
      ForEachKeyBlock(
          keys_, begin, end, [&](std::int64_t first, Span<const std::string_view> views) {
            KeyCode block[kKeyBlock];
            hash_(views, seed, block);
            for (std::int64_t i = 0; i < views.size(); ++i) hash.PrefetchSeed(block[i]);
            std::int64_t slots[kKeyBlock];
            for (std::int64_t i = 0; i < views.size(); ++i) {
              slots[i] = hash.Slot(block[i]);
              __builtin_prefetch(section(kRows) + ((slots[i] * shape.row_bits) >> 3), 1);
            }
            for (std::int64_t i = 0; i < views.size(); ++i)
              StorePackedShared(section(kRows), shape.row_bits, slots[i],
                                static_cast<std::uint64_t>((*options_.rows)[first + i]));
          });
      monitor_.Add(end - begin);
    });
  FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
  SealImage(shape, image.span());
  Vocabulary vocabulary(image.span(), shape);
  vocabulary.owned_ = std::move(image);
  return vocabulary;
}

StatusOr<Vocabulary> VocabularyBuilder::Build() {
  FEEDFAST_RETURN_IF_ERROR(CheckOptions(keys_, options_));
  if (keys_.size() == 0) return Assemble({}, options_.seed, {});
  Status failure;
  for (std::uint64_t attempt = 0; attempt < kMaxHashSeeds; ++attempt) {
    const std::uint64_t seed = HashSeed(options_.seed, attempt);
    const AlignedBuffer<KeyCode> codes = SortedCodes(seed);
    FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
    const Span<const KeyCode> span = codes.span();
    if (const KeyCode* twin = std::adjacent_find(span.begin(), span.end()); twin != span.end()) {
      // Equal keys, which no seed tells apart, or one collision of different ones.
      FEEDFAST_RETURN_IF_ERROR(CheckKeysOfCode(*twin, seed));
      failure = FailedPrecondition("vocabulary: distinct keys share a 64-bit hash");
      continue;
    }
    monitor_.Start(BuildPhase::kPlace, span.size());
    StatusOr<PerfectHashParts> parts =
        BuildPerfectHash(span, HashOptions(options_.preset), options_.threads, &monitor_);
    if (parts.ok()) return Assemble(span, seed, parts.value());
    failure = parts.status();
    FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
  }
  return Internal(failure.message(), "; gave up after ", kMaxHashSeeds, " hash seeds");
}

StatusOr<Vocabulary> Vocabulary::Build(const KeySource& keys, const BuildOptions& options) {
  return VocabularyBuilder(keys, options, &HashKeys).Build();
}

}  // namespace feedfast::mph
