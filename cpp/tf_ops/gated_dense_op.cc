#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
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
#include "tensorflow/core/platform/threadpool.h"

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

// One layer with its packed copy. Holding the tensors keeps their buffers from being reused or
// written: TensorFlow updates a variable in place only while nobody else refers to its buffer.
struct PackedLayer {
  Gate gate;
  Activation activation;
  std::vector<Tensor> arrays;  // weight, bias and the gate arrays
  GatedMlp mlp;
};

absl::Status Pack(Gate gate, Activation activation, std::vector<Tensor> arrays,
                  std::shared_ptr<const PackedLayer>* packed) {
  const Tensor& weight = arrays[0];
  if (weight.dims() != 2)
    return absl::InvalidArgumentError("weight must have shape [in, out]; got " +
                                      weight.shape().DebugString());
  GatedLayer layer;
  layer.in = weight.dim_size(0);
  layer.out = weight.dim_size(1);
  layer.activation = activation;
  layer.gate = gate;
  layer.weight = AsSpan(weight);
  TF_RETURN_IF_ERROR(CheckShape("bias", arrays[1], {layer.out}));
  layer.bias = AsSpan(arrays[1]);
  if (gate != Gate::kNone) {
    std::int64_t source = gate == Gate::kHidden ? layer.out : layer.in;
    if (arrays.size() == 5) {
      const Tensor& down = arrays[2];
      // A factor without columns is refused: rank 0 would read as full rank.
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
  *packed = std::make_shared<const PackedLayer>(
      PackedLayer{gate, activation, std::move(arrays), std::move(mlp).value()});
  return absl::OkStatus();
}

// The packed layers of the process, one for each layer whose current weights went through the op;
// shared by all kernels, so that a graph and eager calls do not keep each other's entries alive.
class PackedLayers {
 public:
  // Never destroyed: kernels may outlive static objects.
  static PackedLayers& Get() {
    static auto* const layers = new PackedLayers;
    return *layers;
  }

  absl::Status FindOrPack(Gate gate, Activation activation, std::vector<Tensor> arrays,
                          std::shared_ptr<const PackedLayer>* layer) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if ((*layer = Find(gate, activation, arrays)) != nullptr) return absl::OkStatus();
    }
    std::shared_ptr<const PackedLayer> packed;
    TF_RETURN_IF_ERROR(Pack(gate, activation, arrays, &packed));
    const std::lock_guard<std::mutex> lock(mutex_);
    // Two entries of one layer would keep each other's arrays alive.
    if ((*layer = Find(gate, activation, arrays)) != nullptr) return absl::OkStatus();
    layers_.erase(std::remove_if(layers_.begin(), layers_.end(), IsOutdated), layers_.end());
    layers_.push_back(packed);
    *layer = std::move(packed);
    return absl::OkStatus();
  }

 private:
  // Whether nothing but the entry refers to one of its arrays: the variable has a new value or is
  // gone, and no call can bring this one again.
  static bool IsOutdated(const std::shared_ptr<const PackedLayer>& layer) {
    return std::any_of(layer->arrays.begin(), layer->arrays.end(),
                       [](const Tensor& array) { return array.RefCountIsOne(); });
  }

  std::shared_ptr<const PackedLayer> Find(Gate gate, Activation activation,
                                          const std::vector<Tensor>& arrays) const {
    const auto is_same = [](const Tensor& a, const Tensor& b) {
      return a.data() == b.data() && a.shape() == b.shape();
    };
    for (const std::shared_ptr<const PackedLayer>& layer : layers_)
      if (layer->gate == gate && layer->activation == activation &&
          std::equal(layer->arrays.begin(), layer->arrays.end(), arrays.begin(), arrays.end(),
                     is_same))
        return layer;
    return nullptr;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<const PackedLayer>> layers_;
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
    std::vector<Tensor> arrays = {ctx->input(1), ctx->input(2)};
    OpInputList gate_arrays;
    OP_REQUIRES_OK(ctx, ctx->input_list("gate_arrays", &gate_arrays));
    for (const Tensor& array : gate_arrays) arrays.push_back(array);
    std::shared_ptr<const PackedLayer> layer;
    OP_REQUIRES_OK(ctx,
                   PackedLayers::Get().FindOrPack(gate_, activation_, std::move(arrays), &layer));
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
      pool->ParallelFor(num_rows, tensorflow::thread::ThreadPool::SchedulingParams::Fixed(block),
                        forward);
  }

 private:
  Gate gate_ = Gate::kNone;
  Activation activation_ = Activation::kLinear;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastGatedDense").Device(tensorflow::DEVICE_CPU), GatedDenseOp);

}  // namespace
}  // namespace feedfast::tf_ops
