#include "cpp/allreduce/rendezvous.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "cpp/common/descriptor.h"

namespace feedfast::allreduce {
namespace {

using Clock = std::chrono::steady_clock;

// A process that connects says at once who it is, and then that it has entered.
constexpr std::chrono::seconds kHelloWithin{1};
constexpr std::chrono::seconds kEnterWithin{10};
constexpr char kEntered = 'e';
constexpr std::size_t kMostAddressBytes = sizeof(sockaddr_un::sun_path) - 1;

struct Hello {
  std::int32_t rank;
  std::int32_t size;
  std::uint64_t terms;
};

enum Answer : std::uint8_t { kWelcome = 'w', kOtherTerms = 't', kRankTaken = 'r' };

// An address without a file; the name is that of one user, and the kernel checks who connects.
socklen_t Address(const std::string& name, sockaddr_un& address) {
  std::memset(&address, 0, sizeof(address));
  address.sun_family = AF_UNIX;
  char prefix[kMostAddressBytes - kMostMeetingName + 1];
  std::snprintf(prefix, sizeof(prefix), "ff-%08x", static_cast<unsigned>(::getuid()));
  const std::string path = prefix + name;
  assert(path.size() <= kMostAddressBytes);
  std::memcpy(address.sun_path + 1, path.data(), path.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + path.size());
}

int NewSocket() { return ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); }

// How often a process that waits looks whether it is to stop.
constexpr std::chrono::milliseconds kLookAfter{100};

bool IsInterrupted(const Meeting& meeting) { return meeting.interrupted && meeting.interrupted(); }

Status Interrupted(const Meeting& meeting) {
  return FailedPrecondition("group '", meeting.name, "': rank ", meeting.rank,
                            " was interrupted while it joined");
}

// Waits until `descriptor` can be read. False at the deadline, or when `stop` says so.
bool WaitReadable(int descriptor, Clock::time_point deadline, const std::function<bool()>& stop) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return false;
    pollfd wait{descriptor, POLLIN, 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(std::min(left, kLookAfter).count()));
    if (ready > 0) return true;
    if (stop && stop()) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

bool IsOwnUser(int socket) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
         peer.uid == ::getuid();
}

// One byte, and with it a descriptor where `descriptor` >= 0.
bool Send(int socket, Answer answer, int descriptor) {
  auto byte = static_cast<std::uint8_t>(answer);
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

// The byte that Send sent, 0 when there is none; the descriptor, or -1.
std::uint8_t ReceiveAnswer(int socket, int& descriptor) {
  descriptor = -1;
  std::uint8_t byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return 0;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof(int)))
    std::memcpy(&descriptor, CMSG_DATA(header), sizeof(int));
  return byte;
}

bool HasEntered(int socket) {
  char said = 0;
  return WaitReadable(socket, Clock::now() + kEnterWithin, {}) &&
         ::recv(socket, &said, 1, 0) == 1 && said == kEntered;
}

Status Missing(const Meeting& meeting, const std::vector<bool>& here) {
  std::string ranks;
  for (std::size_t rank = 1; rank < here.size(); ++rank)
    if (!here[rank]) ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
  return FailedPrecondition("group '", meeting.name, "': rank ", ranks, " of ", meeting.size,
                            " did not join in time");
}

}  // namespace

Status HandOut(const Meeting& meeting, int descriptor, Absence& absence) {
  const Descriptor listener(NewSocket());
  sockaddr_un address;
  const socklen_t length = Address(meeting.name, address);
  if (::bind(listener.fd(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::listen(listener.fd(), meeting.size) != 0)
    return FailedPrecondition(
        "group '", meeting.name, "': cannot meet the other ranks: ",
        errno == EADDRINUSE ? "another group forms under this name" : std::strerror(errno));
  std::vector<bool> here(static_cast<std::size_t>(meeting.size), false);
  int ended = 0;  // a rank that came and did not enter; the others still come, to learn of it
  for (int known = 1; known < meeting.size;) {
    bool interrupted = false;
    const auto stop = [&] { return interrupted = IsInterrupted(meeting); };
    if (!WaitReadable(listener.fd(), meeting.deadline, stop)) {
      if (interrupted) {
        absence = {meeting.rank, false};
        return Interrupted(meeting);
      }
      absence = {static_cast<int>(std::find(here.begin() + 1, here.end(), false) - here.begin()),
                 true};
      return Missing(meeting, here);
    }
    const Descriptor peer(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (peer.fd() < 0 && errno != EINTR && errno != ECONNABORTED)
      return FailedPrecondition("group '", meeting.name,
                                "': cannot meet the other ranks: ", std::strerror(errno));
    Hello hello{};
    const Clock::time_point patience = std::min(meeting.deadline, Clock::now() + kHelloWithin);
    if (peer.fd() < 0 || !IsOwnUser(peer.fd()) || !WaitReadable(peer.fd(), patience, {}) ||
        ::recv(peer.fd(), &hello, sizeof(hello), 0) != sizeof(hello))
      continue;  // a process that gave up, or none of ours
    if (hello.size != meeting.size || hello.terms != meeting.terms) {
      Send(peer.fd(), kOtherTerms, -1);
    } else if (hello.rank < 1 || hello.rank >= meeting.size ||
               here[static_cast<std::size_t>(hello.rank)]) {
      Send(peer.fd(), kRankTaken, -1);
    } else if (!Send(peer.fd(), kWelcome, descriptor) || !HasEntered(peer.fd())) {
      ended = hello.rank;
      here[static_cast<std::size_t>(hello.rank)] = true;
      ++known;
    } else {
      here[static_cast<std::size_t>(hello.rank)] = true;
      ++known;
    }
  }
  if (ended != 0) {
    absence = {ended, false};
    return FailedPrecondition("group '", meeting.name, "': rank ", ended, " of ", meeting.size,
                              " ended while it joined");
  }
  return OkStatus();
}

StatusOr<int> Receive(const Meeting& meeting, const std::function<Status(int)>& enter) {
  for (;;) {
    const Descriptor socket(NewSocket());
    sockaddr_un address;
    const socklen_t length = Address(meeting.name, address);
    if (::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&address), length) == 0) {
      const Hello hello{meeting.rank, meeting.size, meeting.terms};
      int descriptor = -1;
      if (IsOwnUser(socket.fd()) &&
          ::send(socket.fd(), &hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello) &&
          WaitReadable(socket.fd(), meeting.deadline, meeting.interrupted)) {
        const std::uint8_t answer = ReceiveAnswer(socket.fd(), descriptor);
        if (answer == kWelcome && descriptor >= 0) {
          const Status entered = enter(descriptor);
          if (entered.ok() && ::send(socket.fd(), &kEntered, 1, MSG_NOSIGNAL) == 1)
            return descriptor;
          ::close(descriptor);
          if (!entered.ok()) return entered;
          return FailedPrecondition("group '", meeting.name, "': rank 0 ended while ranks joined");
        }
        if (answer == kWelcome)
          return ResourceExhausted("group '", meeting.name, "': rank ", meeting.rank,
                                   " has no room for another descriptor");
        if (answer == kOtherTerms)
          return InvalidArgument("group '", meeting.name, "': rank ", meeting.rank,
                                 " has another size or other buffers than rank 0");
        if (answer == kRankTaken)
          return FailedPrecondition("group '", meeting.name, "': rank ", meeting.rank,
                                    " has joined already");
      }
    }
    if (IsInterrupted(meeting)) return Interrupted(meeting);
    if (Clock::now() >= meeting.deadline)
      return FailedPrecondition("group '", meeting.name, "': rank 0 did not join in time");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace feedfast::allreduce
