#ifndef FEEDFAST_CPP_GATED_MLP_CROSS_NETWORK_H_
#define FEEDFAST_CPP_GATED_MLP_CROSS_NETWORK_H_

#include <cstdint>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/gated_mlp/packed_matrix.h"
#include "cpp/gated_mlp/precision.h"

namespace feedfast {

// One cross layer of DCN V2 (arXiv:2008.13535, equations 1 and 2) as views; x_0 is the network's
// input, x_l the layer's, all rows [size]:
//   x_{l+1} = x_0 * (x_l down weight + bias) + x_l
// where the factor `down` is left out when rank is 0. Matrices are row-major and of one precision.
struct CrossLayer {
  std::int64_t size = 0;
  std::int64_t rank = 0;   // 0: full rank
  WeightView down;         // [size, rank]; empty at full rank
  WeightView weight;       // [rank, size]; [size, size] at full rank
  Span<const float> bias;  // [size]
};

class CrossWorkspace;

// A stack of cross layers whose weights are copied into the kernels' layout once. Immutable: any
// number of threads may call Forward at a time, each with its own workspace.
//
// Numerics: products as in GatedMlp, in the layer's precision (an int8 layer reads each row of x_l
// in steps of its own range); x_0 * s + x_l is float32, fused where the target can. So the bits of
// a row's output depend on that row, the weights and the CPU target alone.
class CrossNetwork {
 public:
  // Copies and packs the layers. InvalidArgument, naming the layer: there is no layer, sizes differ
  // or are below 1, an array has the wrong length, a layer mixes precisions, an int8 scale is
  // negative or not finite.
  static StatusOr<CrossNetwork> Create(Span<const CrossLayer> layers);

  // Inputs, and outputs, of a row.
  std::int64_t size() const noexcept { return size_; }
  std::int64_t num_layers() const noexcept { return static_cast<std::int64_t>(layers_.size()); }
  // Bytes of the packed weights, scales and biases.
  std::int64_t nbytes() const noexcept;

  // out[r, :] = the stack applied to x[r, :]. Row r of x starts at x + r * x_stride, row r of out
  // at out + r * out_stride. Splits the rows over the workspace's threads. No rows: nothing is
  // done. Requires: workspace was made for this network and num_rows or more; strides cover a row;
  // out does not overlap x.
  void Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
               std::int64_t out_stride, CrossWorkspace& workspace) const;

 private:
  friend class CrossWorkspace;
  struct PackedLayer {
    gated_mlp::PackedMatrix down;  // empty at full rank
    gated_mlp::PackedMatrix up;
  };
  struct Block;

  void RunBlock(const Block& block, const float* x, std::int64_t x_stride, float* out,
                std::int64_t out_stride) const;

  std::int64_t size_ = 0;
  std::vector<PackedLayer> layers_;
};

// Scratch memory for calls of one network with up to `num_rows` rows on up to `threads` threads;
// its size stops growing at a fixed number of rows per thread. One call uses it at a time.
class CrossWorkspace {
 public:
  CrossWorkspace(const CrossNetwork& network, std::int64_t num_rows, int threads = 1);

  int threads() const noexcept { return threads_; }

 private:
  friend class CrossNetwork;
  int threads_;
  std::int64_t block_rows_;       // rows that go through the stack together
  std::int64_t stride_;           // floats per row of the two buffers between layers
  std::int64_t low_rank_stride_;  // floats per row of the low-rank buffer
  std::int64_t words_stride_;     // words per row of converted inputs
  AlignedBuffer<float> floats_;
  AlignedBuffer<std::uint32_t> words_;
  AlignedBuffer<gated_mlp::RowScale> row_scales_;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_CROSS_NETWORK_H_
