#include "cpp/gated_mlp/gated_mlp.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "cpp/common/cpu_target.h"
#include "cpp/common/parallel_for.h"
#include "cpp/gated_mlp/gated_mlp_kernel.h"

namespace feedfast {
namespace gated_mlp {

FEEDFAST_DECLARE_KERNEL(void, Dense, (const DenseArgs& args));
FEEDFAST_DECLARE_KERNEL(void, SigmoidInPlace, (float* values, std::int64_t size));

namespace {
constexpr KernelTable<decltype(&scalar::Dense)> kDense = FEEDFAST_KERNEL_TABLE(Dense);
constexpr KernelTable<decltype(&scalar::SigmoidInPlace)> kSigmoid =
    FEEDFAST_KERNEL_TABLE(SigmoidInPlace);
}  // namespace

}  // namespace gated_mlp

namespace {

using gated_mlp::Epilogue;
using gated_mlp::kColumnAlign;
using gated_mlp::kPanelColumns;

// Rows that go through the whole stack together. More rows read the weights less often from the
// L3 cache; fewer keep the hidden buffers in L2 (benchmarks/cpp/bench_gated_mlp.cc).
constexpr std::int64_t kBlockRows = 96;
// Shares of the rows given to threads are multiples of this, the tallest tile.
constexpr std::int64_t kShareAlign = 6;

std::int64_t RoundUp(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

Status CheckSize(std::int64_t layer, const char* name, Span<const float> array, std::int64_t rows,
                 std::int64_t columns) {
  // Without multiplying: both sizes come from the caller.
  if (array.size() % columns == 0 && array.size() / columns == rows) return OkStatus();
  return InvalidArgument("layer ", layer, ": ", name, " has ", array.size(), " values; expected ",
                         rows, " x ", columns);
}

Status CheckLayer(const GatedLayer& layer, std::int64_t index, std::int64_t previous_out) {
  if (layer.in < 1 || layer.out < 1)
    return InvalidArgument("layer ", index, ": weight is [", layer.in, ", ", layer.out,
                           "]; both sizes must be at least 1");
  if (index > 0 && layer.in != previous_out)
    return InvalidArgument("layer ", index, ": weight has ", layer.in,
                           " rows, but the layer before it has ", previous_out, " outputs");
  FEEDFAST_RETURN_IF_ERROR(CheckSize(index, "weight", layer.weight, layer.in, layer.out));
  FEEDFAST_RETURN_IF_ERROR(CheckSize(index, "bias", layer.bias, 1, layer.out));
  if (layer.gate == Gate::kNone) {
    if (layer.gate_rank != 0 || !layer.gate_down.empty() || !layer.gate_weight.empty() ||
        !layer.gate_bias.empty())
      return InvalidArgument("layer ", index, ": gate arrays given to a layer without a gate");
    return OkStatus();
  }
  if (layer.gate_rank < 0)
    return InvalidArgument("layer ", index, ": gate_rank must be at least 0; got ",
                           layer.gate_rank);
  const std::int64_t source = layer.gate == Gate::kHidden ? layer.out : layer.in;
  const bool low_rank = layer.gate_rank > 0;
  if (low_rank)
    FEEDFAST_RETURN_IF_ERROR(
        CheckSize(index, "gate_down", layer.gate_down, source, layer.gate_rank));
  else if (!layer.gate_down.empty())
    return InvalidArgument("layer ", index, ": gate_down given with gate_rank 0");
  FEEDFAST_RETURN_IF_ERROR(CheckSize(index, "gate_weight", layer.gate_weight,
                                     low_rank ? layer.gate_rank : source, layer.out));
  return CheckSize(index, "gate_bias", layer.gate_bias, 1, layer.out);
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

// Where the rows of one block live between layers.
struct GatedMlp::Buffers {
  float* hidden[2];
  std::int64_t hidden_stride;
  float* low_rank;
  std::int64_t low_rank_stride;
};

GatedMlp::PackedMatrix GatedMlp::Pack(Span<const float> matrix, Span<const float> bias,
                                      std::int64_t in, std::int64_t out) {
  PackedMatrix packed;
  packed.in = in;
  packed.padded_out = RoundUp(out, kColumnAlign);
  packed.panels = AlignedBuffer<float>(in * packed.padded_out);
  packed.bias = AlignedBuffer<float>(packed.padded_out);
  std::copy(bias.begin(), bias.end(), packed.bias.data());
  for (std::int64_t first = 0; first < out; first += kPanelColumns) {
    const std::int64_t width = std::min(kPanelColumns, packed.padded_out - first);
    const std::int64_t columns = std::min(kPanelColumns, out - first);
    float* panel = packed.panels.data() + first * in;
    for (std::int64_t k = 0; k < in; ++k)
      std::memcpy(panel + k * width, matrix.data() + k * out + first,
                  static_cast<std::size_t>(columns) * sizeof(float));
  }
  return packed;
}

StatusOr<GatedMlp> GatedMlp::Create(Span<const GatedLayer> layers) {
  if (layers.empty()) return InvalidArgument("layers is empty; at least one layer is needed");
  for (std::int64_t i = 0; i < layers.size(); ++i)
    FEEDFAST_RETURN_IF_ERROR(CheckLayer(layers[i], i, i > 0 ? layers[i - 1].out : 0));
  GatedMlp mlp;
  for (const GatedLayer& layer : layers) {
    PackedLayer packed;
    packed.in = layer.in;
    packed.out = layer.out;
    packed.activation = layer.activation;
    packed.gate = layer.gate;
    packed.main = Pack(layer.weight, layer.bias, layer.in, layer.out);
    if (layer.gate != Gate::kNone) {
      std::int64_t source = layer.gate == Gate::kHidden ? layer.out : layer.in;
      if (layer.gate_rank > 0) {
        packed.gate_down = Pack(layer.gate_down, {}, source, layer.gate_rank);
        source = layer.gate_rank;
      }
      packed.gate_up = Pack(layer.gate_weight, layer.gate_bias, source, layer.out);
    }
    mlp.layers_.push_back(std::move(packed));
  }
  return mlp;
}

std::int64_t GatedMlp::nbytes() const noexcept {
  std::int64_t floats = 0;
  for (const PackedLayer& layer : layers_)
    for (const PackedMatrix* matrix : {&layer.main, &layer.gate_down, &layer.gate_up})
      floats += matrix->panels.size() + matrix->bias.size();
  return floats * static_cast<std::int64_t>(sizeof(float));
}

GatedMlpWorkspace::GatedMlpWorkspace(const GatedMlp& mlp, std::int64_t num_rows, int threads)
    : threads_(threads), block_rows_(std::clamp<std::int64_t>(num_rows, 1, kBlockRows)) {
  assert(threads >= 1);
  std::int64_t widest = 0;
  std::int64_t widest_rank = 0;
  for (const GatedMlp::PackedLayer& layer : mlp.layers_) {
    widest = std::max(widest, layer.main.padded_out);
    widest_rank = std::max(widest_rank, layer.gate_down.padded_out);
  }
  // Rows one cache line apart modulo the page: rows of a power of two would share cache sets.
  hidden_stride_ = widest + kColumnAlign;
  low_rank_stride_ = widest_rank > 0 ? widest_rank + kColumnAlign : 0;
  floats_per_thread_ = block_rows_ * (2 * hidden_stride_ + low_rank_stride_);
  floats_ = AlignedBuffer<float>(floats_per_thread_ * threads);
}

void GatedMlp::Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
                       std::int64_t out_stride, GatedMlpWorkspace& workspace) const {
  Run(nullptr, x, num_rows, x_stride, out, out_stride, workspace);
}

void GatedMlp::PrepareShared(Span<const float> x_shared, SharedInput& shared) const {
  assert(x_shared.size() <= num_inputs());
  const auto sum = [&](const PackedMatrix& matrix, AlignedBuffer<float>& sums) {
    if (sums.size() != matrix.padded_out) sums = AlignedBuffer<float>(matrix.padded_out);
    gated_mlp::kDense.Get()({x_shared.data(), x_shared.size(), 1, matrix.panels.data(), matrix.in,
                             0, x_shared.size(), matrix.padded_out, matrix.bias.data(),
                             Epilogue::kStore, sums.data(), 0, sums.data(), matrix.padded_out,
                             matrix.padded_out});
  };
  const PackedLayer& first = layers_.front();
  shared.num_shared_ = x_shared.size();
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
  const std::int64_t threads = workspace.threads_;
  const std::int64_t share = RoundUp((num_rows + threads - 1) / threads, kShareAlign);
  const std::int64_t block = workspace.block_rows_;
  if (num_rows == 0) return;
  // One range per thread, so that a range can own its part of the workspace.
  const std::int64_t num_shares = (num_rows + share - 1) / share;
  ParallelFor(num_shares, 1, workspace.threads_, [&](std::int64_t index, std::int64_t) {
    float* floats = workspace.floats_.data() + index * workspace.floats_per_thread_;
    const Buffers buffers{{floats, floats + block * workspace.hidden_stride_},
                          workspace.hidden_stride_,
                          floats + 2 * block * workspace.hidden_stride_,
                          workspace.low_rank_stride_};
    const std::int64_t end = std::min(num_rows, (index + 1) * share);
    for (std::int64_t row = index * share; row < end; row += block)
      RunBlock(shared, x + row * x_stride, std::min(block, end - row), x_stride,
               out + row * out_stride, out_stride, buffers);
  });
}

void GatedMlp::RunBlock(const SharedInput* shared, const float* x, std::int64_t num_rows,
                        std::int64_t x_stride, float* out, std::int64_t out_stride,
                        const Buffers& buffers) const {
  const auto dense = gated_mlp::kDense.Get();
  // Where a layer reads from: the caller's x first, then the hidden buffer the layer before wrote.
  const float* input = x;
  std::int64_t input_stride = x_stride;
  int free = 0;  // the hidden buffer that `input` is not in
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const PackedLayer& layer = layers_[i];
    const bool last = i + 1 == layers_.size();
    const bool split = i == 0 && shared != nullptr;
    const auto apply = [&](const PackedMatrix& matrix, const float* from, std::int64_t from_stride,
                           const AlignedBuffer<float>* sums, Epilogue epilogue, const float* hidden,
                           float* to, std::int64_t to_stride, std::int64_t to_columns) {
      dense({from, from_stride, num_rows, matrix.panels.data(), matrix.in,
             sums != nullptr ? shared->num_shared_ : 0, matrix.in, matrix.padded_out,
             sums != nullptr ? sums->data() : matrix.bias.data(), epilogue, hidden,
             buffers.hidden_stride, to, to_stride, to_columns});
    };
    const auto* sums = split ? &shared->sums_ : nullptr;
    const Epilogue activation = EpilogueOf(layer.activation);
    float* hidden = buffers.hidden[free];
    float* to = last ? out : hidden;
    const std::int64_t to_stride = last ? out_stride : buffers.hidden_stride;
    const std::int64_t to_columns = last ? layer.out : layer.main.padded_out;
    if (layer.gate == Gate::kNone) {
      apply(layer.main, input, input_stride, sums, activation, hidden, to, to_stride, to_columns);
    } else {
      apply(layer.main, input, input_stride, sums, activation, hidden, hidden,
            buffers.hidden_stride, layer.main.padded_out);
      const bool from_input = layer.gate == Gate::kInput;
      const float* source = from_input ? input : hidden;
      std::int64_t source_stride = from_input ? input_stride : buffers.hidden_stride;
      const auto* gate_sums = split && from_input ? &shared->gate_sums_ : nullptr;
      if (layer.gate_down.in > 0) {
        apply(layer.gate_down, source, source_stride, gate_sums, Epilogue::kStore, hidden,
              buffers.low_rank, buffers.low_rank_stride, layer.gate_down.padded_out);
        source = buffers.low_rank;
        source_stride = buffers.low_rank_stride;
        gate_sums = nullptr;
      } else if (!from_input && !last) {
        // Every column of the gate reads all of `hidden`: write beside it.
        free = 1 - free;
        to = buffers.hidden[free];
      }
      apply(layer.gate_up, source, source_stride, gate_sums, Epilogue::kGate, hidden, to, to_stride,
            to_columns);
    }
    input = to;
    input_stride = buffers.hidden_stride;
    free = 1 - free;
  }
}

void Sigmoid(Span<float> values) noexcept {
  gated_mlp::kSigmoid.Get()(values.data(), values.size());
}

}  // namespace feedfast
