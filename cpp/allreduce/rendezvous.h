#ifndef FEEDFAST_CPP_ALLREDUCE_RENDEZVOUS_H_
#define FEEDFAST_CPP_ALLREDUCE_RENDEZVOUS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "cpp/common/status.h"

namespace feedfast::allreduce {

// Bytes of a meeting's name, at most: an address has room for these and for the user.
inline constexpr std::size_t kMostMeetingName = 96;

// One process that meets others of its user on this host, to share one file.
struct Meeting {
  std::string name;
  int rank = 0;
  int size = 1;
  std::uint64_t terms = 0;  // equal in all processes, or they have no business with each other
  std::chrono::steady_clock::time_point deadline;
  std::function<bool()> interrupted = {};  // asked now and then; true ends the wait
};

// The rank for which a group could not form.
struct Absence {
  int rank = 0;
  bool late = false;  // it did not come, rather than end on its way in
};

// Rank 0: gives `descriptor` to every other rank, and returns when all have entered or ended.
// FailedPrecondition: somebody else has the name, this process has no descriptor left, a rank ended
// on its way in, or did not come by the deadline, and the message names those that are missing,
// `absence` the first of them; or it was interrupted, and `absence` names rank 0.
Status HandOut(const Meeting& meeting, int descriptor, Absence& absence);

// Other ranks: the descriptor of rank 0, which the caller closes, after enter(descriptor) is ok;
// its error is returned otherwise. FailedPrecondition: rank 0 did not come by the deadline, another
// process came as this rank, or it was interrupted. InvalidArgument: the terms or the size differ.
// ResourceExhausted: this process has no descriptor left.
StatusOr<int> Receive(const Meeting& meeting, const std::function<Status(int)>& enter);

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_RENDEZVOUS_H_
