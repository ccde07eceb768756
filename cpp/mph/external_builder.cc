#include "cpp/mph/external_builder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <mutex>
#include <string_view>
#include <vector>

#include "cpp/common/parallel_for.h"
#include "cpp/mph/packed_ints.h"
#include "cpp/mph/perfect_hash_builder.h"

namespace feedfast::mph {
namespace {

constexpr std::int64_t kGrain = 64 * kKeyBlock;

// A new file, mapped for writing. Its space is allocated before it is touched, so that a full disk
// is an error and not a signal.
class OutputFile {
 public:
  OutputFile() = default;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    Unmap();
    if (fd_ >= 0) ::close(fd_);
  }

  Status Create(const std::string& path) {
    path_ = path;
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return fd_ < 0 ? Failure("create", errno) : OkStatus();
  }
  Status Resize(std::int64_t size) {
    Unmap();
    int error = 0;
    do error = ::ftruncate(fd_, size) != 0 ? errno : 0;
    while (error == EINTR);
    if (error != 0) return Failure("resize", error);
    do error = ::posix_fallocate(fd_, 0, size);
    while (error == EINTR);
    if (error != 0) return Failure("allocate", error);
    void* mapped =
        ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (mapped == MAP_FAILED) return Failure("map", errno);
    bytes_ = {static_cast<std::uint8_t*>(mapped), size};
    return OkStatus();
  }
  Span<std::uint8_t> bytes() const noexcept { return bytes_; }

 private:
  Status Failure(const char* what, int error) const {
    return ResourceExhausted("cannot ", what, " '", path_, "': ", std::strerror(error));
  }
  void Unmap() {
    if (!bytes_.empty()) ::munmap(bytes_.data(), static_cast<std::size_t>(bytes_.size()));
    bytes_ = {};
  }

  std::string path_;
  int fd_ = -1;
  Span<std::uint8_t> bytes_;
};

// Codes and rows of keys, in columns.
struct Records {
  std::vector<KeyCode> codes;
  std::vector<std::int64_t> rows;  // empty where rows are not given

  void Append(const Records& other) {
    codes.insert(codes.end(), other.codes.begin(), other.codes.end());
    rows.insert(rows.end(), other.rows.begin(), other.rows.end());
  }
  void EraseFront(std::int64_t count) {
    codes.erase(codes.begin(), codes.begin() + count);
    if (!rows.empty()) rows.erase(rows.begin(), rows.begin() + count);
  }
};

// Fingerprints and rows by slot, whose place in the image is known only once the hash function is.
// Until then they lie where they will be if no more than 6% of the keys are bumped, and are moved
// otherwise.
class SlotColumns {
 public:
  explicit SlotColumns(const ImageShape& shape)
      : fingerprint_bits_(shape.fingerprint_bits), row_bits_(shape.row_bits) {}

  void MoveTo(std::uint8_t* fingerprints, std::uint8_t* rows) {
    fingerprints_ = fingerprints;
    rows_ = rows;
  }
  // By any thread. Requires that the slot was not set before.
  void Set(std::int64_t slot, KeyCode code, std::int64_t row) const noexcept {
    if (fingerprint_bits_ != 0) {
      const std::uint32_t fingerprint = Fingerprint(code, fingerprint_bits_);
      const std::int64_t width = fingerprint_bits_ / 8;
      std::memcpy(fingerprints_ + slot * width, &fingerprint, static_cast<std::size_t>(width));
    }
    if (row_bits_ != 0) StorePackedShared(rows_, row_bits_, slot, static_cast<std::uint64_t>(row));
  }

 private:
  int fingerprint_bits_;
  int row_bits_;
  std::uint8_t* fingerprints_ = nullptr;
  std::uint8_t* rows_ = nullptr;
};

void SortRecords(std::vector<CodeRecord>* records) {
  std::sort(records->begin(), records->end(),
            [](const CodeRecord& a, const CodeRecord& b) { return a.code < b.code; });
}

}  // namespace

StatusOr<std::unique_ptr<ExternalBuilder>> ExternalBuilder::Create(
    const ExternalOptions& options, VocabularyBuilder::HashFunction hash) {
  FEEDFAST_RETURN_IF_ERROR(CheckBuildOptions(options.build));
  if (options.buffer_bytes < kMinExternalBuffer)
    return InvalidArgument("buffer_bytes = ", options.buffer_bytes, " is below ",
                           kMinExternalBuffer);
  StatusOr<CodeSpill> codes =
      CodeSpill::Create(options.spill_folder, options.with_rows, options.buffer_bytes / 2);
  if (!codes.ok()) return codes.status();
  StatusOr<KeySpill> keys = KeySpill::Create(options.spill_folder);
  if (!keys.ok()) return keys.status();
  std::unique_ptr<ExternalBuilder> builder(
      new ExternalBuilder(options, hash, std::move(codes).value(), std::move(keys).value()));
  builder->monitor_.Start(BuildPhase::kRead, -1);
  return builder;
}

Status ExternalBuilder::Add(const KeySource& keys, Span<const std::int64_t> rows) {
  if (finished_) return FailedPrecondition("vocabulary: Add after Finish");
  if (rows.size() != (options_.with_rows ? keys.size() : 0))
    return InvalidArgument("rows has ", rows.size(), " elements for ", keys.size(), " keys");
  FEEDFAST_RETURN_IF_ERROR(CheckRowRange(rows, num_keys_));
  if (num_keys_ + keys.size() > kMaxKeys)
    return InvalidArgument("more than ", kMaxKeys, " keys were added");
  constexpr std::int64_t kSlice = 16 * kGrain;
  std::vector<KeyCode> codes(static_cast<std::size_t>(std::min(kSlice, keys.size())));
  for (std::int64_t begin = 0; begin < keys.size(); begin += kSlice) {
    const std::int64_t end = std::min(begin + kSlice, keys.size());
    ParallelFor(end - begin, kGrain, options_.build.threads,
                [&](std::int64_t first, std::int64_t last) {
                  ForEachKeyBlock(keys, begin + first, begin + last,
                                  [&](std::int64_t at, Span<const std::string_view> views) {
                                    hash_(views, options_.build.seed, codes.data() + (at - begin));
                                  });
                });
    Status status;
    ForEachKeyBlock(keys, begin, end, [&](std::int64_t at, Span<const std::string_view> views) {
      for (std::int64_t i = 0; i < views.size() && status.ok(); ++i) {
        const std::int64_t row = rows.empty() ? 0 : rows[at + i];
        status = keys_.Add(views[i], row);
        if (status.ok())
          status = codes_.Add({codes[static_cast<std::size_t>(at + i - begin)], row});
        max_row_ = std::max(max_row_, row);
      }
    });
    FEEDFAST_RETURN_IF_ERROR(status);
    num_keys_ += end - begin;
    monitor_.Add(end - begin);
    FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
  }
  return OkStatus();
}

Status ExternalBuilder::CheckRowsDistinct() {
  // In as many passes as keep a pass within the buffer, each over a hash range of rows.
  const auto passes = static_cast<std::uint64_t>(num_keys_ * 8 / (options_.buffer_bytes / 4) + 1);
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  std::int64_t smallest = kNone;
  for (std::uint64_t pass = 0; pass < passes; ++pass) {
    std::vector<std::int64_t> rows;
    for (int partition = 0; partition < CodeSpill::kNumPartitions; ++partition) {
      FEEDFAST_RETURN_IF_ERROR(codes_.ForEach(partition, [&](const CodeRecord& record) {
        const std::uint64_t hash = static_cast<std::uint64_t>(record.row) * 0x9E3779B97F4A7C15;
        if (MultiplyHigh(hash, passes) == pass) rows.push_back(record.row);
      }));
      monitor_.Add(0);
      FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
    }
    std::sort(rows.begin(), rows.end());
    const auto twin = std::adjacent_find(rows.begin(), rows.end());
    if (twin != rows.end()) smallest = std::min(smallest, *twin);
  }
  if (smallest == kNone) return OkStatus();
  std::vector<std::int64_t> positions;
  FEEDFAST_RETURN_IF_ERROR(ForEachKey([&](std::string_view, std::int64_t row, std::int64_t at) {
    if (row == smallest) positions.push_back(at);
    return OkStatus();
  }));
  return InvalidArgument("rows[", positions[0], "] and rows[", positions[1], "] are both ",
                         smallest, "; rows must be distinct");
}

template <typename Body>
Status ExternalBuilder::ForEachKey(const Body& body) {
  std::int64_t position = 0;
  Status status;
  FEEDFAST_RETURN_IF_ERROR(keys_.ForEach([&](std::string_view key, std::int64_t row) {
    if (!status.ok()) return;
    status = body(key, row, position++);
    if (position % kGrain != 0 || !status.ok()) return;
    monitor_.Add(0);
    status = monitor_.Check();
  }));
  return status;
}

Status ExternalBuilder::CheckKeysOfCode(KeyCode code) {
  std::vector<std::pair<std::string, std::int64_t>> found;
  FEEDFAST_RETURN_IF_ERROR(ForEachKey([&](std::string_view key, std::int64_t, std::int64_t at) {
    KeyCode own;
    hash_({&key, 1}, options_.build.seed, &own);
    if (own == code) found.emplace_back(key, at);
    return OkStatus();
  }));
  return CheckDistinct({found.begin(), found.end()});
}

Status ExternalBuilder::Rehash(std::uint64_t seed) {
  StatusOr<CodeSpill> codes =
      CodeSpill::Create(options_.spill_folder, options_.with_rows, options_.buffer_bytes / 2);
  if (!codes.ok()) return codes.status();
  codes_ = std::move(codes).value();
  options_.build.seed = seed;
  FEEDFAST_RETURN_IF_ERROR(ForEachKey([&](std::string_view key, std::int64_t row, std::int64_t) {
    KeyCode code;
    hash_({&key, 1}, seed, &code);
    return codes_.Add({code, row});
  }));
  return codes_.Finish();
}

Status ExternalBuilder::Finish(const std::string& path) {
  if (finished_) return FailedPrecondition("vocabulary: Finish after Finish");
  finished_ = true;
  FEEDFAST_RETURN_IF_ERROR(codes_.Finish());
  if (options_.with_rows) FEEDFAST_RETURN_IF_ERROR(CheckRowsDistinct());
  const std::uint64_t first_seed = options_.build.seed;
  Status failure;
  for (std::uint64_t attempt = 0; attempt < kMaxHashSeeds; ++attempt) {
    if (attempt > 0) FEEDFAST_RETURN_IF_ERROR(Rehash(HashSeed(first_seed, attempt)));
    SeedFailure failed;
    FEEDFAST_RETURN_IF_ERROR(Write(path, options_.build.seed, &failed));
    if (failed.status.ok()) return OkStatus();
    // Equal keys, which no seed tells apart, or one collision of different ones.
    if (failed.collided.has_value()) FEEDFAST_RETURN_IF_ERROR(CheckKeysOfCode(*failed.collided));
    failure = failed.status;
    ::unlink(path.c_str());
  }
  return Internal(failure.message(), "; gave up after ", kMaxHashSeeds, " hash seeds");
}

Status ExternalBuilder::Write(const std::string& path, std::uint64_t seed, SeedFailure* failed) {
  const PerfectHashOptions hash_options = HashOptions(options_.build.preset);
  const int threads = options_.build.threads;
  ImageShape shape = ShapeOfBuild(num_keys_, max_row_, seed, options_.build);
  OutputFile file;
  FEEDFAST_RETURN_IF_ERROR(file.Create(path));
  if (num_keys_ == 0) {
    FEEDFAST_RETURN_IF_ERROR(file.Resize(ImageLayout(shape).image_bytes));
    SealImage(shape, file.bytes());
    return OkStatus();
  }

  LevelBuilder first = FirstLevel(num_keys_, hash_options);
  // Where the columns lie if 6% of the keys are bumped.
  ImageShape guess = shape;
  guess.num_levels = 2;
  guess.levels[0] = first.shape();
  guess.levels[1] = FirstLevel(num_keys_ / 16 + 1024, hash_options).shape();
  const ImageLayout before(guess);
  FEEDFAST_RETURN_IF_ERROR(file.Resize(before.image_bytes));
  SlotColumns columns(shape);
  columns.MoveTo(file.bytes().data() + before.sections[kFingerprints].begin,
                 file.bytes().data() + before.sections[kRows].begin);

  monitor_.Start(BuildPhase::kPlace, num_keys_);
  std::vector<KeyCode> bumped;
  Records late;  // keys whose slots are known only once the hash function is
  Records waiting;
  std::int64_t num_placed = 0;
  const std::int64_t record_bytes = options_.with_rows ? sizeof(CodeRecord) : sizeof(KeyCode);
  for (int partition = 0; partition < CodeSpill::kNumPartitions; ++partition) {
    // A partition that does not fit its share of the buffer is read once for each part of it.
    const std::int64_t limit = options_.buffer_bytes / 8;
    std::uint64_t parts = 1;
    while (codes_.count(partition) * record_bytes / static_cast<std::int64_t>(parts) > limit)
      parts *= 2;
    for (std::uint64_t part = 0; part < parts; ++part) {
      const auto part_of = [&](KeyCode code) { return MultiplyHigh(code << 8, parts); };
      Records records;
      if (options_.with_rows) {
        std::vector<CodeRecord> pairs;
        FEEDFAST_RETURN_IF_ERROR(codes_.ForEach(partition, [&](const CodeRecord& record) {
          if (part_of(record.code) == part) pairs.push_back(record);
        }));
        SortRecords(&pairs);
        for (const CodeRecord& record : pairs) {
          records.codes.push_back(record.code);
          records.rows.push_back(record.row);
        }
      } else {
        FEEDFAST_RETURN_IF_ERROR(codes_.ForEach(partition, [&](const CodeRecord& record) {
          if (part_of(record.code) == part) records.codes.push_back(record.code);
        }));
        SortCodes(records.codes, threads);
      }
      monitor_.Add(0);
      FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
      const auto twin = std::adjacent_find(records.codes.begin(), records.codes.end());
      if (twin != records.codes.end()) {
        *failed = {FailedPrecondition("vocabulary: distinct keys share a 64-bit hash"), *twin};
        return OkStatus();
      }
      waiting.Append(records);
      records = {};

      // Codes up to here are all there.
      const bool complete = partition + 1 == CodeSpill::kNumPartitions && part + 1 == parts;
      const KeyCode end =
          (static_cast<KeyCode>(partition) << 56) + (part + 1) * ((KeyCode{1} << 56) / parts) - 1;
      std::int64_t ready = num_placed;
      while (ready < first.num_chunks() &&
             (complete || (ready + 1 < first.num_chunks() && first.FirstCode(ready + 1) <= end)))
        ++ready;
      const bool enough = complete || ready - num_placed >= threads ||
                          static_cast<std::int64_t>(waiting.codes.size()) * record_bytes > limit;
      if (ready == num_placed || !enough) continue;
      // Codes of chunks that are not complete yet stay behind.
      const Span<const KeyCode> codes =
          ready == first.num_chunks()
              ? Span<const KeyCode>(waiting.codes)
              : Span<const KeyCode>(waiting.codes)
                    .subspan(0, std::lower_bound(waiting.codes.begin(), waiting.codes.end(),
                                                 first.FirstCode(ready)) -
                                    waiting.codes.begin());
      const std::int64_t settled = first.Place(codes, ready - num_placed, threads, &monitor_);
      num_placed = ready;
      FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
      std::mutex mutex;
      ParallelFor(settled, kGrain, threads, [&](std::int64_t begin, std::int64_t stop) {
        Records left;
        std::vector<KeyCode> without;
        for (std::int64_t i = begin; i < stop; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const KeyCode code = waiting.codes[at];
          const std::int64_t row = waiting.rows.empty() ? 0 : waiting.rows[at];
          const std::int64_t slot = first.SettledSlot(code);
          if (slot >= 0 && slot < num_keys_) {
            columns.Set(slot, code, row);
            continue;
          }
          if (slot < 0) without.push_back(code);
          left.codes.push_back(code);
          if (!waiting.rows.empty()) left.rows.push_back(row);
        }
        const std::lock_guard<std::mutex> lock(mutex);
        late.Append(left);
        bumped.insert(bumped.end(), without.begin(), without.end());
      });
      waiting.EraseFront(settled);
    }
  }

  StatusOr<PerfectHashParts> parts =
      CompletePerfectHash(&first, std::move(bumped), num_keys_, hash_options, threads, &monitor_);
  FEEDFAST_RETURN_IF_ERROR(monitor_.Check());
  if (!parts.ok()) {
    *failed = {parts.status(), std::nullopt};
    return OkStatus();
  }
  shape.num_levels = static_cast<int>(parts->levels.size());
  std::copy(parts->levels.begin(), parts->levels.end(), shape.levels.begin());
  const ImageLayout layout(shape);
  monitor_.Start(BuildPhase::kWrite, num_keys_);
  if (layout.image_bytes > before.image_bytes)
    FEEDFAST_RETURN_IF_ERROR(file.Resize(layout.image_bytes));
  std::uint8_t* image = file.bytes().data();
  const auto move = [&](Section s) {
    std::memmove(image + layout.sections[s].begin, image + before.sections[s].begin,
                 static_cast<std::size_t>(layout.sections[s].size));
  };
  const bool right = layout.sections[kFingerprints].begin > before.sections[kFingerprints].begin;
  if (right) move(kRows);
  move(kFingerprints);
  if (!right) move(kRows);
  // Whatever is no column is written anew.
  const auto zero = [&](std::int64_t begin, std::int64_t end) {
    std::memset(image + begin, 0, static_cast<std::size_t>(end - begin));
  };
  const ImageLayout::Range& fingerprints = layout.sections[kFingerprints];
  const ImageLayout::Range& rows = layout.sections[kRows];
  zero(0, fingerprints.begin);
  zero(fingerprints.begin + fingerprints.size, rows.begin);
  zero(rows.begin + rows.size, layout.image_bytes);
  FEEDFAST_RETURN_IF_ERROR(file.Resize(layout.image_bytes));
  image = file.bytes().data();
  WriteHash(parts.value(), layout, image);
  columns.MoveTo(image + fingerprints.begin, image + rows.begin);
  const PerfectHash hash(num_keys_, shape.format, shape.level_span(),
                         image + layout.sections[kSeeds].begin,
                         MonotoneSequence(layout.holes, image + layout.sections[kHolesLow].begin,
                                          image + layout.sections[kHolesHigh].begin,
                                          image + layout.sections[kHolesSamples].begin));
  for (std::size_t i = 0; i < late.codes.size(); ++i)
    columns.Set(hash.Slot(late.codes[i]), late.codes[i], late.rows.empty() ? 0 : late.rows[i]);
  SealImage(shape, file.bytes());
  return monitor_.Check();
}

}  // namespace feedfast::mph
