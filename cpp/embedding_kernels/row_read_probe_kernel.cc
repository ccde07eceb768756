// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/embedding_kernels/row_read_probe_kernel.h"

#include <cstdint>
#include <cstring>

#include "cpp/embedding_kernels/row_prefetch.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

typedef std::uint32_t Line __attribute__((vector_size(64)));
typedef std::uint32_t Sixteen __attribute__((vector_size(16)));
typedef std::uint32_t Eight __attribute__((vector_size(8)));

// Reads every row as kLoads pieces, the last two of which overlap where the row is not whole
// pieces; kLoads = 0: as many as the row needs, known at run time. Requires: a row holds a piece.
template <typename Piece, int kLoads>
std::uint32_t Sum(const ReadRowsArgs& args) {
  constexpr std::int64_t kBytes = sizeof(Piece);
  constexpr int kSums = kLoads + (kLoads == 0 ? 1 : 0);
  const std::int64_t loads = kLoads == 0 ? (args.row_bytes + kBytes - 1) / kBytes : kLoads;
  Piece sums[kSums] = {};
  const auto add = [&](int sum, const std::uint8_t* p) {
    Piece piece;
    std::memcpy(&piece, p, sizeof piece);
    sums[sum] += piece;
  };
  for (std::int64_t i = 0; i < args.num_rows; ++i) {
    if (i + args.prefetch_rows < args.num_rows)
      PrefetchRow(args.table + args.rows[i + args.prefetch_rows] * args.row_bytes, args.row_bytes,
                  args.row_lines);
    const std::uint8_t* row = args.table + args.rows[i] * args.row_bytes;
#pragma GCC unroll 8
    for (int load = 0; load + 1 < loads; ++load) add(load % kSums, row + kBytes * load);
    add(kSums - 1, row + args.row_bytes - kBytes);
  }
  std::uint32_t words[kSums * sizeof(Piece) / sizeof(std::uint32_t)];
  std::memcpy(words, sums, sizeof words);
  std::uint32_t sum = 0;
  for (const std::uint32_t word : words) sum += word;
  return sum;
}

}  // namespace

std::uint32_t ReadRows(const ReadRowsArgs& args) noexcept {
  if (args.row_bytes < 16) return Sum<Eight, 0>(args);
  if (args.row_bytes < 64) return Sum<Sixteen, 0>(args);
  switch ((args.row_bytes + 63) / 64) {
    case 1:
      return Sum<Line, 1>(args);
    case 2:
      return Sum<Line, 2>(args);
    case 3:
      return Sum<Line, 3>(args);
    case 4:
      return Sum<Line, 4>(args);
    case 5:
      return Sum<Line, 5>(args);
    case 8:
      return Sum<Line, 8>(args);
    default:
      return Sum<Line, 0>(args);
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
