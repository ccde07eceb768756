#ifndef FEEDFAST_CPP_MPH_LIVE_IMAGE_H_
#define FEEDFAST_CPP_MPH_LIVE_IMAGE_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/live_sightings.h"
#include "cpp/mph/live_vocabulary.h"

namespace feedfast::mph {

// The content of a live vocabulary's file (docs/formats/live_vocabulary.md), apart from which
// snapshot it belongs to. Spans and views point into the image or the live vocabulary.
struct LiveParts {
  LiveOptions options;
  double time = 0;  // the latest, -infinity before the first
  std::int64_t next_row = 0;
  std::int64_t num_refused = 0;
  std::vector<Span<const std::uint8_t>> segments;  // vocabulary images
  // Per admitted key; keys seen at one time in the order of their sightings.
  std::vector<std::string_view> keys;
  std::vector<std::int64_t> rows;
  std::vector<double> last_seen;           // LiveKeys::kAlways for permanent keys
  std::vector<std::int64_t> free_rows;     // ascending
  std::vector<std::int64_t> evicted_rows;  // ascending
  std::vector<std::uint8_t> set_sizes;     // sightings: entries of each set
  std::vector<LiveSightings::Entry> sightings;
};

std::vector<std::uint8_t> WriteLiveImage(const Vocabulary& snapshot, const LiveParts& parts);

// Checks everything about an image that can be told without looking keys up: checksums, sizes,
// ranges, order; rows and next_row are rows from snapshot.num_rows() on, a row occurs once among
// `rows` and `free_rows`. DataLoss: a check fails, or the image belongs to another snapshot.
StatusOr<LiveParts> ReadLiveImage(const Vocabulary& snapshot, Span<const std::uint8_t> image);

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LIVE_IMAGE_H_
