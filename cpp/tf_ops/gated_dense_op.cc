#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpp/gated_mlp/gated_mlp.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// y [batch, out] = one gated dense layer of x [batch, in], as GatedLayer of gated_mlp.h says.
// gate_arrays: none without a gate; gate_weight, gate_bias; or gate_down, gate_weight, gate_bias.
REGISTER_OP("FeedfastGatedDense")
    .Input("x: float")
    .Input("weight: float")  // [in, out]
    .Input("bias: float")    // [out]
    .Input("gate_arrays: num_gate_arrays * float")
    .Attr("num_gate_arrays: int >= 0")
    .Attr("gate: {'none', 'hidden', 'input'}")
    .Attr("activation: {'linear', 'relu'}")
    .Output("y: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x;
      ShapeHandle weight;
      ShapeHandle bias;
      DimensionHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &weight));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &bias));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, 1), c->Dim(weight, 0), &unused));
      DimensionHandle out;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(weight, 1), c->Dim(bias, 0), &out));
      c->set_output(0, c->Matrix(c->Dim(x, 0), out));
      return absl::OkStatus();
    });

absl::Status CheckShape(const char* name, const Tensor& tensor,
                        const std::vector<std::int64_t>& want) {
  const auto sizes = tensor.shape().dim_sizes();
  if (std::equal(sizes.begin(), sizes.end(), want.begin(), want.end())) return absl::OkStatus();
  const tensorflow::TensorShape expected(want);
  return absl::InvalidArgumentError(std::string(name) + " must have shape " +
                                    expected.DebugString() + "; got " +
                                    tensor.shape().DebugString());
}

Span<const float> AsSpan(const Tensor& tensor) {
  return {tensor.flat<float>().data(), tensor.NumElements()};
}

// The arrays of one layer and their packed copy. Holding the tensors keeps their buffers from
// being reused or written: TensorFlow updates a variable in place only while nobody else refers to
// its buffer.
struct PackedLayer {
  std::vector<Tensor> arrays;
  GatedMlp mlp;
};

class GatedDenseOp : public OpKernel {
 public:
  explicit GatedDenseOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string gate;
    std::string activation;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("gate", &gate));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &activation));
    const StatusOr<Gate> parsed_gate = ParseGate(gate);
    OP_REQUIRES_OK(ctx, ToTensorFlow(parsed_gate.status()));
    const StatusOr<Activation> parsed_activation = ParseActivation(activation);
    OP_REQUIRES_OK(ctx, ToTensorFlow(parsed_activation.status()));
    gate_ = parsed_gate.value();
    activation_ = parsed_activation.value();
    int num_gate_arrays = 0;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_gate_arrays", &num_gate_arrays));
    const bool fits =
        gate_ == Gate::kNone ? num_gate_arrays == 0 : num_gate_arrays == 2 || num_gate_arrays == 3;
    OP_REQUIRES(
        ctx, fits,
        absl::InvalidArgumentError("gate '" + gate + "' got " + std::to_string(num_gate_arrays) +
                                   " gate_arrays; expected none without a gate, else 2 or 3"));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    std::shared_ptr<const PackedLayer> layer;
    OP_REQUIRES_OK(ctx, FindOrPack(ctx, &layer));
    const GatedMlp& mlp = layer->mlp;
    OP_REQUIRES(
        ctx, x.dims() == 2 && x.dim_size(1) == mlp.num_inputs(),
        absl::InvalidArgumentError("x must have shape [batch, " + std::to_string(mlp.num_inputs()) +
                                   "]; got " + x.shape().DebugString()));
    const std::int64_t num_rows = x.dim_size(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {num_rows, mlp.num_outputs()}, &y));
    if (num_rows == 0) return;
    const float* from = x.flat<float>().data();
    float* to = y->flat<float>().data();
    const auto forward = [&](std::int64_t begin, std::int64_t end) {
      GatedMlpWorkspace workspace(mlp, end - begin);
      mlp.Forward(from + begin * mlp.num_inputs(), end - begin, mlp.num_inputs(),
                  to + begin * mlp.num_outputs(), mlp.num_outputs(), workspace);
    };
    // One block of rows per thread: more blocks would read the weights more often.
    tensorflow::thread::ThreadPool* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    const std::int64_t threads = pool->NumThreads();
    const std::int64_t block = (num_rows + threads - 1) / threads;
    if (block == num_rows)
      forward(0, num_rows);
    else
      pool->ParallelFor(num_rows,
                        tensorflow::thread::ThreadPool::SchedulingParams(
                            tensorflow::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize,
                            std::nullopt, block),
                        forward);
  }

 private:
  // Layers a kernel keeps packed. A graph has one kernel per layer; eager execution shares one
  // among all layers of equal attributes.
  static constexpr std::size_t kMaxPacked = 8;

  absl::Status FindOrPack(OpKernelContext* ctx, std::shared_ptr<const PackedLayer>* layer) {
    std::vector<Tensor> arrays = {ctx->input(1), ctx->input(2)};
    OpInputList gate_arrays;
    TF_RETURN_IF_ERROR(ctx->input_list("gate_arrays", &gate_arrays));
    for (const Tensor& array : gate_arrays) arrays.push_back(array);
    const auto is_same = [&](const std::shared_ptr<const PackedLayer>& packed) {
      return std::equal(packed->arrays.begin(), packed->arrays.end(), arrays.begin(), arrays.end(),
                        [](const Tensor& a, const Tensor& b) {
                          return a.data() == b.data() && a.shape() == b.shape();
                        });
    };
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(packed_.begin(), packed_.end(), is_same);
    if (found != packed_.end()) {
      std::rotate(packed_.begin(), found, found + 1);  // most recently used first
    } else {
      std::shared_ptr<const PackedLayer> made;
      TF_RETURN_IF_ERROR(Pack(std::move(arrays), &made));
      if (packed_.size() == kMaxPacked) packed_.pop_back();
      packed_.insert(packed_.begin(), std::move(made));
    }
    *layer = packed_.front();
    return absl::OkStatus();
  }

  absl::Status Pack(std::vector<Tensor> arrays, std::shared_ptr<const PackedLayer>* packed) const {
    const Tensor& weight = arrays[0];
    if (weight.dims() != 2)
      return absl::InvalidArgumentError("weight must have shape [in, out]; got " +
                                        weight.shape().DebugString());
    GatedLayer layer;
    layer.in = weight.dim_size(0);
    layer.out = weight.dim_size(1);
    layer.activation = activation_;
    layer.gate = gate_;
    layer.weight = AsSpan(weight);
    TF_RETURN_IF_ERROR(CheckShape("bias", arrays[1], {layer.out}));
    layer.bias = AsSpan(arrays[1]);
    if (gate_ != Gate::kNone) {
      std::int64_t source = gate_ == Gate::kHidden ? layer.out : layer.in;
      if (arrays.size() == 5) {
        const Tensor& down = arrays[2];
        layer.gate_rank = down.dims() == 2 ? std::max<std::int64_t>(down.dim_size(1), 1) : 1;
        TF_RETURN_IF_ERROR(CheckShape("gate_down", down, {source, layer.gate_rank}));
        layer.gate_down = AsSpan(down);
        source = layer.gate_rank;
      }
      const Tensor& gate_weight = arrays[arrays.size() - 2];
      const Tensor& gate_bias = arrays[arrays.size() - 1];
      TF_RETURN_IF_ERROR(CheckShape("gate_weight", gate_weight, {source, layer.out}));
      TF_RETURN_IF_ERROR(CheckShape("gate_bias", gate_bias, {layer.out}));
      layer.gate_weight = AsSpan(gate_weight);
      layer.gate_bias = AsSpan(gate_bias);
    }
    StatusOr<GatedMlp> mlp = GatedMlp::Create({&layer, 1});
    if (!mlp.ok()) return ToTensorFlow(mlp.status());
    *packed =
        std::make_shared<const PackedLayer>(PackedLayer{std::move(arrays), std::move(mlp).value()});
    return absl::OkStatus();
  }

  Gate gate_ = Gate::kNone;
  Activation activation_ = Activation::kLinear;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const PackedLayer>> packed_;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastGatedDense").Device(tensorflow::DEVICE_CPU), GatedDenseOp);

}  // namespace
}  // namespace feedfast::tf_ops
