#ifndef FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_
#define FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"

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
// gate_rank is 0. Matrices are row-major.
struct GatedLayer {
  std::int64_t in = 0;
  std::int64_t out = 0;
  Activation activation = Activation::kRelu;
  Gate gate = Gate::kNone;
  std::int64_t gate_rank = 0;     // 0: full rank
  Span<const float> weight;       // [in, out]
  Span<const float> bias;         // [out]
  Span<const float> gate_down;    // [size of s, gate_rank]; empty at full rank
  Span<const float> gate_weight;  // [gate_rank, out]; [size of s, out] at full rank
  Span<const float> gate_bias;    // [out]; the three are empty without a gate
};

class GatedMlpWorkspace;

// The first `num_shared` terms of the first layer's sums, made once by GatedMlp::PrepareShared and
// read by any number of ForwardShared calls. Reusing one object saves the allocation.
class SharedInput {
 public:
  std::int64_t num_shared() const noexcept { return num_shared_; }

 private:
  friend class GatedMlp;
  std::int64_t num_shared_ = 0;
  AlignedBuffer<float> sums_;       // [padded out]
  AlignedBuffer<float> gate_sums_;  // [padded gate columns]; Gate::kInput alone
};

// A stack of gated layers whose weights are copied into the kernels' layout once. Immutable: any
// number of threads may call Forward at a time, each with its own workspace.
//
// Numerics: every product sum x W + b is one float32 accumulator that starts as the bias and adds
// its terms in ascending order of the input index; activation and sigmoid are applied lane by lane.
// So the bits of a row's output depend on that row, the weights and the CPU target alone: not on
// the number of rows, the row's position, the thread count or a shared prefix. Between targets the
// last places differ (the scalar target has no fused multiply-add). NaN and infinities propagate as
// IEEE 754 says, and relu(NaN) is NaN.
class GatedMlp {
 public:
  // Copies and packs the layers. InvalidArgument, naming the layer: there is no layer, a size is
  // below 1, an array has the wrong length, a layer's `in` is not the `out` before it, a low rank
  // or gate arrays come without a gate.
  static StatusOr<GatedMlp> Create(Span<const GatedLayer> layers);

  std::int64_t num_inputs() const noexcept { return layers_.front().in; }
  std::int64_t num_outputs() const noexcept { return layers_.back().out; }
  std::int64_t num_layers() const noexcept { return static_cast<std::int64_t>(layers_.size()); }
  // Bytes of the packed weights and biases.
  std::int64_t nbytes() const noexcept;

  // out[r, :] = the stack applied to x[r, :]. Row r of x starts at x + r * x_stride, row r of out
  // at out + r * out_stride. Splits the rows over the workspace's threads. No rows: nothing is
  // done. Requires: workspace was made for this stack and at least min(num_rows, its block) rows
  // per thread (any GatedMlpWorkspace of this stack for num_rows is); strides cover a row; out does
  // not overlap x.
  void Forward(const float* x, std::int64_t num_rows, std::int64_t x_stride, float* out,
               std::int64_t out_stride, GatedMlpWorkspace& workspace) const;

  // Sums the first layer over the inputs that all rows of one request share: x_shared holds the
  // first x_shared.size() of the num_inputs() inputs (0 and num_inputs() are fine).
  void PrepareShared(Span<const float> x_shared, SharedInput& shared) const;

  // Forward on the rows [x_shared, x[r, :]], bit for bit, where x holds the remaining
  // num_inputs() - shared.num_shared() inputs of each row. Requires: PrepareShared of this stack
  // filled `shared`; the rest as in Forward.
  void ForwardShared(const SharedInput& shared, const float* x, std::int64_t num_rows,
                     std::int64_t x_stride, float* out, std::int64_t out_stride,
                     GatedMlpWorkspace& workspace) const;

 private:
  friend class GatedMlpWorkspace;

  // A weight matrix in panels of kPanelColumns columns, one after the other; the last panel is as
  // wide as its columns rounded up to kColumnAlign. Inside a panel the rows follow each other.
  // Padding is zero.
  struct PackedMatrix {
    std::int64_t in = 0;
    std::int64_t padded_out = 0;
    AlignedBuffer<float> panels;  // [in * padded_out]
    AlignedBuffer<float> bias;    // [padded_out]
  };
  struct PackedLayer {
    std::int64_t in = 0;
    std::int64_t out = 0;
    Activation activation = Activation::kLinear;
    Gate gate = Gate::kNone;
    PackedMatrix main;
    PackedMatrix gate_down;  // empty at full rank
    PackedMatrix gate_up;
  };
  struct Buffers;

  static PackedMatrix Pack(Span<const float> matrix, Span<const float> bias, std::int64_t in,
                           std::int64_t out);
  // The matrix that meets a kInput gate's input first.
  static const PackedMatrix& FirstGateMatrix(const PackedLayer& layer) noexcept {
    return layer.gate_down.in > 0 ? layer.gate_down : layer.gate_up;
  }
  void Run(const SharedInput* shared, const float* x, std::int64_t num_rows, std::int64_t x_stride,
           float* out, std::int64_t out_stride, GatedMlpWorkspace& workspace) const;
  void RunBlock(const SharedInput* shared, const float* x, std::int64_t num_rows,
                std::int64_t x_stride, float* out, std::int64_t out_stride,
                const Buffers& buffers) const;

  std::vector<PackedLayer> layers_;
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
  std::int64_t floats_per_thread_;
  AlignedBuffer<float> floats_;
};

// values[i] = 1 / (1 + exp(-values[i])), in place. The bits of an element do not depend on its
// position or on the length. Error at most 2.4 units in the last place (the worst of every seventh
// float is 2.364, at -3.446), subnormal results included; -inf gives 0, inf gives 1, NaN stays NaN.
void Sigmoid(Span<float> values) noexcept;

}  // namespace feedfast

#endif  // FEEDFAST_CPP_GATED_MLP_GATED_MLP_H_
