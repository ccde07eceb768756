#include "cpp/mph/live_image.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/live_keys.h"
#include "cpp/mph/vocabulary_image.h"

namespace feedfast::mph {
namespace {

constexpr char kMagic[8] = {'F', 'F', 'L', 'I', 'V', 'E', '\0', '\0'};
constexpr std::uint32_t kVersion = 1;
// The header of a vocabulary image holds the checksums of all its sections, so its own checksum
// stands for the whole snapshot.
constexpr std::int64_t kSnapshotHeaderBytes = 256;
constexpr std::uint64_t kMaxCount = std::uint64_t{1} << 62;

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t num_segments;
  std::uint64_t file_bytes;
  std::uint64_t snapshot_bytes;
  std::uint64_t snapshot_checksum;
  std::uint64_t first_row;
  std::uint64_t next_row;
  std::uint64_t seed;
  std::uint64_t capacity;
  std::uint64_t max_key_bytes;
  std::uint64_t min_count;
  double expire_after;
  double time;
  std::uint64_t num_refused;
  std::uint64_t num_keys;
  std::uint64_t num_free_rows;
  std::uint64_t num_evicted_rows;
  std::uint64_t num_sightings;
  std::uint64_t num_sets;
  std::uint64_t key_bytes;
  std::uint64_t zero[2];
  std::uint64_t payload_checksum;  // of all bytes after the header
  std::uint64_t header_checksum;   // of all bytes before it
};
constexpr std::int64_t kLiveHeaderBytes = 192;
static_assert(sizeof(Header) == kLiveHeaderBytes && sizeof(LiveSightings::Entry) == 16);

template <typename... Pieces>
Status Damaged(const Pieces&... pieces) {
  return DataLoss("live vocabulary: ", pieces...);
}

std::uint64_t SnapshotChecksum(const Vocabulary& snapshot) {
  const Span<const std::uint8_t> image = snapshot.image();
  return Checksum(image.subspan(0, std::min(image.size(), kSnapshotHeaderBytes)));
}

std::uint64_t HeaderChecksum(const Header& header) noexcept {
  return Checksum({reinterpret_cast<const std::uint8_t*>(&header),
                   static_cast<std::int64_t>(offsetof(Header, header_checksum))});
}

template <typename T>
std::uint64_t SizeOf(const std::vector<T>& v) {
  return v.size();
}

class Writer {
 public:
  template <typename T>
  void Put(const T* values, std::size_t size) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(values);
    bytes_.insert(bytes_.end(), bytes, bytes + size * sizeof(T));
  }
  template <typename T>
  void Put(const std::vector<T>& values) {
    Put(values.data(), values.size());
  }
  std::vector<std::uint8_t>& bytes() { return bytes_; }

 private:
  std::vector<std::uint8_t> bytes_;
};

// Takes arrays off the front; the caller has checked that the sizes add up.
class Reader {
 public:
  explicit Reader(Span<const std::uint8_t> bytes) : bytes_(bytes) {}

  Span<const std::uint8_t> Take(std::uint64_t size) {
    const auto count = static_cast<std::int64_t>(size);
    const Span<const std::uint8_t> taken = bytes_.subspan(0, count);
    bytes_ = bytes_.subspan(count, bytes_.size() - count);
    return taken;
  }
  template <typename T>
  void Take(std::uint64_t size, std::vector<T>* values) {
    const Span<const std::uint8_t> taken = Take(size * sizeof(T));
    values->resize(size);
    if (size > 0) std::memcpy(values->data(), taken.data(), static_cast<std::size_t>(taken.size()));
  }

 private:
  Span<const std::uint8_t> bytes_;
};

// The rest of the code relies on nothing about the header but what is checked here.
Status CheckHeader(const Vocabulary& snapshot, const Header& h) {
  if (h.snapshot_bytes != static_cast<std::uint64_t>(snapshot.image().size()) ||
      h.snapshot_checksum != SnapshotChecksum(snapshot) ||
      h.first_row != static_cast<std::uint64_t>(snapshot.num_rows()))
    return Damaged("it belongs to another snapshot: of ", h.snapshot_bytes, " bytes, checksum ",
                   h.snapshot_checksum, " and ", h.first_row, " rows; this one has ",
                   snapshot.image().size(), " bytes, checksum ", SnapshotChecksum(snapshot),
                   " and ", snapshot.num_rows(), " rows");
  constexpr std::uint64_t kMaxRows = std::uint64_t{1} << kMaxRowBits;
  if (h.next_row < h.first_row || h.next_row > kMaxRows)
    return Damaged("next_row = ", h.next_row, " is not in ", h.first_row, "..", kMaxRows);
  if (std::isnan(h.time) || h.time == LiveKeys::kAlways)
    return Damaged("time = ", h.time, " is not a time");
  if (h.num_segments > LiveVocabulary::kMaxSegments)
    return Damaged("num_segments = ", h.num_segments, " is above ", LiveVocabulary::kMaxSegments);
  for (const std::uint64_t count : {h.num_refused, h.capacity, h.max_key_bytes, h.min_count})
    if (count > kMaxCount) return Damaged("a count of ", count, " is above 2^62");
  // Every element has a byte at least, so these bounds keep all sums below 2^64.
  for (const std::uint64_t count :
       {h.num_keys, h.num_free_rows, h.num_evicted_rows, h.num_sightings, h.num_sets, h.key_bytes})
    if (count > h.file_bytes)
      return Damaged("an array of ", count, " elements is longer than the file");
  return OkStatus();
}

Status CheckRows(const Header& h, const LiveParts& parts) {
  const auto first = static_cast<std::int64_t>(h.first_row);
  std::vector<std::int64_t> rows = parts.rows;
  rows.insert(rows.end(), parts.free_rows.begin(), parts.free_rows.end());
  std::sort(rows.begin(), rows.end());
  if (!rows.empty() && (rows.front() < first || rows.back() >= parts.next_row))
    return Damaged("rows ", rows.front(), "..", rows.back(), " are not in ", first, "..",
                   parts.next_row - 1);
  if (const auto twice = std::adjacent_find(rows.begin(), rows.end()); twice != rows.end())
    return Damaged("row ", *twice, " occurs twice");
  const std::vector<std::int64_t>& evicted = parts.evicted_rows;
  if (std::adjacent_find(evicted.begin(), evicted.end(), std::greater_equal<>()) != evicted.end())
    return Damaged("evicted rows do not ascend");
  if (!evicted.empty() && (evicted.front() < first || evicted.back() >= parts.next_row))
    return Damaged("evicted rows ", evicted.front(), "..", evicted.back(), " are not in ", first,
                   "..", parts.next_row - 1);
  return OkStatus();
}

Status CheckKeys(const std::vector<std::uint64_t>& ends, std::uint64_t key_bytes,
                 const LiveParts& parts) {
  std::uint64_t begin = 0;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] < begin || ends[i] > key_bytes ||
        ends[i] - begin > static_cast<std::uint64_t>(parts.options.max_key_bytes))
      return Damaged("key ", i, " ends at byte ", ends[i], " of ", key_bytes, " and begins at ",
                     begin);
    begin = ends[i];
    const double seen = parts.last_seen[i];
    if (!(seen <= parts.time) && seen != LiveKeys::kAlways)
      return Damaged("key ", i, " was seen at ", seen, ", after ", parts.time);
  }
  if (begin != key_bytes) return Damaged("the keys end at byte ", begin, " of ", key_bytes);
  return OkStatus();
}

Status CheckSightings(const LiveParts& parts) {
  std::uint64_t total = 0;
  for (const std::uint8_t size : parts.set_sizes) {
    if (size > LiveSightings::kWays)
      return Damaged("a set of ", int{size}, " sightings is above ", LiveSightings::kWays);
    total += size;
  }
  if (total != parts.sightings.size())
    return Damaged("sets of ", total, " sightings in all, but ", parts.sightings.size(),
                   " are there");
  for (const LiveSightings::Entry& entry : parts.sightings) {
    const std::uint64_t count = entry.tag_and_count & LiveSightings::kMaxCount;
    if (count < 1 || count > static_cast<std::uint64_t>(parts.options.min_count))
      return Damaged("a key has ", count, " sightings; allowed: 1..", parts.options.min_count);
    if (!(entry.last_seen <= parts.time))
      return Damaged("a key was sighted at ", entry.last_seen, ", after ", parts.time);
  }
  return OkStatus();
}

}  // namespace

std::vector<std::uint8_t> WriteLiveImage(const Vocabulary& snapshot, const LiveParts& parts) {
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.num_segments = static_cast<std::uint32_t>(parts.segments.size());
  header.snapshot_bytes = static_cast<std::uint64_t>(snapshot.image().size());
  header.snapshot_checksum = SnapshotChecksum(snapshot);
  header.first_row = static_cast<std::uint64_t>(snapshot.num_rows());
  header.next_row = static_cast<std::uint64_t>(parts.next_row);
  header.seed = parts.options.seed;
  header.capacity = static_cast<std::uint64_t>(parts.options.capacity);
  header.max_key_bytes = static_cast<std::uint64_t>(parts.options.max_key_bytes);
  header.min_count = static_cast<std::uint64_t>(parts.options.min_count);
  header.expire_after = parts.options.expire_after;
  header.time = parts.time;
  header.num_refused = std::min(static_cast<std::uint64_t>(parts.num_refused), kMaxCount);
  header.num_keys = SizeOf(parts.keys);
  header.num_free_rows = SizeOf(parts.free_rows);
  header.num_evicted_rows = SizeOf(parts.evicted_rows);
  header.num_sightings = SizeOf(parts.sightings);
  header.num_sets = SizeOf(parts.set_sizes);
  std::vector<std::uint64_t> ends;
  for (const std::string_view key : parts.keys) ends.push_back(header.key_bytes += key.size());
  std::vector<std::uint64_t> segment_bytes;
  for (const Span<const std::uint8_t> segment : parts.segments)
    segment_bytes.push_back(static_cast<std::uint64_t>(segment.size()));

  Writer writer;
  writer.Put(&header, 1);
  writer.Put(segment_bytes);
  writer.Put(parts.rows);
  writer.Put(parts.last_seen);
  writer.Put(ends);
  writer.Put(parts.free_rows);
  writer.Put(parts.evicted_rows);
  writer.Put(parts.sightings);
  writer.Put(parts.set_sizes);
  for (const std::string_view key : parts.keys) writer.Put(key.data(), key.size());
  for (const Span<const std::uint8_t> segment : parts.segments)
    writer.Put(segment.data(), static_cast<std::size_t>(segment.size()));

  std::vector<std::uint8_t>& bytes = writer.bytes();
  header.file_bytes = bytes.size();
  header.payload_checksum = Checksum(Span<const std::uint8_t>(bytes).subspan(
      kLiveHeaderBytes, static_cast<std::int64_t>(bytes.size()) - kLiveHeaderBytes));
  header.header_checksum = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof(header));
  return std::move(bytes);
}

StatusOr<LiveParts> ReadLiveImage(const Vocabulary& snapshot, Span<const std::uint8_t> image) {
  Header h;
  if (image.size() < kLiveHeaderBytes)
    return Damaged("truncated: ", image.size(), " bytes, the header alone has ", kLiveHeaderBytes);
  std::memcpy(&h, image.data(), sizeof(h));
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0)
    return Damaged("bytes 0..8 are not the magic 'FFLIVE\\0\\0'");
  if (h.version != kVersion)
    return Damaged("version ", h.version, " is unknown; this build reads version ", kVersion);
  if (h.header_checksum != HeaderChecksum(h))
    return Damaged("the header (bytes 0..", kLiveHeaderBytes, ") does not match its checksum");
  if (h.file_bytes != static_cast<std::uint64_t>(image.size()))
    return Damaged(
        image.size() < static_cast<std::int64_t>(h.file_bytes) ? "truncated" : "too long", ": ",
        image.size(), " bytes, the header says ", h.file_bytes);
  const Span<const std::uint8_t> payload =
      image.subspan(kLiveHeaderBytes, image.size() - kLiveHeaderBytes);
  if (h.payload_checksum != Checksum(payload))
    return Damaged("bytes ", kLiveHeaderBytes, "..", h.file_bytes, " do not match their checksum");
  FEEDFAST_RETURN_IF_ERROR(CheckHeader(snapshot, h));

  std::uint64_t expected = kLiveHeaderBytes + std::uint64_t{8} * h.num_segments + 24 * h.num_keys +
                           8 * h.num_free_rows + 8 * h.num_evicted_rows + 16 * h.num_sightings +
                           h.num_sets + h.key_bytes;
  if (expected > h.file_bytes)
    return Damaged("the arrays end at byte ", expected, " of ", h.file_bytes);
  LiveParts parts;
  parts.options.capacity = static_cast<std::int64_t>(h.capacity);
  parts.options.min_count = static_cast<int>(std::min<std::uint64_t>(h.min_count, 1 << 30));
  parts.options.expire_after = h.expire_after;
  parts.options.max_key_bytes = static_cast<std::int64_t>(h.max_key_bytes);
  parts.options.seed = h.seed;
  if (const Status status = ValidateLiveOptions(parts.options); !status.ok())
    return Damaged(status.message());
  parts.time = h.time;
  parts.next_row = static_cast<std::int64_t>(h.next_row);
  parts.num_refused = static_cast<std::int64_t>(h.num_refused);

  Reader reader(payload);
  std::vector<std::uint64_t> segment_bytes;
  std::vector<std::uint64_t> ends;
  reader.Take(h.num_segments, &segment_bytes);
  reader.Take(h.num_keys, &parts.rows);
  reader.Take(h.num_keys, &parts.last_seen);
  reader.Take(h.num_keys, &ends);
  reader.Take(h.num_free_rows, &parts.free_rows);
  reader.Take(h.num_evicted_rows, &parts.evicted_rows);
  reader.Take(h.num_sightings, &parts.sightings);
  reader.Take(h.num_sets, &parts.set_sizes);
  const char* const keys = reinterpret_cast<const char*>(reader.Take(h.key_bytes).data());
  for (const std::uint64_t size : segment_bytes) {
    if (size > h.file_bytes - expected)
      return Damaged("a segment of ", size, " bytes at byte ", expected, " of ", h.file_bytes);
    expected += size;
    parts.segments.push_back(reader.Take(size));
  }
  if (expected != h.file_bytes)
    return Damaged("the segments end at byte ", expected, " of ", h.file_bytes);

  FEEDFAST_RETURN_IF_ERROR(CheckRows(h, parts));
  FEEDFAST_RETURN_IF_ERROR(CheckKeys(ends, h.key_bytes, parts));
  FEEDFAST_RETURN_IF_ERROR(CheckSightings(parts));
  std::uint64_t begin = 0;
  for (const std::uint64_t end : ends) {
    parts.keys.emplace_back(keys + begin, end - begin);
    begin = end;
  }
  return parts;
}

}  // namespace feedfast::mph
