#ifndef FEEDFAST_CPP_ALLREDUCE_SHARED_GROUP_H_
#define FEEDFAST_CPP_ALLREDUCE_SHARED_GROUP_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cpp/common/status.h"

namespace feedfast::allreduce {

struct SharedGroupOptions {
  std::string name;  // 1 to 96 letters, digits, '.', '_' or '-'; the same in all processes
  int rank = 0;      // 0..size - 1, another one in each process
  int size = 1;      // processes, at most kMaxSharedRanks
  // Memory that each rank shares, a multiple of 8192.
  std::int64_t buffer_bytes = std::int64_t{4} << 20;
  // How long a call waits for the others before it gives up on the group.
  std::chrono::milliseconds timeout{300'000};
  // Asked now and then while a call waits, where it is given; true ends the wait, and with it this
  // rank's part in the group.
  std::function<bool()> interrupted = {};
};

inline constexpr int kMaxSharedRanks = 256;

// What a rank tells the others at a barrier; whoever makes the call gives the fields a meaning.
struct Notice {
  std::uint32_t call;
  std::uint64_t hash;  // of the whole text of which `text` has the beginning
  std::int64_t size;
  char text[96];                         // ends with 0
  std::int64_t counts[kMaxSharedRanks];  // those of the first `size` ranks
};

// Processes of one host and one user that share memory: one buffer per rank, readable and writable
// by all, and a barrier. The memory is anonymous (memfd): it has no name, so nothing is left of it
// when the processes end, however they end. Its pages are reserved when the group forms: there is
// either room for all of it, or an error then. Rank 0 hands it out over a socket in the abstract
// namespace, which exists while the group forms.
//
// A rank that dies, leaves or does not arrive in time breaks the group: every call then fails, in
// all processes, and says which rank it was. A process is one rank; one of its threads uses the
// group at a time, and a forked child does not.
class SharedGroup {
 public:
  // Returns when all ranks have joined. InvalidArgument: options out of range, or other ones than
  // rank 0 has. ResourceExhausted: no memory for the buffers. FailedPrecondition: the name or rank
  // is taken, a rank did not join in time, or ended while it joined; or it was interrupted.
  static StatusOr<std::unique_ptr<SharedGroup>> Join(const SharedGroupOptions& options);
  // The others learn it as if the process had ended.
  ~SharedGroup();
  SharedGroup(const SharedGroup&) = delete;
  SharedGroup& operator=(const SharedGroup&) = delete;

  int rank() const noexcept { return options_.rank; }
  int size() const noexcept { return options_.size; }
  const std::string& name() const noexcept { return options_.name; }
  std::int64_t buffer_bytes() const noexcept { return options_.buffer_bytes; }
  // The buffer of any rank, on a page.
  std::uint8_t* buffer(int rank) const noexcept;

  // This rank's notice for the next barrier, to be written before it.
  Notice& MyNotice() noexcept;
  // The notice of any rank at the last barrier, to be read before the next one.
  const Notice& NoticeOf(int rank) const noexcept;

  // Returns when all ranks have called it as often; what they wrote before is then visible.
  // FailedPrecondition: a rank is gone or late, this one was interrupted, or is a forked child.
  Status Barrier();

  // For a rank that cannot go on as the others expect: breaks the group.
  void Leave();

  // Buffers are used in halves, in turns; TakeTurn begins the next turn, and both give the first
  // byte of its half. A rank that makes a barrier in every turn may write its own half before that
  // barrier: all have then finished with it.
  std::int64_t TakeTurn() noexcept;
  std::int64_t turn() const noexcept { return second_half_ ? buffer_bytes() / 2 : 0; }

 private:
  struct Header;
  struct Rank;

  SharedGroup(SharedGroupOptions options, int descriptor, std::uint8_t* memory);
  static std::int64_t HeaderBytes(int size) noexcept;
  static std::int64_t TotalBytes(const SharedGroupOptions& options) noexcept;
  Header& header() const noexcept;
  Rank& shared(int rank) const noexcept;
  Status WaitFor(int rank, std::uint32_t round, std::chrono::steady_clock::time_point deadline);
  // Does the process of `rank` run? Each holds a lock on one byte that the system lets go with it.
  bool IsAlive(int rank) const noexcept;
  enum Reason : std::uint32_t { kEnded, kLate, kLeft };
  // Marks the group as broken by `rank`, unless it is already, and says so.
  Status Break(int rank, Reason reason);
  Status BrokenStatus() const;

  SharedGroupOptions options_;
  int descriptor_;
  std::uint8_t* memory_;
  pid_t process_;
  std::uint32_t round_ = 0;
  bool second_half_ = false;
};

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_SHARED_GROUP_H_
