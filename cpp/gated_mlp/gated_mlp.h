#ifndef FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_
#define FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/gated_mlp/packed_matrix.h"
#include "cpp/gated_mlp/precision.h"

namespace feedfast {

enum class Gate {
  kNone,
  kHidden,  // the gate is computed from the layer's own activation (GateNet, arXiv:2007.03519)
  kInput,   // the gate is computed from the layer's input (GLU, arXiv:1612.08083)
};

enum class Activation { kLinear, kRelu };

// "none", "hidden" or "input".
StatusOr<Gate> ParseGate(std::string_view name);
// "linear" or "relu".
StatusOr<Activation> ParseActivation(std::string_view name);

// One dense layer, as views; x is a row [in], y a row [out]:
//   h = activation(x weight + bias)
//   y = h                                                      Gate::kNone
//   y = h * sigmoid(s gate_down gate_weight + gate_bias)       otherwise,
// where s is h (Gate::kHidden) or x (Gate::kInput), and the factor gate_down is left out when
// gate_rank is 0. Matrices are row-major; the three of a layer have one precision.
struct GatedLayer {
  std::int64_t in = 0;
  std::int64_t out = 0;
  Activation activation = Activation::kRelu;
  Gate gate = Gate::kNone;
  std::int64_t gate_rank = 0;   // 0: full rank
  WeightView weight;            // [in, out]
  Span<const float> bias;       // [out]
  WeightView gate_down;         // [size of s, gate_rank]; empty at full rank
  WeightView gate_weight;       // [gate_rank, out]; [size of s, out] at full rank
  Span<const float> gate_bias;  // [out]; the three are empty without a gate
};

class GatedMlpWorkspace;

// What the rows of one request have in common: the terms of the first layer's sums that the first
// num_shared() inputs give, made once by GatedMlp::PrepareShared and read by any number of
// ForwardShared calls. Reusing one object saves the allocation.
class SharedInput {
 public:
  std::int64_t num_shared() const noexcept { return num_shared_; }

 private:
  friend class GatedMlp;
  std::int64_t num_shared_ = 0;
  // Words of inputs that the sums cover, and the shared inputs behind them: a bf16 layer adds
  // pairs, so the last input of an odd number meets the first one of each row.
  std::int64_t num_groups_ = 0;
  std::int64_t num_lead_ = 0;
  float lead_ = 0;
  AlignedBuffer<std::uint32_t> words_;
  AlignedBuffer<float> sums_;       // [padded out]
  AlignedBuffer<float> gate_sums_;  // [padded gate columns]; Gate::kInput alone
};

// A stack of gated layers whose weights are copied into the kernels' layout once. Immutable: any
// number of threads may call Forward at a time, each with its own workspace.
//
// Numerics: every product sum x W + b is one accumulator that adds its terms in ascending order of
// the input index; bias, activation, sigmoid and gate are float32, lane by lane.
// - fp32: a float32 accumulator that starts as the bias. The scalar target has no fused
//   multiply-add.
// - bf16: x is rounded to bfloat16 (ties to even); products are exact, the accumulator is float32
//   and starts as the bias. The avx512_bf16 target adds pairs of terms with vdpbf16ps, which takes
//   subnormal numbers for zero; the other targets add one term at a time and agree bit for bit.
// - int8: x = scale * (q - zero) with q in 0..255, scale = (max - min) / 255 of the row, its zero
//   included: rows of relu outputs use all 256 steps. The sum of products is an exact integer, the
//   same on every target for the same inputs; it is scaled and added to the bias in float32. A
//   range below 1e-30 reads as zero. The first num_shared() inputs of an int8 first layer have a
//   scale of their own, so that they can be summed once per request.
// So the bits of a row's output depend on that row, the weights, num_shared() and the CPU target
// alone: not on the number of rows, the row's position, the thread count or whether the prefix came
// from PrepareShared. Between targets the last places differ. NaN and infinities propagate as IEEE
// 754 says, and relu(NaN) is NaN; in an int8 layer an input that is NaN or infinite makes every
// output of its row NaN.
class GatedMlp {
 public:
  // Copies and packs the layers. InvalidArgument, naming the layer: there is no layer, a size is
  // below 1, an array has the wrong length, a layer's `in` is not the `out` before it, a low rank
  // or gate arrays come without a gate, a layer mixes precisions, an int8 scale is negative or not
  // finite, num_shared is not between 0 and the first layer's inputs.
  static StatusOr<GatedMlp> Create(Span<const GatedLayer> layers, std::int64_t num_shared = 0);

  std::int64_t num_inputs() const noexcept { return layers_.front().in; }
  std::int64_t num_outputs() const noexcept { return layers_.back().out; }
  std::int64_t num_layers() const noexcept { return static_cast<std::int64_t>(layers_.size()); }
  // Inputs at the front of a row that an int8 first layer quantises on their own.
  std::int64_t num_shared() const noexcept { return num_shared_; }
  // Whether PrepareShared takes this many inputs: any 0..num_inputs(), but num_shared() alone where
  // the first layer is int8.
  bool AcceptsShared(std::int64_t num_shared) const noexcept;
  // Bytes of the packed weights, scales and biases.
  std::int64_t nbytes() const noexcept;

  // out[r, :] = the stack applied to x[r, :]. Row r of x starts at x + r * x_stride, row r of out
  // at out + r * out_stride. Splits the rows over the workspace's threads. No rows: nothing is
  // done. Requires: workspace was made for this stack and at least min(num_rows, its block) rows
  // per thread (any GatedMlpWorkspace of this stack for num_rows is); strides cover a row; out does
  // not overlap x.
  void Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
               std::int64_t out_stride, GatedMlpWorkspace& workspace) const;

  // Sums the first layer over the inputs that all rows of one request share: x_shared holds the
  // first x_shared.size() of the num_inputs() inputs. Requires: AcceptsShared(x_shared.size()).
  void PrepareShared(Span<const float> x_shared, SharedInput& shared) const;

  // Forward on the rows [x_shared, x[r, :]], bit for bit, where x holds the remaining
  // num_inputs() - shared.num_shared() inputs of each row. Requires: PrepareShared of this stack
  // filled `shared`; the rest as in Forward.
  void ForwardShared(const SharedInput& shared, const float* x, std::int64_t num_rows,
                     std::int64_t x_stride, float* out, std::int64_t out_stride,
                     GatedMlpWorkspace& workspace) const;

 private:
  friend class GatedMlpWorkspace;

  using PackedMatrix = gated_mlp::PackedMatrix;
  struct PackedLayer {
    std::int64_t in = 0;
    std::int64_t out = 0;
    Activation activation = Activation::kLinear;
    Gate gate = Gate::kNone;
    PackedMatrix main;
    PackedMatrix gate_down;  // empty at full rank
    PackedMatrix gate_up;
  };
  struct Block;

  // The matrix that meets a kInput gate's input first.
  static const PackedMatrix& FirstGateMatrix(const PackedLayer& layer) noexcept {
    return layer.gate_down.in > 0 ? layer.gate_down : layer.gate_up;
  }
  void Run(const SharedInput* shared, const float* x, std::int64_t num_rows, std::int64_t x_stride,
           float* out, std::int64_t out_stride, GatedMlpWorkspace& workspace) const;
  void RunBlock(const Block& block, const float* x, std::int64_t x_stride, float* out,
                std::int64_t out_stride) const;

  std::vector<PackedLayer> layers_;
  std::int64_t num_shared_ = 0;
};

// Scratch memory for calls of one stack with up to `num_rows` rows on up to `threads` threads; its
// size stops growing at a fixed number of rows per thread. One call uses it at a time.
class GatedMlpWorkspace {
 public:
  GatedMlpWorkspace(const GatedMlp& mlp, std::int64_t num_rows, int threads = 1);

  int threads() const noexcept { return threads_; }

 private:
  friend class GatedMlp;
  int threads_;
  std::int64_t block_rows_;       // rows that go through the stack together
  std::int64_t hidden_stride_;    // floats per row of the two hidden buffers
  std::int64_t low_rank_stride_;  // floats per row of the low-rank buffer
  std::int64_t prefix_stride_;    // floats per row of the prefix sums; 0 where nobody needs them
  std::int64_t floats_per_thread_;
  std::int64_t words_stride_;  // words per row of converted inputs; 0 without bf16 and int8 layers
  AlignedBuffer<float> floats_;
  AlignedBuffer<std::uint32_t> words_;
  AlignedBuffer<gated_mlp::RowScale> row_scales_;  // two per row: of the prefix and of the rest
};

// values[i] = 1 / (1 + exp(-values[i])), in place. The bits of an element do not depend on its
// position or on the length. Error at most 2.4 units in the last place (the worst of every seventh
// float is 2.364, at -3.446), subnormal results included; -inf gives 0, inf gives 1, NaN stays NaN.
void Sigmoid(Span<float> values) noexcept;

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_
