#ifndef FEEDFAST_CPP_ALLREDUCE_SHARED_COLLECTIVES_H_
#define FEEDFAST_CPP_ALLREDUCE_SHARED_COLLECTIVES_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/allreduce/shared_group.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast::allreduce {

// Exchanges between the processes of one host, through the buffers of a group, in pieces of half a
// buffer. All ranks make the same calls in the same order; `what` says for which array, and is the
// same text in all of them.
//
// Not ok, besides SharedGroup::Barrier: InvalidArgument, in all ranks, where the ranks differ in
// call, `what` or a size that must be the same; the message has both calls. No array was written
// then, and the group is whole.

using Bytes = Span<const std::uint8_t>;

// Returns when all ranks have called it.
Status AgreedBarrier(SharedGroup& group, std::string_view what);

// data[i] = sum over ranks of data[i], T float or double. Sums are made in the order of the ranks,
// one rounding per addition: the bits are the same in every process, run and CPU target. For n
// ranks and arrays of B bytes above some KiB, a rank writes B bytes to shared memory and reads
// (n - 1) / n * 2 * B.
template <typename T>
Status AllReduce(SharedGroup& group, std::string_view what, Span<T> data);

// data = that of rank `root`, which is as long.
Status Broadcast(SharedGroup& group, std::string_view what, int root, Span<std::uint8_t> data);

// The first half of FinishAllGather, for whoever must make room for the result: counts[r] = bytes
// that rank r contributes.
Status BeginAllGather(SharedGroup& group, std::string_view what, Bytes mine,
                      Span<std::int64_t> counts);
// out[r] = the bytes of rank r; `mine` and `counts` [size] as in BeginAllGather, nothing overlaps.
Status FinishAllGather(SharedGroup& group, Bytes mine, Span<const std::int64_t> counts,
                       Span<std::uint8_t* const> out);

// Bytes that every rank sends to every other: counts[from * size + to], 0 to itself.
using SendCounts = std::vector<std::int64_t>;

// The first half of FinishAllToAll: what this rank sends to each, and what all send to all.
Status BeginAllToAll(SharedGroup& group, std::string_view what, Span<const Bytes> parts,
                     SendCounts& counts);
// out[r] = the part that rank r has for this rank; `parts` and `counts` as in BeginAllToAll,
// nothing overlaps. out[rank] gets parts[rank].
Status FinishAllToAll(SharedGroup& group, Span<const Bytes> parts, const SendCounts& counts,
                      Span<std::uint8_t* const> out);

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_SHARED_COLLECTIVES_H_
