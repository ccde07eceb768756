#include "cpp/gated_mlp/cross_network.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "cpp/common/parallel_for.h"

namespace feedfast {
namespace {

using gated_mlp::DenseArgs;
using gated_mlp::Epilogue;
using gated_mlp::PackedMatrix;
using gated_mlp::RowScale;

Status CheckLayer(const CrossLayer& layer, std::int64_t index, std::int64_t size) {
  const std::string where = "layer " + std::to_string(index) + ": ";
  if (layer.size < 1) return InvalidArgument(where, "size must be at least 1; got ", layer.size);
  if (layer.size != size)
    return InvalidArgument(where, "size is ", layer.size, ", but the layers before have ", size);
  if (layer.rank < 0) return InvalidArgument(where, "rank must be at least 0; got ", layer.rank);
  if (layer.rank == 0 && !layer.down.empty())
    return InvalidArgument(where, "down given with rank 0");
  if (layer.rank > 0) {
    if (layer.down.precision() != layer.weight.precision())
      return InvalidArgument(where, "down is ", PrecisionName(layer.down.precision()),
                             ", but weight is ", PrecisionName(layer.weight.precision()));
    FEEDFAST_RETURN_IF_ERROR(
        gated_mlp::CheckWeights(where.c_str(), "down", layer.down, size, layer.rank));
  }
  FEEDFAST_RETURN_IF_ERROR(gated_mlp::CheckWeights(where.c_str(), "weight", layer.weight,
                                                   layer.rank > 0 ? layer.rank : size, size));
  return gated_mlp::CheckWeights(where.c_str(), "bias", layer.bias, 1, size);
}

}  // namespace

// One block of rows on its way through the stack, and where it lives between products.
struct CrossNetwork::Block {
  std::int64_t num_rows;
  float* between[2];
  std::int64_t stride;
  float* low_rank;
  std::int64_t low_rank_stride;
  std::uint32_t* words;
  std::int64_t words_stride;
  RowScale* scales;
};

StatusOr<CrossNetwork> CrossNetwork::Create(Span<const CrossLayer> layers) {
  if (layers.empty()) return InvalidArgument("layers is empty; at least one layer is needed");
  CrossNetwork network;
  network.size_ = layers[0].size;
  for (std::int64_t i = 0; i < layers.size(); ++i)
    FEEDFAST_RETURN_IF_ERROR(CheckLayer(layers[i], i, network.size_));
  for (const CrossLayer& layer : layers) {
    PackedLayer packed;
    if (layer.rank > 0) packed.down = gated_mlp::Pack(layer.down, {}, layer.size, layer.rank, 0);
    packed.up = gated_mlp::Pack(layer.weight, layer.bias, layer.rank > 0 ? layer.rank : layer.size,
                                layer.size, 0);
    network.layers_.push_back(std::move(packed));
  }
  return network;
}

std::int64_t CrossNetwork::nbytes() const noexcept {
  std::int64_t bytes = 0;
  for (const PackedLayer& layer : layers_) bytes += layer.down.nbytes() + layer.up.nbytes();
  return bytes;
}

CrossWorkspace::CrossWorkspace(const CrossNetwork& network, std::int64_t num_rows, int threads)
    : threads_(threads), block_rows_(std::clamp<std::int64_t>(num_rows, 1, gated_mlp::kBlockRows)) {
  assert(threads >= 1);
  std::int64_t widest_rank = 0;
  std::int64_t most_words = 0;
  for (const CrossNetwork::PackedLayer& layer : network.layers_) {
    widest_rank = std::max(widest_rank, layer.down.padded_out);
    for (const PackedMatrix* matrix : {&layer.down, &layer.up})
      if (matrix->precision != Precision::kFp32)
        most_words = std::max(most_words, matrix->num_groups);
  }
  stride_ = gated_mlp::RowStride(network.size_);
  low_rank_stride_ = gated_mlp::RowStride(widest_rank);
  words_stride_ = gated_mlp::RowStride(most_words);
  floats_ = AlignedBuffer<float>(block_rows_ * (2 * stride_ + low_rank_stride_) * threads);
  if (most_words == 0) return;
  words_ = AlignedBuffer<std::uint32_t>(block_rows_ * words_stride_ * threads);
  row_scales_ = AlignedBuffer<RowScale>(block_rows_ * threads);
}

void CrossNetwork::Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
                           std::int64_t out_stride, CrossWorkspace& workspace) const {
  if (num_rows == 0) return;
  const std::int64_t most_rows = workspace.block_rows_;
  const std::int64_t share = gated_mlp::RowsPerThread(num_rows, workspace.threads_);
  const std::int64_t num_shares = (num_rows + share - 1) / share;
  // One range per thread, so that a range can own its part of the workspace.
  ParallelFor(num_shares, 1, workspace.threads_, [&](std::int64_t index, std::int64_t) {
    Block block{};
    block.stride = workspace.stride_;
    block.low_rank_stride = workspace.low_rank_stride_;
    block.between[0] =
        workspace.floats_.data() + index * most_rows * (2 * block.stride + block.low_rank_stride);
    block.between[1] = block.between[0] + most_rows * block.stride;
    block.low_rank = block.between[1] + most_rows * block.stride;
    if (workspace.words_stride_ > 0) {
      block.words_stride = workspace.words_stride_;
      block.words = workspace.words_.data() + index * most_rows * block.words_stride;
      block.scales = workspace.row_scales_.data() + index * most_rows;
    }
    const std::int64_t end = std::min(num_rows, (index + 1) * share);
    gated_mlp::ForEachBlock(
        index * share, end, most_rows, [&](std::int64_t row, std::int64_t row_end) {
          block.num_rows = row_end - row;
          RunBlock(block, x + row * x_stride, x_stride, out + row * out_stride, out_stride);
        });
  });
}

void CrossNetwork::RunBlock(const Block& block, const float* x, std::int64_t x_stride, float* out,
                            std::int64_t out_stride) const {
  // x W through the words of x in the precision of W; args has the epilogue.
  const auto multiply = [&](const PackedMatrix& matrix, const float* from, std::int64_t stride,
                            DenseArgs args) {
    args.x = from;
    args.x_stride = stride;
    if (matrix.precision != Precision::kFp32) {
      gated_mlp::Convert(matrix.precision, {nullptr, 0, from, stride, matrix.in, block.num_rows,
                                            block.words, block.words_stride, block.scales});
      args.x = block.words;
      args.x_stride = block.words_stride;
    }
    args.num_rows = block.num_rows;
    args.rows = block.scales;
    args.init = matrix.bias.data();
    gated_mlp::RunDense(matrix, 0, matrix.num_groups, args);
  };
  const float* input = x;
  std::int64_t input_stride = x_stride;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const PackedLayer& layer = layers_[i];
    const bool last = i + 1 == layers_.size();
    DenseArgs cross{};
    cross.epilogue = Epilogue::kCross;
    cross.hidden = x;
    cross.hidden_stride = x_stride;
    cross.addend = input;
    cross.addend_stride = input_stride;
    cross.y = last ? out : block.between[i % 2];
    cross.y_stride = last ? out_stride : block.stride;
    cross.y_columns = size_;
    if (layer.down.in > 0) {
      DenseArgs down{};
      down.epilogue = Epilogue::kStore;
      down.y = block.low_rank;
      down.y_stride = block.low_rank_stride;
      down.y_columns = layer.down.padded_out;
      multiply(layer.down, input, input_stride, down);
      multiply(layer.up, block.low_rank, block.low_rank_stride, cross);
    } else {
      multiply(layer.up, input, input_stride, cross);
    }
    input = cross.y;
    input_stride = cross.y_stride;
  }
}

}  // namespace feedfast
