#include "cpp/gated_mlp/gated_mlp.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "cpp/common/cpu_target.h"
#include "cpp/common/parallel_for.h"

namespace feedfast {
namespace gated_mlp {

FEEDFAST_DECLARE_KERNEL(void, SigmoidInPlace, (float* values, std::int64_t size));

namespace {
constexpr KernelTable<decltype(&scalar::SigmoidInPlace)> kSigmoid =
    FEEDFAST_KERNEL_TABLE(SigmoidInPlace);
}  // namespace

}  // namespace gated_mlp

namespace {

using gated_mlp::DenseArgs;
using gated_mlp::Epilogue;
using gated_mlp::PackedMatrix;
using gated_mlp::RowScale;

Status CheckLayer(const GatedLayer& layer, std::int64_t index, std::int64_t previous_out) {
  if (layer.in < 1 || layer.out < 1)
    return InvalidArgument("layer ", index, ": weight is [", layer.in, ", ", layer.out,
                           "]; both sizes must be at least 1");
  if (index > 0 && layer.in != previous_out)
    return InvalidArgument("layer ", index, ": weight has ", layer.in,
                           " rows, but the layer before it has ", previous_out, " outputs");
  const std::string where = "layer " + std::to_string(index) + ": ";
  const auto check = [&](const char* name, const WeightView& weights, std::int64_t rows,
                         std::int64_t columns) -> Status {
    if (weights.precision() != layer.weight.precision())
      return InvalidArgument(where, name, " is ", PrecisionName(weights.precision()),
                             ", but weight is ", PrecisionName(layer.weight.precision()));
    return gated_mlp::CheckWeights(where.c_str(), name, weights, rows, columns);
  };
  const auto check_bias = [&](const char* name, Span<const float> bias) {
    return gated_mlp::CheckWeights(where.c_str(), name, bias, 1, layer.out);
  };
  FEEDFAST_RETURN_IF_ERROR(check("weight", layer.weight, layer.in, layer.out));
  FEEDFAST_RETURN_IF_ERROR(check_bias("bias", layer.bias));
  if (layer.gate == Gate::kNone) {
    if (layer.gate_rank != 0 || !layer.gate_down.empty() || !layer.gate_weight.empty() ||
        !layer.gate_bias.empty())
      return InvalidArgument(where, "gate arrays given to a layer without a gate");
    return OkStatus();
  }
  if (layer.gate_rank < 0)
    return InvalidArgument(where, "gate_rank must be at least 0; got ", layer.gate_rank);
  const std::int64_t source = layer.gate == Gate::kHidden ? layer.out : layer.in;
  const bool low_rank = layer.gate_rank > 0;
  if (low_rank)
    FEEDFAST_RETURN_IF_ERROR(check("gate_down", layer.gate_down, source, layer.gate_rank));
  else if (!layer.gate_down.empty())
    return InvalidArgument(where, "gate_down given with gate_rank 0");
  FEEDFAST_RETURN_IF_ERROR(
      check("gate_weight", layer.gate_weight, low_rank ? layer.gate_rank : source, layer.out));
  return check_bias("gate_bias", layer.gate_bias);
}

Epilogue EpilogueOf(Activation activation) {
  return activation == Activation::kRelu ? Epilogue::kRelu : Epilogue::kStore;
}

}  // namespace

StatusOr<Gate> ParseGate(std::string_view name) {
  if (name == "none") return Gate::kNone;
  if (name == "hidden") return Gate::kHidden;
  if (name == "input") return Gate::kInput;
  return InvalidArgument("gate '", name, "' is unknown; allowed: none, hidden, input");
}

StatusOr<Activation> ParseActivation(std::string_view name) {
  if (name == "linear") return Activation::kLinear;
  if (name == "relu") return Activation::kRelu;
  return InvalidArgument("activation '", name, "' is unknown; allowed: linear, relu");
}

// One block of rows on its way through the stack, and where it lives between products.
struct GatedMlp::Block {
  const SharedInput* shared;  // null: the rows are whole
  std::int64_t num_rows;
  float* hidden[2];
  std::int64_t hidden_stride;
  float* low_rank;
  std::int64_t low_rank_stride;
  float* prefix;  // sums of the first num_shared() inputs of whole rows
  std::int64_t prefix_stride;
  std::uint32_t* words;  // the input of a product in bf16 or int8
  std::int64_t words_stride;
  RowScale* prefix_scales;
  RowScale* own_scales;
};

StatusOr<GatedMlp> GatedMlp::Create(Span<const GatedLayer> layers, std::int64_t num_shared) {
  if (layers.empty()) return InvalidArgument("layers is empty; at least one layer is needed");
  for (std::int64_t i = 0; i < layers.size(); ++i)
    FEEDFAST_RETURN_IF_ERROR(CheckLayer(layers[i], i, i > 0 ? layers[i - 1].out : 0));
  if (num_shared < 0 || num_shared > layers[0].in)
    return InvalidArgument("num_shared must be between 0 and the ", layers[0].in,
                           " inputs of the first layer; got ", num_shared);
  GatedMlp mlp;
  mlp.num_shared_ = num_shared;
  for (const GatedLayer& layer : layers) {
    const std::int64_t prefix = mlp.layers_.empty() ? num_shared : 0;
    PackedLayer packed;
    packed.in = layer.in;
    packed.out = layer.out;
    packed.activation = layer.activation;
    packed.gate = layer.gate;
    packed.main = gated_mlp::Pack(layer.weight, layer.bias, layer.in, layer.out, prefix);
    if (layer.gate != Gate::kNone) {
      const bool from_input = layer.gate == Gate::kInput;
      std::int64_t source = from_input ? layer.in : layer.out;
      std::int64_t gate_prefix = from_input ? prefix : 0;
      if (layer.gate_rank > 0) {
        packed.gate_down =
            gated_mlp::Pack(layer.gate_down, {}, source, layer.gate_rank, gate_prefix);
        source = layer.gate_rank;
        gate_prefix = 0;
      }
      packed.gate_up =
          gated_mlp::Pack(layer.gate_weight, layer.gate_bias, source, layer.out, gate_prefix);
    }
    mlp.layers_.push_back(std::move(packed));
  }
  return mlp;
}

bool GatedMlp::AcceptsShared(std::int64_t num_shared) const noexcept {
  if (layers_.front().main.precision == Precision::kInt8) return num_shared == num_shared_;
  return num_shared >= 0 && num_shared <= num_inputs();
}

std::int64_t GatedMlp::nbytes() const noexcept {
  std::int64_t bytes = 0;
  for (const PackedLayer& layer : layers_)
    for (const PackedMatrix* matrix : {&layer.main, &layer.gate_down, &layer.gate_up})
      bytes += matrix->nbytes();
  return bytes;
}

GatedMlpWorkspace::GatedMlpWorkspace(const GatedMlp& mlp, std::int64_t num_rows, int threads)
    : threads_(threads), block_rows_(std::clamp<std::int64_t>(num_rows, 1, gated_mlp::kBlockRows)) {
  assert(threads >= 1);
  std::int64_t widest = 0;
  std::int64_t widest_rank = 0;
  std::int64_t most_words = 0;
  std::int64_t widest_prefix = 0;
  for (const GatedMlp::PackedLayer& layer : mlp.layers_) {
    widest = std::max(widest, layer.main.padded_out);
    widest_rank = std::max(widest_rank, layer.gate_down.padded_out);
    for (const PackedMatrix* matrix : {&layer.main, &layer.gate_down, &layer.gate_up}) {
      if (matrix->precision != Precision::kFp32)
        most_words = std::max(most_words, matrix->num_groups);
      if (matrix->prefix_groups > 0) widest_prefix = std::max(widest_prefix, matrix->padded_out);
    }
  }
  hidden_stride_ = gated_mlp::RowStride(widest);
  low_rank_stride_ = gated_mlp::RowStride(widest_rank);
  prefix_stride_ = gated_mlp::RowStride(widest_prefix);
  words_stride_ = gated_mlp::RowStride(most_words);
  floats_per_thread_ = block_rows_ * (2 * hidden_stride_ + low_rank_stride_ + prefix_stride_);
  floats_ = AlignedBuffer<float>(floats_per_thread_ * threads);
  if (most_words == 0) return;
  words_ = AlignedBuffer<std::uint32_t>(block_rows_ * words_stride_ * threads);
  row_scales_ = AlignedBuffer<RowScale>(2 * block_rows_ * threads);
}

void GatedMlp::Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
                       std::int64_t out_stride, GatedMlpWorkspace& workspace) const {
  Run(nullptr, x, num_rows, x_stride, out, out_stride, workspace);
}

void GatedMlp::PrepareShared(Span<const float> x_shared, SharedInput& shared) const {
  assert(AcceptsShared(x_shared.size()));
  const PackedLayer& first = layers_.front();
  const Precision precision = first.main.precision;
  shared.num_shared_ = x_shared.size();
  shared.num_lead_ = precision == Precision::kBf16 ? x_shared.size() % 2 : 0;
  if (shared.num_lead_ > 0) shared.lead_ = x_shared[x_shared.size() - 1];
  const std::int64_t num_summed = x_shared.size() - shared.num_lead_;
  shared.num_groups_ = gated_mlp::NumGroups(precision, num_summed);
  const void* words = x_shared.data();
  RowScale scale{0, 0};
  if (precision != Precision::kFp32) {
    if (shared.words_.size() != shared.num_groups_)
      shared.words_ = AlignedBuffer<std::uint32_t>(shared.num_groups_);
    words = shared.words_.data();
    gated_mlp::Convert(precision, {nullptr, 0, x_shared.data(), 0, num_summed, 1,
                                   shared.words_.data(), 0, &scale});
  }
  const auto sum = [&](const PackedMatrix& matrix, AlignedBuffer<float>& sums) {
    if (sums.size() != matrix.padded_out) sums = AlignedBuffer<float>(matrix.padded_out);
    DenseArgs args{};
    args.x = words;
    args.num_rows = 1;
    args.rows = &scale;
    args.init = matrix.bias.data();
    args.epilogue = Epilogue::kStore;
    args.hidden = args.y = sums.data();
    args.y_columns = matrix.padded_out;
    gated_mlp::RunDense(matrix, 0, shared.num_groups_, args);
  };
  sum(first.main, shared.sums_);
  if (first.gate == Gate::kInput) sum(FirstGateMatrix(first), shared.gate_sums_);
}

void GatedMlp::ForwardShared(const SharedInput& shared, const float* x, std::int64_t num_rows,
                             std::int64_t x_stride, float* out, std::int64_t out_stride,
                             GatedMlpWorkspace& workspace) const {
  assert(shared.sums_.size() == layers_.front().main.padded_out);
  Run(&shared, x, num_rows, x_stride, out, out_stride, workspace);
}

void GatedMlp::Run(const SharedInput* shared, const float* x, std::int64_t num_rows,
                   std::int64_t x_stride, float* out, std::int64_t out_stride,
                   GatedMlpWorkspace& workspace) const {
  const std::int64_t share = gated_mlp::RowsPerThread(num_rows, workspace.threads_);
  const std::int64_t most_rows = workspace.block_rows_;
  if (num_rows == 0) return;
  // One range per thread, so that a range can own its part of the workspace.
  const std::int64_t num_shares = (num_rows + share - 1) / share;
  ParallelFor(num_shares, 1, workspace.threads_, [&](std::int64_t index, std::int64_t) {
    float* floats = workspace.floats_.data() + index * workspace.floats_per_thread_;
    const auto take = [&](std::int64_t stride) {
      return std::exchange(floats, floats + most_rows * stride);
    };
    Block block{};
    block.shared = shared;
    block.hidden_stride = workspace.hidden_stride_;
    block.hidden[0] = take(block.hidden_stride);
    block.hidden[1] = take(block.hidden_stride);
    block.low_rank_stride = workspace.low_rank_stride_;
    block.low_rank = take(block.low_rank_stride);
    block.prefix_stride = workspace.prefix_stride_;
    block.prefix = take(block.prefix_stride);
    if (workspace.words_stride_ > 0) {
      block.words_stride = workspace.words_stride_;
      block.words = workspace.words_.data() + index * most_rows * block.words_stride;
      block.prefix_scales = workspace.row_scales_.data() + 2 * index * most_rows;
      block.own_scales = block.prefix_scales + most_rows;
    }
    const std::int64_t end = std::min(num_rows, (index + 1) * share);
    gated_mlp::ForEachBlock(
        index * share, end, most_rows, [&](std::int64_t row, std::int64_t row_end) {
          block.num_rows = row_end - row;
          RunBlock(block, x + row * x_stride, x_stride, out + row * out_stride, out_stride);
        });
  });
}

void GatedMlp::RunBlock(const Block& block, const float* x, std::int64_t x_stride, float* out,
                        std::int64_t out_stride) const {
  // The words that the next product reads.
  const void* words = nullptr;
  std::int64_t words_stride = 0;
  const auto convert_part = [&](Precision precision, const float* lead, std::int64_t num_lead,
                                const float* from, std::int64_t stride, std::int64_t size,
                                std::int64_t first_group, RowScale* scales) {
    gated_mlp::Convert(precision, {lead, num_lead, from, stride, size, block.num_rows,
                                   block.words + first_group, block.words_stride, scales});
  };
  const auto convert = [&](const PackedMatrix& matrix, const float* from, std::int64_t stride) {
    words = from;
    words_stride = stride;
    if (matrix.precision == Precision::kFp32) return;
    words = block.words;
    words_stride = block.words_stride;
    if (from == x && block.shared != nullptr) {
      const SharedInput& shared = *block.shared;
      convert_part(matrix.precision, &shared.lead_, shared.num_lead_, from, stride,
                   matrix.in - shared.num_shared_, 0, block.own_scales);
      return;
    }
    if (matrix.prefix > 0)
      convert_part(matrix.precision, nullptr, 0, from, stride, matrix.prefix, 0,
                   block.prefix_scales);
    convert_part(matrix.precision, nullptr, 0, from + matrix.prefix, stride,
                 matrix.in - matrix.prefix, matrix.prefix_groups, block.own_scales);
  };
  // to = epilogue(the words times the matrix). `sums` are the shared terms of the first layer.
  const auto multiply = [&](const PackedMatrix& matrix, const AlignedBuffer<float>* sums,
                            Epilogue epilogue, const float* hidden, float* to,
                            std::int64_t to_stride, std::int64_t to_columns) {
    DenseArgs args{};
    args.x = words;
    args.x_stride = words_stride;
    args.num_rows = block.num_rows;
    args.init = sums != nullptr ? sums->data() : matrix.bias.data();
    std::int64_t begin = sums != nullptr ? block.shared->num_groups_ : 0;
    if (sums == nullptr && matrix.prefix_groups > 0) {
      args.rows = block.prefix_scales;
      args.epilogue = Epilogue::kStore;
      args.hidden = args.y = block.prefix;
      args.hidden_stride = args.y_stride = block.prefix_stride;
      args.y_columns = matrix.padded_out;
      gated_mlp::RunDense(matrix, 0, matrix.prefix_groups, args);
      begin = matrix.prefix_groups;
      args.x = block.words + begin;
      args.init = block.prefix;
      args.init_stride = block.prefix_stride;
    }
    args.rows = block.own_scales;
    args.epilogue = epilogue;
    args.hidden = hidden;
    args.hidden_stride = block.hidden_stride;
    args.y = to;
    args.y_stride = to_stride;
    args.y_columns = to_columns;
    gated_mlp::RunDense(matrix, begin, matrix.num_groups, args);
  };

  // Where a layer reads from: the caller's x first, then the hidden buffer the layer before wrote.
  const float* input = x;
  std::int64_t input_stride = x_stride;
  int free = 0;  // the hidden buffer that `input` is not in
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const PackedLayer& layer = layers_[i];
    const bool last = i + 1 == layers_.size();
    const bool split = i == 0 && block.shared != nullptr;
    const auto* sums = split ? &block.shared->sums_ : nullptr;
    const Epilogue activation = EpilogueOf(layer.activation);
    float* hidden = block.hidden[free];
    float* to = last ? out : hidden;
    const std::int64_t to_stride = last ? out_stride : block.hidden_stride;
    const std::int64_t to_columns = last ? layer.out : layer.main.padded_out;
    convert(layer.main, input, input_stride);
    if (layer.gate == Gate::kNone) {
      multiply(layer.main, sums, activation, hidden, to, to_stride, to_columns);
    } else {
      multiply(layer.main, sums, activation, hidden, hidden, block.hidden_stride,
               layer.main.padded_out);
      const bool from_input = layer.gate == Gate::kInput;
      const auto* gate_sums = split && from_input ? &block.shared->gate_sums_ : nullptr;
      // An input gate reads the words that the product before has read.
      if (!from_input) convert(FirstGateMatrix(layer), hidden, block.hidden_stride);
      if (layer.gate_down.in > 0) {
        multiply(layer.gate_down, gate_sums, Epilogue::kStore, hidden, block.low_rank,
                 block.low_rank_stride, layer.gate_down.padded_out);
        convert(layer.gate_up, block.low_rank, block.low_rank_stride);
        gate_sums = nullptr;
      } else if (words == hidden && !last) {
        // Every column of the gate reads all of `hidden`: write beside it.
        free = 1 - free;
        to = block.hidden[free];
      }
      multiply(layer.gate_up, gate_sums, Epilogue::kGate, hidden, to, to_stride, to_columns);
    }
    input = to;
    input_stride = block.hidden_stride;
    free = 1 - free;
  }
}

void Sigmoid(Span<float> values) noexcept {
  gated_mlp::kSigmoid.Get()(values.data(), values.size());
}

}  // namespace feedfast
