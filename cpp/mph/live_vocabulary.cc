#include "cpp/mph/live_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <shared_mutex>
#include <string>
#include <utility>

#include "cpp/mph/key_hash.h"
#include "cpp/mph/live_image.h"
#include "cpp/mph/lookup_all.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kMaxCapacity = std::int64_t{1} << 28;
constexpr std::int64_t kMaxRow = (std::int64_t{1} << kMaxRowBits) - 1;
// Keys that the snapshot looks up in one call; their rows stay in the nearest caches.
constexpr std::int64_t kChunk = 16 * kKeyBlock;
// Counters per key of the capacity: a key is forgotten after about this many times `capacity`
// other keys.
constexpr std::int64_t kCountersPerKey = 4;
// Rows that expire while lookups wait.
constexpr int kExpireBlock = 256;

// Distinct rows have distinct codes, and close rows are far apart.
constexpr KeyCode CodeOfRow(std::int64_t row) noexcept {
  return static_cast<KeyCode>(row) * 0x9E3779B97F4A7C15ULL;
}

std::int64_t NumSets(const LiveOptions& options) noexcept {
  if (options.min_count == 1) return 0;  // admitted when seen first
  return (kCountersPerKey * options.capacity + LiveSightings::kWays - 1) / LiveSightings::kWays;
}

void SortUnique(std::vector<std::int64_t>* rows) {
  std::sort(rows->begin(), rows->end());
  rows->erase(std::unique(rows->begin(), rows->end()), rows->end());
}

}  // namespace

Status ValidateLiveOptions(const LiveOptions& o) {
  if (o.capacity < 1 || o.capacity > kMaxCapacity)
    return InvalidArgument("capacity = ", o.capacity, " is not in 1..", kMaxCapacity);
  if (o.min_count < 1 || o.min_count > LiveSightings::kMaxCount)
    return InvalidArgument("min_count = ", o.min_count, " is not in 1..", LiveSightings::kMaxCount);
  if (!(o.expire_after > 0))
    return InvalidArgument("expire_after = ", o.expire_after, " seconds is not above 0");
  if (o.max_key_bytes < 1 || o.max_key_bytes > LiveKeys::kMaxKeyBytes)
    return InvalidArgument("max_key_bytes = ", o.max_key_bytes, " is not in 1..",
                           LiveKeys::kMaxKeyBytes);
  return OkStatus();
}

LiveVocabulary::LiveVocabulary(const Vocabulary& snapshot, const LiveOptions& options)
    : snapshot_(snapshot),
      options_(options),
      sightings_(NumSets(options)),
      next_row_(snapshot.num_rows()) {}

StatusOr<std::unique_ptr<LiveVocabulary>> LiveVocabulary::Create(const Vocabulary& snapshot,
                                                                 const LiveOptions& options) {
  FEEDFAST_RETURN_IF_ERROR(ValidateLiveOptions(options));
  if (snapshot.fingerprint_bits() == 0)
    return InvalidArgument(
        "the snapshot has fingerprint_bits = 0, so it takes every key for one of its own; "
        "build it with 8, 16 or 32");
  return std::unique_ptr<LiveVocabulary>(new LiveVocabulary(snapshot, options));
}

// Lookup ------------------------------------------------------------------------------------------

void LiveVocabulary::Lookup(const KeySource& keys, std::int64_t begin,
                            Span<std::int64_t> rows) const noexcept {
  for (std::int64_t first = 0; first < rows.size(); first += kChunk) {
    const Span<std::int64_t> chunk = rows.subspan(first, std::min(kChunk, rows.size() - first));
    snapshot_.Lookup(keys, begin + first, chunk);
    const std::shared_lock<LiveMutex> lock(state_);
    if (exceptions_.size() > 0) CorrectFalseAccepts(keys, begin + first, chunk);
    if (segments_.empty() && overlay_.size() == 0) continue;
    // Keys that the snapshot does not know are looked up together, so that the memory reads of
    // many overlap even where they are few.
    std::int64_t unknown[2 * kKeyBlock];
    std::int64_t size = 0;
    for (std::int64_t block = 0; block < chunk.size(); block += kKeyBlock) {
      const std::int64_t end = std::min(block + kKeyBlock, chunk.size());
      for (std::int64_t i = block; i < end; ++i) {
        unknown[size] = i;
        size += chunk[i] == 0 ? 1 : 0;
      }
      if (size < kKeyBlock) continue;
      ResolveUnknown(keys, begin + first, {unknown, kKeyBlock}, chunk);
      std::copy(unknown + kKeyBlock, unknown + size, unknown);
      size -= kKeyBlock;
    }
    ResolveUnknown(keys, begin + first, {unknown, size}, chunk);
  }
}

void LiveVocabulary::LookupAll(const KeySource& keys, int threads, Span<std::int64_t> rows) const {
  mph::LookupAll(keys, threads, rows,
                 [&](const KeySource& source, std::int64_t begin, Span<std::int64_t> out) {
                   Lookup(source, begin, out);
                 });
}

std::uint32_t LiveVocabulary::FindException(std::string_view key,
                                            std::int64_t accepted) const noexcept {
  const KeyCode code = CodeOfRow(accepted);
  return exception_filter_.MayHold(code) ? exceptions_.Find(key, code) : LiveKeys::kNone;
}

void LiveVocabulary::CorrectFalseAccepts(const KeySource& keys, std::int64_t begin,
                                         Span<std::int64_t> accepted) const noexcept {
  for (std::int64_t i = 0; i < accepted.size(); ++i) {
    if (accepted[i] == 0 || !exception_filter_.MayHold(CodeOfRow(accepted[i]))) continue;
    std::string_view key;
    keys.Views(begin + i, {&key, 1});
    const std::uint32_t entry = FindException(key, accepted[i]);
    if (entry != LiveKeys::kNone) accepted[i] = exceptions_.row(entry);
  }
}

void LiveVocabulary::ResolveUnknown(const KeySource& keys, std::int64_t begin,
                                    Span<const std::int64_t> positions,
                                    Span<std::int64_t> rows) const noexcept {
  std::string_view buffer[kKeyBlock];
  const Span<std::string_view> views(buffer, positions.size());
  for (std::int64_t i = 0, end = 0; i < positions.size(); i = end) {
    while (end < positions.size() && positions[end] - positions[i] == end - i) ++end;
    keys.Views(begin + positions[i], views.subspan(i, end - i));
  }
  std::int64_t resolved[kKeyBlock] = {};
  AcceptBySegments(views, {resolved, views.size()});
  KeyCode codes[kKeyBlock];
  std::uint32_t entries[kKeyBlock];
  FindAdmitted(views, {resolved, views.size()}, codes, entries);
  for (std::int64_t i = 0; i < views.size(); ++i) {
    const LiveKeys& part = resolved[i] != 0 ? exceptions_ : overlay_;
    rows[positions[i]] = entries[i] != LiveKeys::kNone ? part.row(entries[i]) : resolved[i];
  }
}

void LiveVocabulary::AcceptBySegments(Span<const std::string_view> keys,
                                      Span<std::int64_t> accepted) const noexcept {
  std::int64_t positions[kKeyBlock];
  std::string_view unknown[kKeyBlock];
  std::int64_t rows[kKeyBlock];
  for (const Vocabulary& segment : segments_) {
    std::int64_t size = 0;
    for (std::int64_t i = 0; i < keys.size(); ++i) {
      positions[size] = i;
      unknown[size] = keys[i];
      size += accepted[i] == 0 ? 1 : 0;
    }
    if (size == 0) return;
    segment.Lookup({unknown, size}, {rows, size});
    for (std::int64_t i = 0; i < size; ++i) accepted[positions[i]] = rows[i];
  }
}

void LiveVocabulary::FindAdmitted(Span<const std::string_view> keys,
                                  Span<const std::int64_t> accepted, KeyCode* codes,
                                  std::uint32_t* entries) const noexcept {
  std::int64_t positions[kKeyBlock];
  std::string_view unknown[kKeyBlock];
  KeyCode unknown_codes[kKeyBlock];
  std::uint32_t unknown_entries[kKeyBlock];
  std::int64_t size = 0;
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    positions[size] = i;
    unknown[size] = keys[i];
    size += accepted[i] == 0 ? 1 : 0;
    codes[i] = CodeOfRow(accepted[i]);
    entries[i] = LiveKeys::kNone;
  }
  if (exceptions_.size() > 0)
    for (std::int64_t i = 0; i < keys.size(); ++i)
      if (accepted[i] != 0) entries[i] = FindException(keys[i], accepted[i]);
  HashKeys({unknown, size}, options_.seed, unknown_codes);
  overlay_.Find({unknown, size}, unknown_codes, unknown_entries);
  for (std::int64_t i = 0; i < size; ++i) {
    codes[positions[i]] = unknown_codes[i];
    entries[positions[i]] = unknown_entries[i];
  }
}

// Observe -----------------------------------------------------------------------------------------

Status LiveVocabulary::AdvanceTime(double time) {
  if (!std::isfinite(time))
    return InvalidArgument("time = ", time, " is not a finite number of seconds");
  time_ = std::max(time_, time);
  return OkStatus();
}

Status LiveVocabulary::Observe(const KeySource& keys, double time, Novelty novelty,
                               Span<std::int64_t> rows) {
  const std::lock_guard<std::mutex> writer(writer_);
  FEEDFAST_RETURN_IF_ERROR(AdvanceTime(time));
  RemoveExpired();
  for (std::int64_t first = 0; first < rows.size(); first += kChunk) {
    const Span<std::int64_t> chunk = rows.subspan(first, std::min(kChunk, rows.size() - first));
    snapshot_.Lookup(keys, first, chunk);
    ForEachKeyBlock(keys, first, first + chunk.size(),
                    [&](std::int64_t begin, Span<const std::string_view> views) {
                      ObserveBlock(views, novelty, chunk.subspan(begin - first, views.size()));
                    });
  }
  return OkStatus();
}

void LiveVocabulary::ObserveBlock(Span<const std::string_view> keys, Novelty novelty,
                                  Span<std::int64_t> rows) {
  AcceptBySegments(keys, rows);
  KeyCode codes[kKeyBlock];
  std::uint32_t entries[kKeyBlock];
  FindAdmitted(keys, rows, codes, entries);
  if (sightings_.num_sets() > 0)
    for (std::int64_t i = 0; i < keys.size(); ++i)
      if (rows[i] == 0 && entries[i] == LiveKeys::kNone) sightings_.Prefetch(codes[i]);
  const double forget_before = time_ - options_.expire_after;
  // Taken when the first key of the block is admitted; keys found before that are only touched.
  std::unique_lock<LiveMutex> lock(state_, std::defer_lock);
  for (std::int64_t i = 0; i < keys.size(); ++i) {
    const bool accepted = rows[i] != 0;
    if (accepted && novelty == Novelty::kUnknown && entries[i] == LiveKeys::kNone) continue;
    LiveKeys& part = accepted ? exceptions_ : overlay_;
    // It may have been admitted since the block was probed.
    if (entries[i] == LiveKeys::kNone && lock.owns_lock())
      entries[i] = part.Find(keys[i], codes[i]);
    if (entries[i] != LiveKeys::kNone) {
      rows[i] = part.row(entries[i]);
      part.Touch(entries[i], time_);
      continue;
    }
    if (!accepted && options_.min_count > 1 &&
        static_cast<std::int64_t>(keys[i].size()) <= options_.max_key_bytes &&
        sightings_.Count(codes[i], time_, forget_before, options_.min_count) < options_.min_count)
      continue;
    if (!MayAdmit(part, keys[i])) {
      num_refused_.fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    if (!lock.owns_lock()) lock.lock();
    rows[i] = Admit(&part, keys[i], codes[i]);
    if (!accepted && options_.min_count > 1) sightings_.Forget(codes[i]);
  }
}

bool LiveVocabulary::MayAdmit(const LiveKeys& part, std::string_view key) const noexcept {
  return static_cast<std::int64_t>(key.size()) <= options_.max_key_bytes &&
         num_transient() < options_.capacity && part.size() < LiveKeys::kMaxKeys &&
         (!free_rows_.empty() || next_row_ <= kMaxRow);
}

std::int64_t LiveVocabulary::Admit(LiveKeys* part, std::string_view key, KeyCode code) {
  const std::int64_t row = free_rows_.empty() ? next_row_ : free_rows_.front();
  part->Add(key, code, row, time_);
  if (part == &exceptions_) exception_filter_.Add(code);
  if (free_rows_.empty()) {
    ++next_row_;
  } else {
    std::pop_heap(free_rows_.begin(), free_rows_.end(), std::greater<>());
    free_rows_.pop_back();
  }
  return row;
}

// Expiry ------------------------------------------------------------------------------------------

Status LiveVocabulary::Expire(double time) {
  const std::lock_guard<std::mutex> writer(writer_);
  FEEDFAST_RETURN_IF_ERROR(AdvanceTime(time));
  RemoveExpired();
  return OkStatus();
}

void LiveVocabulary::RemoveExpired() {
  const double limit = time_ - options_.expire_after;
  const auto expired = [&](const LiveKeys& part) {
    return part.oldest() != LiveKeys::kNone && part.last_seen(part.oldest()) < limit;
  };
  bool exceptions_changed = false;
  while (expired(overlay_) || expired(exceptions_)) {
    const std::lock_guard<LiveMutex> lock(state_);
    for (int i = 0; i < kExpireBlock; ++i) {
      LiveKeys& part = expired(overlay_) ? overlay_ : exceptions_;
      if (!expired(part)) break;
      const std::int64_t row = part.row(part.oldest());
      NoteEvicted(row);
      free_rows_.push_back(row);
      std::push_heap(free_rows_.begin(), free_rows_.end(), std::greater<>());
      part.Remove(part.oldest());
      exceptions_changed |= &part == &exceptions_;
    }
  }
  if (exceptions_changed) {
    const std::lock_guard<LiveMutex> lock(state_);
    RefillExceptionFilter();
  }
}

void LiveVocabulary::NoteEvicted(std::int64_t row) {
  // Rows may expire again and again before somebody asks; memory for each of them once is enough.
  if (evicted_rows_.size() >= dedupe_evicted_at_) {
    SortUnique(&evicted_rows_);
    dedupe_evicted_at_ = 2 * evicted_rows_.size() + 1024;
  }
  evicted_rows_.push_back(row);
}

void LiveVocabulary::RefillExceptionFilter() noexcept {
  exception_filter_ = CodeFilter();
  exceptions_.ForEach([&](std::uint32_t entry) { exception_filter_.Add(exceptions_.code(entry)); });
}

std::vector<std::int64_t> LiveVocabulary::TakeEvictedRows() {
  const std::lock_guard<std::mutex> writer(writer_);
  SortUnique(&evicted_rows_);
  dedupe_evicted_at_ = 0;
  return std::exchange(evicted_rows_, {});
}

// Freezing and files ------------------------------------------------------------------------------

StatusOr<std::int64_t> LiveVocabulary::Compact() {
  const std::lock_guard<std::mutex> writer(writer_);
  const std::int64_t frozen = num_transient();
  if (overlay_.size() > 0) {
    if (static_cast<std::int64_t>(segments_.size()) == kMaxSegments)
      return FailedPrecondition("there are ", kMaxSegments,
                                " frozen segments already; build a new snapshot from the keys");
    std::vector<std::string_view> keys;
    std::vector<std::int64_t> rows;
    keys.reserve(static_cast<std::size_t>(overlay_.size()));
    rows.reserve(static_cast<std::size_t>(overlay_.size()));
    overlay_.ForEach([&](std::uint32_t entry) {
      keys.push_back(overlay_.key(entry));
      rows.push_back(overlay_.row(entry));
    });
    BuildOptions options;
    options.fingerprint_bits = snapshot_.fingerprint_bits();
    options.rows = rows;
    options.seed = options_.seed;
    StatusOr<Vocabulary> segment = Vocabulary::Build(keys, options);
    if (!segment.ok()) return segment.status();
    const std::lock_guard<LiveMutex> lock(state_);
    segments_.push_back(std::move(segment).value());
    overlay_.Clear();
  }
  const std::lock_guard<LiveMutex> lock(state_);
  exceptions_.MakePermanent();
  return frozen;
}

std::int64_t LiveVocabulary::num_frozen() const noexcept {
  std::int64_t frozen = 0;
  for (const Vocabulary& segment : segments_) frozen += segment.size();
  return frozen;
}

LiveCounts LiveVocabulary::Counts() const {
  const std::shared_lock<LiveMutex> lock(state_);
  LiveCounts counts;
  counts.num_segments = static_cast<std::int64_t>(segments_.size());
  counts.num_frozen = num_frozen();
  counts.num_overlay = overlay_.size();
  counts.num_exceptions = exceptions_.size();
  counts.num_keys =
      snapshot_.size() + counts.num_frozen + counts.num_overlay + counts.num_exceptions;
  counts.num_rows = next_row_;
  // No row is added while one is free, and keys that cannot expire keep theirs.
  const std::int64_t permanent =
      counts.num_frozen + exceptions_.size() - exceptions_.num_transient();
  counts.max_num_rows = snapshot_.num_rows() + permanent + options_.capacity;
  counts.num_refused = num_refused_.load(std::memory_order_relaxed);
  counts.nbytes = static_cast<std::int64_t>(sizeof(*this)) + sightings_.nbytes() +
                  exceptions_.nbytes() + overlay_.nbytes() +
                  static_cast<std::int64_t>(free_rows_.capacity() * sizeof(std::int64_t));
  for (const Vocabulary& segment : segments_) counts.nbytes += segment.image().size();
  return counts;
}

std::vector<std::uint8_t> LiveVocabulary::Image() const {
  const std::lock_guard<std::mutex> writer(writer_);
  LiveParts parts;
  parts.options = options_;
  parts.time = time_;
  parts.next_row = next_row_;
  parts.num_refused = num_refused_.load(std::memory_order_relaxed);
  for (const Vocabulary& segment : segments_) parts.segments.push_back(segment.image());
  const auto add_keys = [&](const LiveKeys& part) {
    part.ForEach([&](std::uint32_t entry) {
      parts.keys.push_back(part.key(entry));
      parts.rows.push_back(part.row(entry));
      parts.last_seen.push_back(part.last_seen(entry));
    });
  };
  add_keys(exceptions_);
  add_keys(overlay_);
  parts.free_rows = free_rows_;
  std::sort(parts.free_rows.begin(), parts.free_rows.end());
  parts.evicted_rows = evicted_rows_;
  SortUnique(&parts.evicted_rows);
  for (std::int64_t i = 0; i < sightings_.num_sets(); ++i) {
    std::uint8_t size = 0;
    for (const LiveSightings::Entry& entry : sightings_.set(i)) {
      if (entry.tag_and_count == 0) break;
      parts.sightings.push_back(entry);
      ++size;
    }
    parts.set_sizes.push_back(size);
  }
  return WriteLiveImage(snapshot_, parts);
}

StatusOr<std::unique_ptr<LiveVocabulary>> LiveVocabulary::FromImage(
    const Vocabulary& snapshot, Span<const std::uint8_t> image) {
  StatusOr<LiveParts> parts = ReadLiveImage(snapshot, image);
  if (!parts.ok()) return parts.status();
  // Before memory is taken for them.
  if (static_cast<std::int64_t>(parts->set_sizes.size()) != NumSets(parts->options))
    return DataLoss("live vocabulary: ", parts->set_sizes.size(),
                    " sets of sightings; a capacity of ", parts->options.capacity, " has ",
                    NumSets(parts->options));
  StatusOr<std::unique_ptr<LiveVocabulary>> live = Create(snapshot, parts->options);
  if (!live.ok()) return live.status();
  if (const Status status = live.value()->Fill(parts.value()); !status.ok())
    return DataLoss("live vocabulary: ", status.message());
  return live;
}

Status LiveVocabulary::Fill(const LiveParts& parts) {
  time_ = parts.time;
  next_row_ = parts.next_row;
  num_refused_ = parts.num_refused;
  free_rows_ = parts.free_rows;
  std::make_heap(free_rows_.begin(), free_rows_.end(), std::greater<>());
  evicted_rows_ = parts.evicted_rows;
  const LiveSightings::Entry* sightings = parts.sightings.data();
  for (std::size_t i = 0; i < parts.set_sizes.size(); ++i) {
    sightings_.FillSet(static_cast<std::int64_t>(i), {sightings, parts.set_sizes[i]});
    sightings += parts.set_sizes[i];
  }
  for (const Span<const std::uint8_t> bytes : parts.segments) {
    StatusOr<Vocabulary> segment = Vocabulary::FromCopy(bytes, Verify::kFull);
    if (!segment.ok()) return segment.status();
    if (segment->num_rows() > next_row_ ||
        segment->fingerprint_bits() != snapshot_.fingerprint_bits())
      return DataLoss("segment ", segments_.size(), " has ", segment->num_rows(), " rows and ",
                      segment->fingerprint_bits(), "-bit fingerprints; allowed: ", next_row_,
                      " and ", snapshot_.fingerprint_bits());
    segments_.push_back(std::move(segment).value());
  }
  FEEDFAST_RETURN_IF_ERROR(FillKeys(parts));
  if (num_transient() > options_.capacity)
    return DataLoss(num_transient(), " keys are above the capacity of ", options_.capacity);
  const std::int64_t used = num_frozen() + static_cast<std::int64_t>(parts.keys.size()) +
                            static_cast<std::int64_t>(free_rows_.size());
  if (next_row_ - snapshot_.num_rows() != used)
    return DataLoss("rows ", snapshot_.num_rows(), "..", next_row_ - 1, " were given, but ", used,
                    " are frozen, admitted or free");
  return OkStatus();
}

Status LiveVocabulary::FillKeys(const LiveParts& parts) {
  std::vector<std::int64_t> accepted(parts.keys.size());
  snapshot_.Lookup(parts.keys, accepted);
  ForEachKeyBlock(SpanKeys(parts.keys), 0, static_cast<std::int64_t>(accepted.size()),
                  [&](std::int64_t begin, Span<const std::string_view> keys) {
                    AcceptBySegments(keys, {accepted.data() + begin, keys.size()});
                  });
  std::vector<std::size_t> order(parts.keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return parts.last_seen[a] < parts.last_seen[b];
  });
  for (const std::size_t i : order) {
    const std::string_view key = parts.keys[i];
    LiveKeys& part = accepted[i] != 0 ? exceptions_ : overlay_;
    KeyCode code = CodeOfRow(accepted[i]);
    if (accepted[i] == 0) HashKeys({&key, 1}, options_.seed, &code);
    if (accepted[i] == 0 && parts.last_seen[i] == LiveKeys::kAlways)
      return DataLoss("key ", i, " cannot expire, but is not in the exception list");
    if (part.Find(key, code) != LiveKeys::kNone) return DataLoss("key ", i, " occurs twice");
    part.Add(key, code, parts.rows[i], parts.last_seen[i]);
  }
  RefillExceptionFilter();
  return OkStatus();
}

}  // namespace feedfast::mph
