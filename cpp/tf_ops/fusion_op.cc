// FeedfastFuse and FeedfastUnfuse: a list of tensors to one fused vector and back. The layout is
// FusionPlan's. Each is the gradient of the other.
#include <cstdint>
#include <utility>
#include <vector>

#include "cpp/allreduce/fusion.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/util/work_sharder.h"

namespace feedfast::tf_ops {
namespace {

using allreduce::FusionPlan;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::Internal;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;
using Shapes = std::vector<std::vector<std::int64_t>>;

// Cost of one element for TensorFlow's work splitter: a load and a store.
constexpr std::int64_t kCyclesPerElement = 1;

REGISTER_OP("FeedfastFuse")
    .Input("tensors: N * T")
    .Output("fused: T")  // [FusionPlan.num_elements()]
    .Attr("N: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      Shapes shapes;
      for (int i = 0; i < c->num_inputs(); ++i) {
        if (!c->FullyDefined(c->input(i))) return absl::OkStatus();
        std::vector<std::int64_t> shape;
        for (int axis = 0; axis < c->Rank(c->input(i)); ++axis)
          shape.push_back(c->Value(c->Dim(c->input(i), axis)));
        shapes.push_back(std::move(shape));
      }
      tensorflow::DataType dtype;
      TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
      const StatusOr<FusionPlan> plan = FusionPlan::Create(shapes, tensorflow::DataTypeSize(dtype));
      TF_RETURN_IF_ERROR(ToTensorFlow(plan.status()));
      c->set_output(0, c->Vector(plan->num_elements()));
      return absl::OkStatus();
    });

REGISTER_OP("FeedfastUnfuse")
    .Input("fused: T")           // [FusionPlan.num_elements()]
    .Input("shapes: N * int64")  // one shape vector per tensor
    .Output("tensors: N * T")
    .Attr("N: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &shape));
      for (int i = 0; i < c->num_outputs(); ++i) {
        TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(i + 1, &shape));
        c->set_output(i, shape);
      }
      return absl::OkStatus();
    });

// Runs body(begin, end) over the elements of the plan's array on TensorFlow's own threads.
template <typename Body>
void ShardElements(OpKernelContext* context, const FusionPlan& plan, const Body& body) {
  const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(workers.num_threads, workers.workers, plan.num_elements(), kCyclesPerElement,
                    body);
}

template <typename T>
class FuseOp : public OpKernel {
 public:
  explicit FuseOp(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    OpInputList tensors;
    OP_REQUIRES_OK(context, context->input_list("tensors", &tensors));
    Shapes shapes;
    std::vector<const void*> pointers;
    for (const Tensor& tensor : tensors) {
      const auto sizes = tensor.shape().dim_sizes();
      shapes.emplace_back(sizes.begin(), sizes.end());
      pointers.push_back(tensor.flat<T>().data());
    }
    const StatusOr<FusionPlan> plan = FusionPlan::Create(shapes, sizeof(T));
    OP_REQUIRES_OK(context, ToTensorFlow(plan.status()));
    Tensor* fused = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({plan->num_elements()}), &fused));
    T* const out = fused->flat<T>().data();
    const Span<const void* const> gradients(pointers.data(),
                                            static_cast<std::int64_t>(pointers.size()));
    ShardElements(context, plan.value(), [&](std::int64_t begin, std::int64_t end) {
      allreduce::StoreGradients(plan.value(), gradients, begin, end, out);
    });
  }
};

template <typename T>
class UnfuseOp : public OpKernel {
 public:
  explicit UnfuseOp(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& fused = context->input(0);
    OpInputList shape_tensors;
    OpOutputList tensors;
    OP_REQUIRES_OK(context, context->input_list("shapes", &shape_tensors));
    OP_REQUIRES_OK(context, context->output_list("tensors", &tensors));
    Shapes shapes;
    for (const Tensor& shape : shape_tensors) {
      OP_REQUIRES(
          context, shape.dims() == 1,
          InvalidArgument("shapes[", shapes.size(), "] must be a vector; got rank ", shape.dims()));
      const auto sizes = shape.vec<std::int64_t>();
      shapes.emplace_back(sizes.data(), sizes.data() + sizes.size());
    }
    const StatusOr<FusionPlan> plan = FusionPlan::Create(shapes, sizeof(T));
    OP_REQUIRES_OK(context, ToTensorFlow(plan.status()));
    OP_REQUIRES(
        context, fused.dims() == 1 && fused.NumElements() == plan->num_elements(),
        InvalidArgument("fused has shape ", fused.shape().DebugString(), "; the ", shapes.size(),
                        " shapes need a vector of ", plan->num_elements(), " elements"));
    // Gradients start on cache lines, so they can be views of the vector, unless the vector itself
    // is a view that does not.
    const bool views = fused.IsAligned();
    const T* const in = fused.flat<T>().data();
    std::vector<void*> pointers;
    for (int i = 0; i < tensors.size(); ++i) {
      TensorShape shape;
      OP_REQUIRES_OK(context,
                     TensorShape::BuildTensorShape(shapes[static_cast<std::size_t>(i)], &shape));
      if (views) {
        const allreduce::FusionSlot& slot = plan->slots()[i];
        Tensor tensor;
        OP_REQUIRES(context,
                    tensor.CopyFrom(fused.Slice(slot.offset, slot.offset + slot.size), shape),
                    Internal("slot ", i, " has not the size of its shape"));
        tensors.set(i, tensor);
      } else {
        Tensor* tensor = nullptr;
        OP_REQUIRES_OK(context, tensors.allocate(i, shape, &tensor));
        pointers.push_back(tensor->flat<T>().data());
      }
    }
    if (views) return;
    const Span<void* const> gradients(pointers.data(), static_cast<std::int64_t>(pointers.size()));
    ShardElements(context, plan.value(), [&](std::int64_t begin, std::int64_t end) {
      allreduce::UnpackGradients(plan.value(), in, T{1}, begin, end, gradients);
    });
  }
};

#define FEEDFAST_REGISTER_FUSION(T)                                                           \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("FeedfastFuse").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), FuseOp<T>); \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("FeedfastUnfuse").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), UnfuseOp<T>)
FEEDFAST_REGISTER_FUSION(float);
FEEDFAST_REGISTER_FUSION(double);
#undef FEEDFAST_REGISTER_FUSION

}  // namespace
}  // namespace feedfast::tf_ops
