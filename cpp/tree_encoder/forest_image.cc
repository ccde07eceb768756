// The image of docs/formats/forest.md. Forests without categorical splits are written as version 1.
#include <xxhash.h>

#include <cstddef>
#include <cstring>

#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder {
namespace {

constexpr char kMagic[8] = {'F', 'F', 'F', 'O', 'R', 'E', 'S', 'T'};
constexpr std::uint32_t kVersion1 = 1;
constexpr std::uint32_t kVersionWithSets = 2;
constexpr std::int64_t kChecksumOffset = 24;
constexpr std::int64_t kChecksumBegin = 32;
constexpr std::int64_t kHeaderBytes = 48;
constexpr std::int64_t kSplitBytes = 20;
constexpr std::int64_t kSetsHeaderBytes = 8;
constexpr std::int64_t kItemBytes = 4;  // of offsets, sets of splits and words of sets

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "images are read in place of the host");
// Images hold XXH3 values, which earlier releases computed differently.
static_assert(XXH_VERSION_NUMBER >= 800, "xxHash 0.8.0 or later is needed");
static_assert(sizeof(Split) == kSplitBytes + kItemBytes, "splits have no padding");

// num_sets 0: version 1.
std::int64_t ImageBytes(std::int64_t num_trees, std::int64_t num_splits, std::int64_t num_sets,
                        std::int64_t num_set_words) {
  const std::int64_t numeric =
      kHeaderBytes + 2 * (num_trees + 1) * kItemBytes + num_splits * kSplitBytes;
  if (num_sets == 0) return numeric;
  return numeric + kSetsHeaderBytes + (num_splits + num_sets + 1 + num_set_words) * kItemBytes;
}

std::uint64_t Checksum(Span<const std::uint8_t> image) {
  return XXH3_64bits(image.data() + kChecksumBegin,
                     static_cast<std::size_t>(image.size() - kChecksumBegin));
}

class Writer {
 public:
  explicit Writer(std::int64_t size) { bytes_.reserve(static_cast<std::size_t>(size)); }

  template <typename T>
  void Put(const T* values, std::size_t count) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(values);
    bytes_.insert(bytes_.end(), first, first + count * sizeof(T));
  }
  template <typename T>
  void Put(T value) {
    Put(&value, 1);
  }
  std::vector<std::uint8_t>& bytes() { return bytes_; }

 private:
  std::vector<std::uint8_t> bytes_;
};

// Reads consecutive fields; the caller has compared the sizes.
class Reader {
 public:
  explicit Reader(const std::uint8_t* position) : position_(position) {}

  template <typename T>
  T Get() {
    T value;
    Get(&value, 1);
    return value;
  }
  template <typename T>
  void Get(T* values, std::size_t count) {
    if (count > 0) std::memcpy(values, position_, count * sizeof(T));
    position_ += count * sizeof(T);
  }

 private:
  const std::uint8_t* position_;
};

}  // namespace

std::vector<std::uint8_t> ForestToImage(const Forest& forest) {
  const bool has_sets = forest.num_sets() > 0;
  const std::int64_t size =
      ImageBytes(forest.num_trees(), static_cast<std::int64_t>(forest.splits.size()),
                 forest.num_sets(), static_cast<std::int64_t>(forest.set_words.size()));
  Writer writer(size);
  writer.Put(kMagic, sizeof(kMagic));
  writer.Put(has_sets ? kVersionWithSets : kVersion1);
  writer.Put(std::uint32_t{0});
  writer.Put(static_cast<std::uint64_t>(size));
  writer.Put(std::uint64_t{0});  // the checksum, below
  writer.Put(forest.num_features);
  writer.Put(forest.num_trees());
  writer.Put(forest.split_offsets.back());
  writer.Put(forest.num_leaves());
  if (has_sets) {
    writer.Put(forest.num_sets());
    writer.Put(static_cast<std::int32_t>(forest.set_words.size()));
  }
  writer.Put(forest.split_offsets.data(), forest.split_offsets.size());
  writer.Put(forest.leaf_offsets.data(), forest.leaf_offsets.size());
  for (const Split& split : forest.splits)
    writer.Put(reinterpret_cast<const std::uint8_t*>(&split), kSplitBytes);
  if (has_sets) {
    for (const Split& split : forest.splits) writer.Put(split.set);
    writer.Put(forest.set_offsets.data(), forest.set_offsets.size());
    writer.Put(forest.set_words.data(), forest.set_words.size());
  }
  std::vector<std::uint8_t> image = std::move(writer.bytes());
  const std::uint64_t checksum = Checksum(image);
  std::memcpy(image.data() + kChecksumOffset, &checksum, sizeof(checksum));
  return image;
}

StatusOr<Forest> ForestFromImage(Span<const std::uint8_t> image) {
  if (image.size() < kHeaderBytes)
    return DataLoss("forest image: ", image.size(), " bytes are fewer than the header's ",
                    kHeaderBytes);
  Reader reader(image.data());
  char magic[sizeof(kMagic)];
  reader.Get(magic, sizeof(magic));
  if (std::memcmp(magic, kMagic, sizeof(magic)) != 0)
    return DataLoss("forest image: it does not start with FFFOREST");
  const auto version = reader.Get<std::uint32_t>();
  if (version != kVersion1 && version != kVersionWithSets)
    return DataLoss("forest image: version ", version, " is not readable here; readable: 1, 2");
  if (const auto zero = reader.Get<std::uint32_t>(); zero != 0)
    return DataLoss("forest image: the field at offset 12 is ", zero, "; expected 0");
  if (const auto size = reader.Get<std::uint64_t>();
      size != static_cast<std::uint64_t>(image.size()))
    return DataLoss("forest image: ", image.size(), " bytes; the header says ", size);
  if (reader.Get<std::uint64_t>() != Checksum(image))
    return DataLoss("forest image: the checksum does not match the content");
  Forest forest;
  forest.num_features = reader.Get<std::int32_t>();
  const std::int64_t num_trees = reader.Get<std::int32_t>();
  const std::int64_t num_splits = reader.Get<std::int32_t>();
  const std::int64_t num_leaves = reader.Get<std::int32_t>();
  std::int64_t num_sets = 0;
  std::int64_t num_set_words = 0;
  if (version == kVersionWithSets) {
    if (image.size() < kHeaderBytes + kSetsHeaderBytes)
      return DataLoss("forest image: ", image.size(), " bytes are fewer than the header's ",
                      kHeaderBytes + kSetsHeaderBytes);
    num_sets = reader.Get<std::int32_t>();
    num_set_words = reader.Get<std::int32_t>();
    if (num_sets < 1 || num_set_words < 0)
      return DataLoss("forest image: ", num_sets, " sets of ", num_set_words,
                      " words; version 2 has at least one set");
  }
  if (num_trees < 0 || num_splits < 0 ||
      ImageBytes(num_trees, num_splits, num_sets, num_set_words) != image.size())
    return DataLoss("forest image: ", num_trees, " trees with ", num_splits, " splits and ",
                    num_sets, " sets of ", num_set_words, " words do not make ", image.size(),
                    " bytes");
  forest.split_offsets.resize(static_cast<std::size_t>(num_trees) + 1);
  forest.leaf_offsets.resize(static_cast<std::size_t>(num_trees) + 1);
  forest.splits.resize(static_cast<std::size_t>(num_splits));
  reader.Get(forest.split_offsets.data(), forest.split_offsets.size());
  reader.Get(forest.leaf_offsets.data(), forest.leaf_offsets.size());
  for (Split& split : forest.splits)
    reader.Get(reinterpret_cast<std::uint8_t*>(&split), kSplitBytes);
  if (version == kVersionWithSets) {
    forest.set_offsets.resize(static_cast<std::size_t>(num_sets) + 1);
    forest.set_words.resize(static_cast<std::size_t>(num_set_words));
    for (Split& split : forest.splits) split.set = reader.Get<std::int32_t>();
    reader.Get(forest.set_offsets.data(), forest.set_offsets.size());
    reader.Get(forest.set_words.data(), forest.set_words.size());
  }
  FEEDFAST_RETURN_IF_ERROR(ValidateForest(forest));
  if (num_leaves != forest.num_leaves())
    return DataLoss("forest image: num_leaves is ", num_leaves, " but the trees have ",
                    forest.num_leaves());
  return forest;
}

}  // namespace feedfast::tree_encoder
