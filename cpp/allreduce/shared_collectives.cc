#include "cpp/allreduce/shared_collectives.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <string>

#include "cpp/allreduce/add_kernel.h"

namespace feedfast::allreduce {
namespace {

// Elements that are summed over all ranks before the next ones: their sum stays in the first-level
// cache.
constexpr std::int64_t kBlock = 2048;
// Up to so many bytes over all ranks, every rank sums everything itself, which saves a barrier.
constexpr std::int64_t kSumByAll = std::int64_t{32} << 10;
// Pieces of a longer all-reduce: private and shared part stay in the second-level cache between the
// steps, and a barrier is short against the copies.
constexpr std::int64_t kPieceBytes = std::int64_t{512} << 10;

enum Call : std::uint32_t { kBarrier, kReduce, kBroadcast, kGather, kToAll };
constexpr const char* kCallNames[] = {"barrier", "all_reduce", "broadcast", "all_gather",
                                      "all_to_all"};

bool HasCommonSize(std::uint32_t call) { return call == kReduce || call == kBroadcast; }

// FNV-1a.
std::uint64_t HashOf(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

// Puts up the notice of this rank's call; its counts are the caller's.
Notice& Announce(SharedGroup& group, Call call, std::string_view what, std::int64_t size) {
  Notice& notice = group.MyNotice();
  notice.call = call;
  notice.hash = HashOf(what);
  notice.size = size;
  const std::size_t length = std::min(what.size(), sizeof(notice.text) - 1);
  std::memcpy(notice.text, what.data(), length);
  notice.text[length] = 0;
  return notice;
}

std::string CallText(const Notice& notice) {
  const auto call = std::min<std::uint32_t>(notice.call, kToAll);
  std::string text = std::string(kCallNames[call]) + "(" + notice.text;
  if (call == kBroadcast) text += ", root " + std::to_string(notice.counts[0]);
  if (HasCommonSize(call))
    text += ", " + std::to_string(notice.size) + (call == kReduce ? " elements" : " bytes");
  return text + ")";
}

// The barrier at which all notices are up; compares them.
Status Agree(SharedGroup& group) {
  FEEDFAST_RETURN_IF_ERROR(group.Barrier());
  // Everybody compares with rank 0, so all find the same.
  const Notice& first = group.NoticeOf(0);
  for (int rank = 1; rank < group.size(); ++rank) {
    const Notice& other = group.NoticeOf(rank);
    if (other.call != first.call || other.hash != first.hash ||
        (HasCommonSize(first.call) && other.size != first.size) ||
        (first.call == kBroadcast && other.counts[0] != first.counts[0]))
      return InvalidArgument("group '", group.name(), "': rank 0 calls ", CallText(first),
                             ", rank ", rank, " calls ", CallText(other));
  }
  return OkStatus();
}

template <typename T>
void Copy(T* to, const T* from, std::int64_t count) {
  if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

// The part of [0, size) that `rank` sums, in whole cache lines.
struct Part {
  std::int64_t begin;
  std::int64_t end;
};
template <typename T>
Part PartOf(const SharedGroup& group, int rank, std::int64_t size) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  const std::int64_t lines = (size + kLine - 1) / kLine;
  const auto first = [&](int r) { return std::min(size, lines * r / group.size() * kLine); };
  return {first(rank), first(rank + 1)};
}

template <typename T>
T* Elements(const SharedGroup& group, int rank, std::int64_t first_byte) {
  return reinterpret_cast<T*>(group.buffer(rank) + first_byte);
}

// data[i] = sum over ranks for i in `part`, where this rank's own addends are those in `data` and
// those of the others lie in their buffers. Where `give`, the sums go to its own buffer, too.
template <typename T>
void SumPart(const SharedGroup& group, std::int64_t first_byte, Part part, bool give, T* data) {
  const auto add = AddKernel<T>();
  T sum[kBlock];
  for (std::int64_t begin = part.begin; begin < part.end; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, part.end - begin);
    const auto addends = [&](int rank) -> const T* {
      return (rank == group.rank() ? data : Elements<T>(group, rank, first_byte)) + begin;
    };
    Copy(sum, addends(0), count);
    for (int rank = 1; rank < group.size(); ++rank) add(addends(rank), count, sum);
    Copy(data + begin, sum, count);
    if (give) Copy(Elements<T>(group, group.rank(), first_byte) + begin, sum, count);
  }
}

// Calls body(rank, part) for the part of every rank but this one.
template <typename T, typename Body>
void ForEachOtherPart(const SharedGroup& group, std::int64_t size, const Body& body) {
  // Each rank begins with its neighbour, so that not all read the same buffer at once.
  for (int step = 1; step < group.size(); ++step) {
    const int rank = (group.rank() + step) % group.size();
    body(rank, PartOf<T>(group, rank, size));
  }
}

// Copies bytes [begin, begin + count) of the parts, one after the other without that of `skipped`.
void CopyStream(Span<const Bytes> parts, int skipped, std::int64_t begin, std::int64_t count,
                std::uint8_t* to) {
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < parts.size(); ++i) {
    if (i == skipped) continue;
    const std::int64_t from = std::max(first, begin);
    const std::int64_t until = std::min(first + parts[i].size(), begin + count);
    if (from < until) Copy(to + from - begin, parts[i].data() + from - first, until - from);
    first += parts[i].size();
  }
}

}  // namespace

Status AgreedBarrier(SharedGroup& group, std::string_view what) {
  Announce(group, kBarrier, what, 0);
  group.TakeTurn();
  return Agree(group);
}

template <typename T>
Status AllReduce(SharedGroup& group, std::string_view what, Span<T> data) {
  Announce(group, kReduce, what, data.size());
  const auto item = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t bytes = data.size() * item;
  // What would be two pieces goes as one: barriers count more there than the cache.
  const std::int64_t piece_bytes =
      std::min(group.buffer_bytes() / 2, std::max(kPieceBytes, std::min(bytes, 2 * kPieceBytes)));
  std::int64_t first_byte = group.TakeTurn();
  if (bytes <= piece_bytes && bytes * group.size() <= kSumByAll) {
    Copy(Elements<T>(group, group.rank(), first_byte), data.data(), data.size());
    FEEDFAST_RETURN_IF_ERROR(Agree(group));
    SumPart<T>(group, first_byte, {0, data.size()}, false, data.data());
    return OkStatus();
  }
  if (group.size() == 1) return Agree(group);
  const std::int64_t piece = piece_bytes / item;
  for (std::int64_t begin = 0; begin < data.size(); begin += piece) {
    if (begin > 0) first_byte = group.TakeTurn();
    const std::int64_t count = std::min(piece, data.size() - begin);
    T* const mine = data.data() + begin;
    ForEachOtherPart<T>(group, count, [&](int, Part part) {
      Copy(Elements<T>(group, group.rank(), first_byte) + part.begin, mine + part.begin,
           part.end - part.begin);
    });
    FEEDFAST_RETURN_IF_ERROR(begin == 0 ? Agree(group) : group.Barrier());
    SumPart<T>(group, first_byte, PartOf<T>(group, group.rank(), count), true, mine);
    FEEDFAST_RETURN_IF_ERROR(group.Barrier());
    ForEachOtherPart<T>(group, count, [&](int rank, Part part) {
      Copy(mine + part.begin, Elements<T>(group, rank, first_byte) + part.begin,
           part.end - part.begin);
    });
  }
  return OkStatus();
}

Status Broadcast(SharedGroup& group, std::string_view what, int root, Span<std::uint8_t> data) {
  assert(root >= 0 && root < group.size());
  Announce(group, kBroadcast, what, data.size()).counts[0] = root;
  const std::int64_t half = group.buffer_bytes() / 2;
  std::int64_t begin = 0;
  do {
    const std::int64_t first_byte = group.TakeTurn();
    const std::int64_t count = std::min(half, data.size() - begin);
    if (group.rank() == root) Copy(group.buffer(root) + first_byte, data.data() + begin, count);
    FEEDFAST_RETURN_IF_ERROR(begin == 0 ? Agree(group) : group.Barrier());
    if (group.rank() != root) Copy(data.data() + begin, group.buffer(root) + first_byte, count);
    begin += half;
  } while (begin < data.size());
  return OkStatus();
}

Status BeginAllGather(SharedGroup& group, std::string_view what, Bytes mine,
                      Span<std::int64_t> counts) {
  assert(counts.size() == group.size());
  Announce(group, kGather, what, mine.size());
  Copy(group.buffer(group.rank()) + group.TakeTurn(), mine.data(),
       std::min(mine.size(), group.buffer_bytes() / 2));
  FEEDFAST_RETURN_IF_ERROR(Agree(group));
  for (int rank = 0; rank < group.size(); ++rank) counts[rank] = group.NoticeOf(rank).size;
  return OkStatus();
}

Status FinishAllGather(SharedGroup& group, Bytes mine, Span<const std::int64_t> counts,
                       Span<std::uint8_t* const> out) {
  assert(counts.size() == group.size() && counts[group.rank()] == mine.size());
  Copy(out[group.rank()], mine.data(), mine.size());
  const std::int64_t half = group.buffer_bytes() / 2;
  const std::int64_t most = *std::max_element(counts.begin(), counts.end());
  for (std::int64_t begin = 0; begin < most; begin += half) {
    const auto in_piece = [&](int rank) { return std::min(counts[rank] - begin, half); };
    if (begin > 0) {
      group.TakeTurn();
      Copy(group.buffer(group.rank()) + group.turn(), mine.data() + begin, in_piece(group.rank()));
      FEEDFAST_RETURN_IF_ERROR(group.Barrier());
    }
    for (int step = 1; step < group.size(); ++step) {
      const int rank = (group.rank() + step) % group.size();
      Copy(out[rank] + begin, group.buffer(rank) + group.turn(), in_piece(rank));
    }
  }
  return OkStatus();
}

Status BeginAllToAll(SharedGroup& group, std::string_view what, Span<const Bytes> parts,
                     SendCounts& counts) {
  assert(parts.size() == group.size());
  Notice& notice = Announce(group, kToAll, what, 0);
  for (int to = 0; to < group.size(); ++to)
    notice.counts[to] = to == group.rank() ? 0 : parts[to].size();
  CopyStream(parts, group.rank(), 0, group.buffer_bytes() / 2,
             group.buffer(group.rank()) + group.TakeTurn());
  FEEDFAST_RETURN_IF_ERROR(Agree(group));
  counts.clear();
  for (int from = 0; from < group.size(); ++from) {
    const std::int64_t* const sent = group.NoticeOf(from).counts;
    counts.insert(counts.end(), sent, sent + group.size());
  }
  return OkStatus();
}

Status FinishAllToAll(SharedGroup& group, Span<const Bytes> parts, const SendCounts& counts,
                      Span<std::uint8_t* const> out) {
  const int size = group.size();
  assert(parts.size() == size && static_cast<int>(counts.size()) == size * size);
  Copy(out[group.rank()], parts[group.rank()].data(), parts[group.rank()].size());
  const std::int64_t half = group.buffer_bytes() / 2;
  // A rank's parts are one stream, in the order of those that get them.
  const auto sent_before = [&](std::int64_t from, int to) {
    const auto first = counts.begin() + from * size;
    return std::accumulate(first, first + to, std::int64_t{0});
  };
  std::int64_t most = 0;
  for (int from = 0; from < size; ++from) most = std::max(most, sent_before(from, size));
  for (std::int64_t begin = 0; begin < most; begin += half) {
    if (begin > 0) {
      group.TakeTurn();
      CopyStream(parts, group.rank(), begin, half, group.buffer(group.rank()) + group.turn());
      FEEDFAST_RETURN_IF_ERROR(group.Barrier());
    }
    for (int step = 1; step < size; ++step) {
      const int from = (group.rank() + step) % size;
      const std::int64_t first = sent_before(from, group.rank());
      const std::int64_t last = sent_before(from, group.rank() + 1);
      const std::int64_t from_byte = std::max(first, begin);
      const std::int64_t to_byte = std::min(last, begin + half);
      Copy(out[from] + from_byte - first, group.buffer(from) + group.turn() + from_byte - begin,
           to_byte - from_byte);
    }
  }
  return OkStatus();
}

template Status AllReduce(SharedGroup&, std::string_view, Span<float>);
template Status AllReduce(SharedGroup&, std::string_view, Span<double>);

}  // namespace feedfast::allreduce
