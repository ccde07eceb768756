// The reader of live vocabularies' files and everything that can be done with what it accepts:
// lookups give rows of [0, num_rows), sightings, expiry and freezing work, and the file written
// then reads again with the same rows. A file with a flipped bit is refused.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/live_image.h"
#include "cpp/mph/live_vocabulary.h"
#include "fuzz/fuzz_target.h"

namespace feedfast::mph {
namespace {

using fuzz::Require;

// docs/formats/live_vocabulary.md
constexpr std::int64_t kHeaderBytesOfFile = 192;
constexpr std::size_t kFileBytesOffset = 16;
constexpr std::size_t kSnapshotOffset = 24;
constexpr std::size_t kPayloadChecksumOffset = 176;
constexpr std::size_t kHeaderChecksumOffset = 184;

const std::vector<std::string>& Keys() {
  static const auto* keys = [] {
    auto* made = new std::vector<std::string>{"", std::string(300, 'x')};
    for (int i = 0; i < 300; ++i) made->push_back("key" + std::to_string(i));
    return made;
  }();
  return *keys;
}

std::vector<std::string_view> Views(std::size_t begin, std::size_t end) {
  return {Keys().begin() + static_cast<std::ptrdiff_t>(begin),
          Keys().begin() + static_cast<std::ptrdiff_t>(end)};
}

// 60 of the keys; 8 bits, so that false accepts and exceptions occur.
const Vocabulary& Snapshot() {
  static const auto* snapshot = [] {
    BuildOptions options;
    options.fingerprint_bits = 8;
    StatusOr<Vocabulary> built = Vocabulary::Build(Views(0, 60), options);
    Require(built.ok(), "the snapshot is built");
    return new Vocabulary(std::move(built).value());
  }();
  return *snapshot;
}

template <typename T>
void Store(std::uint8_t* image, std::size_t offset, T value) {
  std::memcpy(image + offset, &value, sizeof(value));
}

void FixChecksums(std::uint8_t* image, std::int64_t size) {
  if (size < kHeaderBytesOfFile) return;
  Store(image, kFileBytesOffset, static_cast<std::uint64_t>(size));
  Store(image, kPayloadChecksumOffset,
        Checksum({image + kHeaderBytesOfFile, size - kHeaderBytesOfFile}));
  Store(image, kHeaderChecksumOffset, Checksum({image, kHeaderChecksumOffset}));
}

// A file of the corpus names the snapshot of the day it was written. It is made to name ours, which
// may have become another image; what it holds stays.
std::vector<std::uint8_t> Adopted(Span<const std::uint8_t> image) {
  std::vector<std::uint8_t> adopted(image.begin(), image.end());
  if (image.size() < kHeaderBytesOfFile || std::memcmp(image.data(), "FFLIVE\0", 8) != 0)
    return adopted;
  const Span<const std::uint8_t> snapshot = Snapshot().image();
  Store(adopted.data(), kSnapshotOffset, static_cast<std::uint64_t>(snapshot.size()));
  Store(adopted.data(), kSnapshotOffset + 8,
        Checksum(snapshot.subspan(0, std::min(snapshot.size(), std::int64_t{256}))));
  Store(adopted.data(), kSnapshotOffset + 16, static_cast<std::uint64_t>(Snapshot().num_rows()));
  Store(adopted.data(), kHeaderChecksumOffset, Checksum({adopted.data(), kHeaderChecksumOffset}));
  return adopted;
}

std::vector<std::int64_t> Lookup(const LiveVocabulary& live) {
  const std::vector<std::string_view> views = Views(0, Keys().size());
  std::vector<std::int64_t> rows(views.size(), -1);
  live.Lookup(SpanKeys(views), 0, rows);
  const std::int64_t num_rows = live.Counts().num_rows;
  for (const std::int64_t row : rows)
    Require(row >= 0 && row < num_rows, "rows are in [0, num_rows)");
  return rows;
}

void CheckUse(LiveVocabulary& live) {
  Lookup(live);
  const std::vector<std::string_view> seen = Views(50, 200);
  std::vector<std::int64_t> rows(seen.size(), -1);
  for (const double time : {1.0, 2.0, 1e6}) {
    const Status observed =
        live.Observe(SpanKeys(seen), time, LiveVocabulary::Novelty::kUnknown, rows);
    Require(observed.ok(), "sightings are counted");
    Lookup(live);
  }
  const std::vector<std::string_view> born = Views(200, 230);
  rows.resize(born.size());
  Require(live.Observe(SpanKeys(born), 1e6, LiveVocabulary::Novelty::kAsserted, rows).ok(),
          "new keys are counted");
  Require(live.Expire(2e6).ok(), "keys expire");
  (void)live.TakeEvictedRows();
  // Refused only when there are too many segments.
  if (live.Counts().num_segments < LiveVocabulary::kMaxSegments)
    Require(live.Compact().ok(), "admitted keys are frozen");
  const std::vector<std::int64_t> before = Lookup(live);
  const auto again = LiveVocabulary::FromImage(Snapshot(), live.Image());
  Require(again.ok(), "a file that was written reads again");
  Require(Lookup(*again.value()) == before, "its rows are the same");
}

// One thing about the content becomes another.
void ChangeParts(LiveParts& parts, std::mt19937_64& random) {
  const auto pick = [&](auto& values) -> auto& { return values[random() % values.size()]; };
  const auto small = [&] { return static_cast<std::int64_t>(random() % 400); };
  switch (random() % 9) {
    case 0:
      parts.next_row = small();
      break;
    case 1:
      if (!parts.rows.empty()) pick(parts.rows) = small();
      break;
    case 2:
      if (!parts.last_seen.empty()) pick(parts.last_seen) = static_cast<double>(small());
      break;
    case 3:
      if (!parts.keys.empty()) pick(parts.keys) = Keys()[random() % Keys().size()];
      break;
    case 4:
      parts.free_rows.push_back(small());
      break;
    case 5:
      parts.evicted_rows.push_back(small());
      break;
    case 6:
      parts.keys.emplace_back(Keys()[random() % Keys().size()]);
      parts.rows.push_back(small());
      parts.last_seen.push_back(random() % 2 == 0 ? LiveKeys::kAlways : parts.time);
      break;
    case 7:
      if (!parts.segments.empty()) parts.segments.push_back(pick(parts.segments));
      break;
    default:
      parts.options.capacity = 1 + small();
  }
}

}  // namespace
}  // namespace feedfast::mph

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace feedfast::mph;  // NOLINT(google-build-using-namespace)
  const feedfast::Span<const std::uint8_t> image(data, static_cast<std::int64_t>(size));
  (void)LiveVocabulary::FromImage(Snapshot(), image);
  std::vector<std::uint8_t> adopted = Adopted(image);
  const auto live = LiveVocabulary::FromImage(Snapshot(), adopted);
  if (!live.ok()) return 0;
  CheckUse(*live.value());
  const std::uint64_t bit = Checksum(image) % (8 * adopted.size());
  adopted[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
  feedfast::fuzz::Require(!LiveVocabulary::FromImage(Snapshot(), adopted).ok(),
                          "a flipped bit is refused");
  return 0;
}

// Random bytes would never get past the checksums: they are made right, most of the time, or parts
// of a sound file are changed and written anew.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned int seed) {
  using namespace feedfast::mph;  // NOLINT(google-build-using-namespace)
  std::mt19937_64 random(seed);
  if (random() % 2 == 0) {
    const std::vector<std::uint8_t> adopted = Adopted({data, static_cast<std::int64_t>(size)});
    feedfast::StatusOr<LiveParts> parts = ReadLiveImage(Snapshot(), adopted);
    if (parts.ok()) {
      ChangeParts(parts.value(), random);
      const std::vector<std::uint8_t> written = WriteLiveImage(Snapshot(), parts.value());
      if (written.size() <= max_size) {
        std::copy(written.begin(), written.end(), data);
        return written.size();
      }
    }
  }
  const std::size_t bytes = LLVMFuzzerMutate(data, size, max_size);
  if (random() % 8 != 0) FixChecksums(data, static_cast<std::int64_t>(bytes));
  return bytes;
}
