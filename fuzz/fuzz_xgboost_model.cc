// The reader of XGBoost's JSON and UBJSON: what it accepts makes an image that reads again, and
// encodes any rows to leaves of the forest.
#include <cstdint>
#include <vector>

#include "cpp/tree_encoder/leaf_encoder.h"
#include "fuzz/fuzz_target.h"
#include "fuzz/leaf_rows.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using feedfast::tree_encoder::LeafEncoder;
  const feedfast::StatusOr<LeafEncoder> encoder =
      LeafEncoder::FromXgboost({data, static_cast<std::int64_t>(size)});
  if (!encoder.ok()) return 0;
  const std::vector<std::uint8_t> image = encoder->ToImage();
  feedfast::fuzz::Require(LeafEncoder::FromImage(image).ok(), "the image of a forest reads again");
  feedfast::fuzz::CheckLeafRows(encoder.value());
  return 0;
}
