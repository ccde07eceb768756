#include "cpp/allreduce/shared_group.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <new>
#include <thread>
#include <utility>

#include "cpp/allreduce/rendezvous.h"

namespace feedfast::allreduce {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kPageBytes = 4096;
constexpr std::int64_t kMinBufferBytes = 2 * kPageBytes;  // halves start on pages
constexpr std::int64_t kMaxBufferBytes = std::int64_t{1} << 40;
// Pages that are reserved in one call: a signal interrupts it, and what it had then is lost.
constexpr std::int64_t kReserveBytes = std::int64_t{1} << 20;
// How often a rank that waits looks whether the one it waits for still runs.
constexpr std::chrono::milliseconds kLookAfter{20};
// A rank that waits looks again and again at first, which is faster than to be woken: a few
// microseconds on its own, then some hundreds in which others that want its processor get it.
constexpr int kSpins = 100;
constexpr int kYields = 1000;

void SleepWhile(std::atomic<std::uint32_t>& word, std::uint32_t value,
                std::chrono::milliseconds most) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(most);
  const timespec wait{static_cast<std::time_t>(seconds.count()),
                      static_cast<long>((most - seconds).count() * 1'000'000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, &wait, nullptr, 0);
}

void WakeAll(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Pause() noexcept {
#if defined(FEEDFAST_X86)
  __builtin_ia32_pause();
#endif
}

// Gives the file `bytes` bytes of zeros. 0, or an error number.
int Reserve(int descriptor, std::int64_t bytes) {
  for (std::int64_t begin = 0; begin < bytes;) {
    const std::int64_t count = std::min(kReserveBytes, bytes - begin);
    if (::fallocate(descriptor, 0, begin, count) == 0) {
      begin += count;
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

struct flock ByteLock(int byte) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMostMeetingName &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

Status Validate(const SharedGroupOptions& options) {
  if (!IsName(options.name))
    return InvalidArgument("name '", options.name, "' is not 1 to ", kMostMeetingName,
                           " letters, digits, '.', '_' and '-'");
  if (options.size < 1 || options.size > kMaxSharedRanks)
    return InvalidArgument("size = ", options.size, " is not in 1..", kMaxSharedRanks);
  if (options.rank < 0 || options.rank >= options.size)
    return InvalidArgument("rank = ", options.rank, " is not in 0..", options.size - 1);
  if (options.buffer_bytes < kMinBufferBytes || options.buffer_bytes > kMaxBufferBytes ||
      options.buffer_bytes % kMinBufferBytes != 0)
    return InvalidArgument("buffer_bytes = ", options.buffer_bytes, " is not a multiple of ",
                           kMinBufferBytes, " in ", kMinBufferBytes, "..", kMaxBufferBytes);
  if (options.timeout.count() <= 0)
    return InvalidArgument("timeout = ", options.timeout.count(), " ms; must be above 0");
  return OkStatus();
}

// Tells the others that this rank runs, for as long as it does.
Status TakeLock(const SharedGroupOptions& options, int descriptor) {
  struct flock lock = ByteLock(options.rank);
  if (::fcntl(descriptor, F_SETLK, &lock) == 0) return OkStatus();
  return FailedPrecondition("group '", options.name, "': rank ", options.rank,
                            " has joined already");
}

}  // namespace

// What one rank writes, on cache lines of its own.
struct alignas(64) SharedGroup::Rank {
  // By the parity of the round: a rank writes one again only after a barrier at which all have
  // read it.
  Notice notices[2];
  std::atomic<std::uint32_t> round;    // barriers that the rank has reached
  std::atomic<std::uint32_t> waiters;  // ranks that sleep on `round`
};

struct alignas(64) SharedGroup::Header {
  std::atomic<std::uint32_t> broken;  // 0, or 1 + 4 * rank that broke the group + Reason
};

std::int64_t SharedGroup::HeaderBytes(int size) noexcept {
  const auto bytes =
      static_cast<std::int64_t>(sizeof(Header)) + size * static_cast<std::int64_t>(sizeof(Rank));
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

std::int64_t SharedGroup::TotalBytes(const SharedGroupOptions& options) noexcept {
  return HeaderBytes(options.size) + options.size * options.buffer_bytes;
}

SharedGroup::Header& SharedGroup::header() const noexcept {
  return *std::launder(reinterpret_cast<Header*>(memory_));
}

SharedGroup::Rank& SharedGroup::shared(int rank) const noexcept {
  assert(rank >= 0 && rank < size());
  return std::launder(reinterpret_cast<Rank*>(memory_ + sizeof(Header)))[rank];
}

std::uint8_t* SharedGroup::buffer(int rank) const noexcept {
  assert(rank >= 0 && rank < size());
  return memory_ + HeaderBytes(size()) + rank * buffer_bytes();
}

Notice& SharedGroup::MyNotice() noexcept { return shared(rank()).notices[(round_ + 1) & 1]; }

const Notice& SharedGroup::NoticeOf(int rank) const noexcept {
  return shared(rank).notices[round_ & 1];
}

std::int64_t SharedGroup::TakeTurn() noexcept {
  second_half_ = !second_half_;
  return turn();
}

SharedGroup::SharedGroup(SharedGroupOptions options, int descriptor, std::uint8_t* memory)
    : options_(std::move(options)),
      descriptor_(descriptor),
      memory_(memory),
      process_(::getpid()) {}

StatusOr<std::unique_ptr<SharedGroup>> SharedGroup::Join(const SharedGroupOptions& options) {
  FEEDFAST_RETURN_IF_ERROR(Validate(options));
  const std::int64_t bytes = TotalBytes(options);
  const Meeting meeting{options.name,
                        options.rank,
                        options.size,
                        static_cast<std::uint64_t>(options.buffer_bytes),
                        Clock::now() + options.timeout,
                        options.interrupted};
  int descriptor = -1;
  if (options.rank == 0) {
    // New pages of the file are zero, which is where every counter starts.
    descriptor = ::memfd_create("feedfast", MFD_CLOEXEC);
    const int error = descriptor < 0 ? errno : Reserve(descriptor, bytes);
    if (error != 0) {
      if (descriptor >= 0) ::close(descriptor);
      return ResourceExhausted("group '", options.name, "': cannot get ", bytes,
                               " bytes of shared memory: ", std::strerror(error));
    }
  } else {
    StatusOr<int> received =
        Receive(meeting, [&](int shared_file) { return TakeLock(options, shared_file); });
    if (!received.ok()) return received.status();
    descriptor = received.value();
  }
  void* memory = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                        MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    ::close(descriptor);
    return ResourceExhausted("group '", options.name, "': cannot map ", bytes,
                             " bytes of shared memory: ", std::strerror(error));
  }
  std::unique_ptr<SharedGroup> group(
      new SharedGroup(options, descriptor, static_cast<std::uint8_t*>(memory)));
  if (options.rank == 0) {
    FEEDFAST_RETURN_IF_ERROR(TakeLock(options, descriptor));
    Absence absence;
    const Status all_here = HandOut(meeting, descriptor, absence);
    if (!all_here.ok()) {
      // Those that did join wait at the barrier.
      static_cast<void>(group->Break(absence.rank, absence.late ? kLate : kEnded));
      return all_here;
    }
  }
  FEEDFAST_RETURN_IF_ERROR(group->Barrier());
  return group;
}

SharedGroup::~SharedGroup() {
  // Gives up the lock; whoever waits for this rank then looks at once.
  ::close(descriptor_);
  WakeAll(shared(rank()).round);
  ::munmap(memory_, static_cast<std::size_t>(TotalBytes(options_)));
}

bool SharedGroup::IsAlive(int rank) const noexcept {
  struct flock lock = ByteLock(rank);
  return ::fcntl(descriptor_, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

Status SharedGroup::BrokenStatus() const {
  const std::uint32_t broken = header().broken.load() - 1;
  constexpr const char* kTexts[] = {" has ended", " did not arrive in time", " has left"};
  return FailedPrecondition("group '", options_.name, "' is broken: rank ", broken / 4, " of ",
                            size(), kTexts[broken % 4]);
}

Status SharedGroup::Break(int rank, Reason reason) {
  std::uint32_t whole = 0;
  header().broken.compare_exchange_strong(whole, 1 + 4 * static_cast<std::uint32_t>(rank) + reason);
  for (int other = 0; other < size(); ++other) WakeAll(shared(other).round);
  return BrokenStatus();
}

Status SharedGroup::WaitFor(int rank, std::uint32_t round, Clock::time_point deadline) {
  Rank& other = shared(rank);
  // Rounds wrap around; no rank is ever more than one ahead.
  const auto arrived = [&] { return static_cast<std::int32_t>(other.round.load() - round) >= 0; };
  static const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  for (int i = 0; size() <= cores && i < kSpins + kYields; ++i) {
    if (arrived()) return OkStatus();
    if (i < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
  other.waiters.fetch_add(1);
  Status status;
  while (!arrived()) {
    if (header().broken.load() != 0) {
      status = BrokenStatus();
      break;
    }
    SleepWhile(other.round, round - 1, kLookAfter);
    if (arrived()) break;
    // All ranks hold their locks when rank 0 arrives at the first barrier; it holds its own before.
    // One that ended may have arrived before, as all do that leave behind their last barrier.
    if ((rank == 0 || shared(0).round.load() != 0) && !IsAlive(rank) && !arrived()) {
      status = Break(rank, kEnded);
      break;
    }
    if (options_.interrupted && options_.interrupted()) {
      status = Break(this->rank(), kLeft);
      break;
    }
    if (Clock::now() >= deadline) {
      status = Break(rank, kLate);
      break;
    }
  }
  other.waiters.fetch_sub(1);
  return status;
}

void SharedGroup::Leave() { static_cast<void>(Break(rank(), kLeft)); }

Status SharedGroup::Barrier() {
  if (::getpid() != process_)
    return FailedPrecondition("group '", name(), "': rank ", rank(), " is process ", process_,
                              "; a forked child cannot stand in for it");
  if (header().broken.load() != 0) return BrokenStatus();
  // Whoever joined early waits longer than rank 0 does, which knows who is missing.
  const Clock::time_point deadline = Clock::now() + options_.timeout * (round_ == 0 ? 2 : 1);
  Rank& mine = shared(rank());
  mine.round.store(++round_);
  if (mine.waiters.load() != 0) WakeAll(mine.round);
  for (int other = 0; other < size(); ++other)
    if (other != rank()) FEEDFAST_RETURN_IF_ERROR(WaitFor(other, round_, deadline));
  return OkStatus();
}

}  // namespace feedfast::allreduce
