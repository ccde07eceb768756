// The reader of vocabulary images and lookups in what it accepts.
//   header verification: lookups stay inside the image, give rows of [0, num_rows), and the same
//                        ones on every CPU target;
//   full verification:   accepts nothing that header verification refuses, and refuses an accepted
//                        image when a bit of it flips.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/mph/vocabulary_image.h"
#include "fuzz/fuzz_target.h"

namespace feedfast::mph {
namespace {

using fuzz::Require;

constexpr std::int64_t kLargestImage = 1 << 14;

// Short and long ones, more than a block of them.
const std::vector<std::string>& Keys() {
  static const auto* keys = [] {
    auto* made = new std::vector<std::string>{"", std::string(300, 'x')};
    for (int i = 0; i < 400; ++i) made->push_back("key" + std::to_string(i));
    return made;
  }();
  return *keys;
}

void CheckLookups(const Vocabulary& vocabulary) {
  const std::vector<std::string_view> views(Keys().begin(), Keys().end());
  std::vector<std::int64_t> first;
  fuzz::ForEachCpuTarget([&] {
    std::vector<std::int64_t> rows(views.size(), -1);
    vocabulary.Lookup(views, rows);
    for (const std::int64_t row : rows)
      Require(row >= 0 && row < vocabulary.num_rows(), "rows are in [0, num_rows)");
    if (first.empty()) first = rows;
    Require(rows == first, "CPU targets agree");
  });
}

void CheckFlippedBit(Span<const std::uint8_t> image) {
  std::vector<std::uint8_t> flipped(image.begin(), image.end());
  const std::uint64_t bit = Checksum(image) % (8 * static_cast<std::uint64_t>(image.size()));
  flipped[static_cast<std::size_t>(bit / 8)] ^= static_cast<std::uint8_t>(1U << (bit % 8));
  Require(!ReadImage(flipped, Verify::kFull).ok(), "a flipped bit is refused");
}

// One count of a sound shape becomes another value.
void ChangeShape(ImageShape& shape, std::mt19937_64& random) {
  const auto small = [&] { return static_cast<std::int64_t>(random() % 2048); };
  const auto level = static_cast<std::size_t>(random() % kMaxLevels);
  constexpr int kFingerprintBits[] = {0, 8, 16, 32};
  const auto buckets = [&] { return (1 + small() % 8) << shape.format.scheme.segment_bits; };
  switch (random() % 9) {
    case 0:
      shape.num_keys = small();
      break;
    case 1:
      shape.num_rows = static_cast<std::int64_t>(random() >> (random() % 64));
      break;
    case 2:
      shape.fingerprint_bits = kFingerprintBits[random() % 4];
      break;
    case 3:
      shape.row_bits = static_cast<int>(random() % (kMaxRowBits + 1));
      break;
    case 4:
      shape.num_levels = static_cast<int>(random() % (kMaxLevels + 1));
      for (int i = 0; i < shape.num_levels; ++i) {
        LevelShape& made = shape.levels[static_cast<std::size_t>(i)];
        if (made.num_slots == 0) made = {kMinLevelSlots + small(), buckets()};
      }
      break;
    case 5:
      shape.levels[level].num_slots = kMinLevelSlots + small();
      break;
    case 6:
      shape.format.seed_bits = kMinSeedBits + static_cast<int>(random() % 5);
      break;
    case 7:
      shape.format.group_bits = kMinGroupBits + static_cast<int>(random() % 6);
      break;
    default:
      shape.levels[level].num_buckets = buckets();
  }
  if (shape.row_bits == 0) shape.num_rows = shape.num_keys + 1;
}

}  // namespace
}  // namespace feedfast::mph

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace feedfast;       // NOLINT(google-build-using-namespace)
  using namespace feedfast::mph;  // NOLINT(google-build-using-namespace)
  const Span<const std::uint8_t> image(data, static_cast<std::int64_t>(size));
  const bool sound = ReadImage(image, Verify::kFull).ok();
  const StatusOr<Vocabulary> vocabulary = Vocabulary::FromImage(image, Verify::kHeader);
  if (sound) {
    Require(vocabulary.ok(), "full verification includes that of the header");
    CheckFlippedBit(image);
  }
  if (vocabulary.ok()) CheckLookups(vocabulary.value());
  return 0;
}

// Random bytes would never get past the checksums: changes are made to sections, to bytes of the
// header whose checksum is then made right, or to the counts of an image that is then sealed again.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned int seed) {
  using namespace feedfast::mph;  // NOLINT(google-build-using-namespace)
  std::mt19937_64 random(seed);
  auto bytes = static_cast<std::int64_t>(size);
  const feedfast::StatusOr<ImageShape> shape = ReadImage({data, bytes}, Verify::kHeader);
  if (shape.ok() && random() % 3 == 0) {
    ImageShape changed = shape.value();
    ChangeShape(changed, random);
    const ImageLayout layout(changed);
    const std::int64_t limit = std::min(kLargestImage, static_cast<std::int64_t>(max_size));
    const bool ordered =
        std::all_of(layout.sections.begin(), layout.sections.end(),
                    [](const ImageLayout::Range& section) { return section.size >= 0; });
    if (ordered && layout.image_bytes <= limit) {
      for (std::int64_t i = bytes; i < layout.image_bytes; ++i)
        data[i] = static_cast<std::uint8_t>(random());
      bytes = layout.image_bytes;
      SealImage(changed, {data, bytes});
      return static_cast<std::size_t>(bytes);
    }
  }
  // Mutating in place keeps a sound image's size, which its header tells.
  const bool keep_size = shape.ok() && random() % 8 != 0;
  bytes = static_cast<std::int64_t>(LLVMFuzzerMutate(data, size, keep_size ? size : max_size));
  if (keep_size) bytes = static_cast<std::int64_t>(size);  // the tail that was cut off is kept
  if (bytes < kHeaderBytes) return static_cast<std::size_t>(bytes);
  if (keep_size && random() % 2 == 0) {
    SealImage(shape.value(), {data, bytes});
  } else if (random() % 4 != 0) {
    constexpr std::int64_t kChecksumOffset = kHeaderBytes - 8;
    const std::uint64_t checksum = Checksum({data, kChecksumOffset});
    std::memcpy(data + kChecksumOffset, &checksum, sizeof(checksum));
  }
  return static_cast<std::size_t>(bytes);
}
