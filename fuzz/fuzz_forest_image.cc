// The reader of forest images: what it accepts writes the same bytes again, and encodes any rows
// to leaves of the forest, the same ones on every CPU target.
#include <xxhash.h>

#include <cstring>
#include <vector>

#include "cpp/tree_encoder/leaf_encoder.h"
#include "fuzz/fuzz_target.h"
#include "fuzz/leaf_rows.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using feedfast::tree_encoder::LeafEncoder;
  const feedfast::Span<const std::uint8_t> image(data, static_cast<std::int64_t>(size));
  const feedfast::StatusOr<LeafEncoder> encoder = LeafEncoder::FromImage(image);
  if (!encoder.ok()) return 0;
  const std::vector<std::uint8_t> written = encoder->ToImage();
  feedfast::fuzz::Require(written.size() == size && std::memcmp(written.data(), data, size) == 0,
                          "an image that is read is written back as it was");
  feedfast::fuzz::CheckLeafRows(encoder.value());
  return 0;
}

// Makes the size and the checksum of the header right, most of the time.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned int seed) {
  constexpr std::size_t kSizeOffset = 16;
  constexpr std::size_t kChecksumOffset = 24;
  constexpr std::size_t kChecksumBegin = 32;
  const std::size_t bytes = LLVMFuzzerMutate(data, size, max_size);
  if (bytes < kChecksumBegin || seed % 8 == 0) return bytes;
  const std::uint64_t total = bytes;
  std::memcpy(data + kSizeOffset, &total, sizeof(total));
  const std::uint64_t checksum = XXH3_64bits(data + kChecksumBegin, bytes - kChecksumBegin);
  std::memcpy(data + kChecksumOffset, &checksum, sizeof(checksum));
  return bytes;
}
