#ifndef FEEDFAST_CPP_GATED_MLP_PACKED_MATRIX_H_
#define FEEDFAST_CPP_GATED_MLP_PACKED_MATRIX_H_

#include <cstdint>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/status.h"
#include "cpp/gated_mlp/gated_mlp_kernel.h"
#include "cpp/gated_mlp/precision.h"

namespace feedfast::gated_mlp {

// The most inputs of an int8 matrix: (q - zero) * w summed over them stays an int32.
inline constexpr std::int64_t kMostInt8Inputs = 65536;

// The most rows that go through a whole stack together. More rows read the weights less often from
// the L3 cache; fewer keep the buffers between layers in L2 (benchmarks/cpp/bench_gated_mlp.cc).
inline constexpr std::int64_t kBlockRows = 48;

// Calls body(begin, end) on the rows [begin, end) in blocks of nearly equal height, at most
// `most_rows` each.
template <typename Body>
void ForEachBlock(std::int64_t begin, std::int64_t end, std::int64_t most_rows, const Body& body) {
  const std::int64_t num_rows = end - begin;
  const std::int64_t num_blocks = (num_rows + most_rows - 1) / most_rows;
  for (std::int64_t i = 0; i < num_blocks; ++i)
    body(begin + i * num_rows / num_blocks, begin + (i + 1) * num_rows / num_blocks);
}

std::int64_t RoundUp(std::int64_t value, std::int64_t multiple) noexcept;

// Elements from one row of a buffer to the next: one cache line apart modulo the page, because rows
// of a power of two would share cache sets. 0 for rows without elements.
std::int64_t RowStride(std::int64_t size) noexcept;

// Rows given to each of `threads` threads, whole tiles of the kernels.
std::int64_t RowsPerThread(std::int64_t num_rows, int threads) noexcept;

// Values of k in one word.
std::int64_t GroupSize(Precision precision) noexcept;

// Words of a row of `size` values.
std::int64_t NumGroups(Precision precision, std::int64_t size) noexcept;

// W and bias in the layout of the kernels: panels of kPanelColumns columns, one after the other;
// the last panel is as wide as its columns rounded up to kColumnAlign. Inside a panel the groups of
// k follow each other, a word per column. Padding is zero.
struct PackedMatrix {
  Precision precision = Precision::kFp32;
  std::int64_t in = 0;
  std::int64_t padded_out = 0;
  // int8: the first `prefix` inputs have row scales of their own and fill prefix_groups groups.
  std::int64_t prefix = 0;
  std::int64_t prefix_groups = 0;
  std::int64_t num_groups = 0;
  AlignedBuffer<std::uint32_t> panels;      // [num_groups * padded_out]
  AlignedBuffer<float> bias;                // [padded_out]
  AlignedBuffer<float> scales;              // [padded_out]; int8 alone, as the sums
  AlignedBuffer<std::int32_t> prefix_sums;  // [padded_out]: sums of W[k, j] over the prefix
  AlignedBuffer<std::int32_t> own_sums;     // [padded_out]: and over the rest

  std::int64_t nbytes() const noexcept;
};

// An empty bias is zero. Requires: weights has in * out values, scales and sizes as checked by
// CheckWeights, prefix <= in.
PackedMatrix Pack(const WeightView& weights, Span<const float> bias, std::int64_t in,
                  std::int64_t out, std::int64_t prefix);

// InvalidArgument that begins with `where` and names the matrix: it does not have rows * columns
// values, or an int8 matrix has other than `columns` scales, one that is negative or not finite, or
// too many rows.
Status CheckWeights(const char* where, const char* name, const WeightView& weights,
                    std::int64_t rows, std::int64_t columns);

// The matrix's kernel on groups [group_begin, group_end); args.x .. args.rows and args.epilogue ..
// args.y_columns are the caller's, the rest is filled in from the matrix.
void RunDense(const PackedMatrix& matrix, std::int64_t group_begin, std::int64_t group_end,
              DenseArgs args) noexcept;

// The converter of a precision other than fp32.
void Convert(Precision precision, const ConvertArgs& args) noexcept;

}  // namespace feedfast::gated_mlp

#endif  // FEEDFAST_CPP_GATED_MLP_PACKED_MATRIX_H_
