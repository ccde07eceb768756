#ifndef FEEDFAST_CPP_MPH_LIVE_VOCABULARY_H_
#define FEEDFAST_CPP_MPH_LIVE_VOCABULARY_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/live_keys.h"
#include "cpp/mph/live_mutex.h"
#include "cpp/mph/live_sightings.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {

struct LiveParts;

struct LiveOptions {
  std::int64_t capacity = 100'000;  // most keys that are admitted and not yet frozen; 1..2^28
  int min_count = 2;  // sightings after which a key is admitted; 1..LiveSightings::kMaxCount
  double expire_after = std::numeric_limits<double>::infinity();  // seconds without a sighting; > 0
  std::int64_t max_key_bytes = 256;  // longer keys are never admitted; 1..LiveKeys::kMaxKeyBytes
  std::uint64_t seed = 0;            // of the overlay's key hash and of frozen segments
};
// InvalidArgument: an option is not in the range above.
Status ValidateLiveOptions(const LiveOptions& options);

// What a live vocabulary holds at one moment.
struct LiveCounts {
  std::int64_t num_keys = 0;      // in snapshot, segments, overlay and exception list
  std::int64_t num_rows = 0;      // rows that the table must have: the highest row ever given and 1
  std::int64_t max_num_rows = 0;  // num_rows does not pass it before the next Compact
  std::int64_t num_segments = 0;
  std::int64_t num_frozen = 0;      // keys of the segments
  std::int64_t num_overlay = 0;     // keys of the overlay
  std::int64_t num_exceptions = 0;  // keys of the exception list
  std::int64_t num_refused = 0;     // sightings that would have admitted a key, but for a limit
  std::int64_t nbytes = 0;          // without the snapshot
};

// A snapshot with keys born after it. Its parts, in the order of lookup:
//   exceptions   new keys that the snapshot or a segment takes for one of its own, with their
//                strings; in effect probed first
//   snapshot     an immutable Vocabulary of rows 1..n - 1 (n = snapshot.num_rows())
//   segments     immutable vocabularies that Compact froze
//   overlay      other keys admitted since the last Compact, with their strings
// Accepted(key) is the first row that snapshot and segments give to a key, right or wrong.
//   Lookup(key) = its row, for keys of snapshot and segments and for admitted keys;
//               = Accepted(key) for other keys: 0, but for one in about 2^fingerprint_bits per
//               part.
// Invariants: keys of the overlay are not accepted, keys of the exception list are. An accepted row
// never changes, since parts are immutable and new ones come last; so exceptions are found by it
// and a known key costs a lookup of the snapshot and the test of one bit.
//
// Rows from n on belong to admitted keys; a new key takes the lowest one that is free. Whatever the
// keys, memory stays below capacity * (4 * max_key_bytes + 200) bytes, counters included, plus what
// Compact froze.
//
// Lookups run concurrently with each other and with one writer; other writers wait. A lookup of a
// batch sees each key as it is at some moment of the call. Writers hold lookups up for a block of
// 256 keys at a time, Compact while it swaps the segment in.
class LiveVocabulary {
 public:
  // `snapshot` must outlive the live vocabulary. InvalidArgument: an option out of range; a
  // snapshot with fingerprint_bits == 0, which takes every key for one of its own.
  static StatusOr<std::unique_ptr<LiveVocabulary>> Create(const Vocabulary& snapshot,
                                                          const LiveOptions& options);
  // From the bytes of Image(), which are copied. DataLoss: they are truncated, altered or of an
  // unknown version, or belong to another snapshot; the message says what and where.
  static StatusOr<std::unique_ptr<LiveVocabulary>> FromImage(const Vocabulary& snapshot,
                                                             Span<const std::uint8_t> image);

  LiveVocabulary(const LiveVocabulary&) = delete;
  LiveVocabulary& operator=(const LiveVocabulary&) = delete;

  // rows[i] = row of key begin + i, as Vocabulary::Lookup. Time plays no part: a key is served
  // until Observe or Expire finds it expired.
  void Lookup(const KeySource& keys, std::int64_t begin, Span<std::int64_t> rows) const noexcept;
  // As Vocabulary::LookupAll.
  void LookupAll(const KeySource& keys, int threads, Span<std::int64_t> rows) const;

  // Whether the caller knows that no part holds the keys: they were born after the last Compact.
  enum class Novelty { kUnknown, kAsserted };

  // As if Expire(time) came first and then, for one key after the other:
  //   an admitted key was last seen at `time`;
  //   a key of snapshot or segments is left alone, but under kAsserted it is a false accept and
  //     enters the exception list at once, because its later sightings could not be told from the
  //     other key's;
  //   any other key has one sighting more, and with min_count of them it enters the overlay.
  // No key enters when `capacity` keys are there, or one longer than max_key_bytes; such sightings
  // are counted in num_refused. rows[i] = Lookup(key i) after its sighting.
  // Requires rows.size() == keys.size(). InvalidArgument: `time` is not finite. A time before the
  // latest one stands for the latest one. Throws std::bad_alloc after some of the keys.
  Status Observe(const KeySource& keys, double time, Novelty novelty, Span<std::int64_t> rows);

  // Removes the keys whose last sighting is more than expire_after before `time`, and frees their
  // rows. InvalidArgument: as Observe.
  Status Expire(double time);

  // Rows of keys that expired since the last call, ascending; each may have a new key already.
  std::vector<std::int64_t> TakeEvictedRows();

  // Freezes the admitted keys with their rows: those of the overlay become a segment with the
  // snapshot's fingerprint_bits, exceptions stay where they are; none of them expires any more.
  // Returns how many were frozen. FailedPrecondition: there are kMaxSegments already.
  StatusOr<std::int64_t> Compact();

  LiveCounts Counts() const;
  // Everything but the snapshot as a file, docs/formats/live_vocabulary.md.
  std::vector<std::uint8_t> Image() const;
  const LiveOptions& options() const noexcept { return options_; }

  // Each segment costs unknown keys one more lookup and one more chance of a false accept.
  static constexpr std::int64_t kMaxSegments = 64;

 private:
  // A bit for each code of the exception list, 8 KiB: another code is held by chance.
  class CodeFilter {
   public:
    bool MayHold(KeyCode code) const noexcept {
      return (words_[code >> 54] >> (code >> 48 & 63) & 1) != 0;
    }
    void Add(KeyCode code) noexcept { words_[code >> 54] |= std::uint64_t{1} << (code >> 48 & 63); }

   private:
    std::array<std::uint64_t, 1024> words_ = {};
  };

  LiveVocabulary(const Vocabulary& snapshot, const LiveOptions& options);

  // Called with state_ held, shared or as the only writer. Blocks have at most kKeyBlock keys.
  //
  // Gives rows of exceptions to keys that the snapshot accepted.
  void CorrectFalseAccepts(const KeySource& keys, std::int64_t begin,
                           Span<std::int64_t> accepted) const noexcept;
  // rows[p] = row of key begin + p for a block of ascending positions p, which the snapshot does
  // not know.
  void ResolveUnknown(const KeySource& keys, std::int64_t begin, Span<const std::int64_t> positions,
                      Span<std::int64_t> rows) const noexcept;
  // Completes the accepted rows of a block: in, those of the snapshot.
  void AcceptBySegments(Span<const std::string_view> keys,
                        Span<std::int64_t> accepted) const noexcept;
  // Codes and entries (or kNone) of a block, in the exception list for accepted keys, else in the
  // overlay.
  void FindAdmitted(Span<const std::string_view> keys, Span<const std::int64_t> accepted,
                    KeyCode* codes, std::uint32_t* entries) const noexcept;
  std::uint32_t FindException(std::string_view key, std::int64_t accepted) const noexcept;
  std::int64_t num_transient() const noexcept {
    return overlay_.num_transient() + exceptions_.num_transient();
  }
  std::int64_t num_frozen() const noexcept;

  // Called by the writer alone.
  Status AdvanceTime(double time);
  void RemoveExpired();
  void ObserveBlock(Span<const std::string_view> keys, Novelty novelty, Span<std::int64_t> rows);
  bool MayAdmit(const LiveKeys& part, std::string_view key) const noexcept;
  // Returns the row that the key gets. Requires MayAdmit, the key not to be there, and state_.
  std::int64_t Admit(LiveKeys* part, std::string_view key, KeyCode code);
  void NoteEvicted(std::int64_t row);
  void RefillExceptionFilter() noexcept;
  // Takes a file's content over into an empty live vocabulary.
  Status Fill(const LiveParts& parts);
  Status FillKeys(const LiveParts& parts);

  const Vocabulary& snapshot_;
  const LiveOptions options_;

  mutable std::mutex writer_;  // held by a writer from begin to end
  // What writer_ alone guards.
  LiveSightings sightings_;
  double time_ = -std::numeric_limits<double>::infinity();  // the latest
  std::vector<std::int64_t> evicted_rows_;                  // with duplicates
  std::size_t dedupe_evicted_at_ = 0;
  std::atomic<std::int64_t> num_refused_{0};

  mutable LiveMutex state_;  // held shared by lookups, and by the writer while it changes:
  std::vector<Vocabulary> segments_;
  LiveKeys exceptions_;  // code: CodeOfRow(Accepted(key))
  LiveKeys overlay_;     // code: the key's hash
  CodeFilter exception_filter_;
  std::vector<std::int64_t> free_rows_;  // a heap, the lowest first
  std::int64_t next_row_;                // rows from here on were never given
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LIVE_VOCABULARY_H_
