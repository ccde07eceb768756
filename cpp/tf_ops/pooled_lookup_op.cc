#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/grouped_lookup.h"
#include "cpp/embedding_kernels/pooled_lookup_grad.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/table.h"
#include "cpp/tf_ops/lookup_inputs.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {
namespace {

using embedding_kernels::Bags;
using embedding_kernels::GroupedWork;
using embedding_kernels::PooledFeature;
using embedding_kernels::Pooling;
using embedding_kernels::RowGradient;
using embedding_kernels::RowGroups;
using embedding_kernels::Table;
using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The table [num_rows, dim] comes as a variable's handle and is read under its lock, never copied;
// or, in the ops with Dense in their name, as a tensor.

// [num_bags, dim] for inputs table, values, offsets, ...
absl::Status PooledShape(InferenceContext* c, ShapeHandle table) {
  ShapeHandle unused;
  ShapeHandle offsets;
  DimensionHandle num_bags;
  TF_RETURN_IF_ERROR(c->WithRank(table, 2, &table));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &offsets));
  TF_RETURN_IF_ERROR(c->Subtract(c->Dim(offsets, 0), 1, &num_bags));
  c->set_output(0, c->Matrix(num_bags, c->Dim(table, 1)));
  return absl::OkStatus();
}

absl::Status WeightsGradShape(InferenceContext* c) {
  c->set_output(0, c->input(1));
  return absl::OkStatus();
}

// pooled [num_bags, dim] as in pooled_lookup.h; weights: none, or one tensor [nnz].
REGISTER_OP("FeedfastPooledLookup")
    .Input("table: resource")
    .Input("values: Tvalues")    // [nnz]
    .Input("offsets: Toffsets")  // [num_bags + 1]
    .Input("weights: num_weights * float")
    .Attr("num_weights: int >= 0")
    .Attr("dtype: {float, half, bfloat16}")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("Tvalues: {int32, int64} = DT_INT64")
    .Attr("Toffsets: {int32, int64} = DT_INT64")
    .Output("pooled: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) { return PooledShape(c, ShapeOfVariable(c, 0)); });

REGISTER_OP("FeedfastDensePooledLookup")
    .Input("table: dtype")
    .Input("values: Tvalues")
    .Input("offsets: Toffsets")
    .Input("weights: num_weights * float")
    .Attr("num_weights: int >= 0")
    .Attr("dtype: {float, half, bfloat16}")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("Tvalues: {int32, int64} = DT_INT64")
    .Attr("Toffsets: {int32, int64} = DT_INT64")
    .Output("pooled: float")
    .SetShapeFn([](InferenceContext* c) { return PooledShape(c, c->input(0)); });

// Offsets [num_rows + 1] of ids that stand in the rows `rows` [nnz], or in those of the first
// column of [nnz, rank]: the indices of a SparseTensor. They must ascend.
REGISTER_OP("FeedfastRowOffsets")
    .Input("rows: int64")
    .Input("num_rows: int64")  // scalar
    .Output("offsets: int64")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      DimensionHandle num_rows;
      DimensionHandle num_offsets;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &unused));
      TF_RETURN_IF_ERROR(c->WithRankAtMost(c->input(0), 2, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(1, &num_rows));
      TF_RETURN_IF_ERROR(c->Add(num_rows, 1, &num_offsets));
      c->set_output(0, c->Vector(num_offsets));
      return absl::OkStatus();
    });

// Gradient by the table: the touched rows, ascending and unique, and their gradients.
REGISTER_OP("FeedfastPooledLookupGrad")
    .Input("grad: float")  // [num_bags, dim]
    .Input("values: Tvalues")
    .Input("offsets: Toffsets")
    .Input("weights: num_weights * float")
    .Attr("num_weights: int >= 0")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("Tvalues: {int32, int64} = DT_INT64")
    .Attr("Toffsets: {int32, int64} = DT_INT64")
    .Output("rows: int64")       // [num_rows_touched]
    .Output("row_grads: float")  // [num_rows_touched, dim]
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle grad;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &grad));
      const DimensionHandle touched = c->UnknownDim();
      c->set_output(0, c->Vector(touched));
      c->set_output(1, c->Matrix(touched, c->Dim(grad, 1)));
      return absl::OkStatus();
    });

// Gradient by the weights [nnz]; pooled is what the lookup gave.
REGISTER_OP("FeedfastPooledLookupWeightsGrad")
    .Input("table: resource")
    .Input("values: Tvalues")
    .Input("offsets: Toffsets")
    .Input("weights: float")
    .Input("pooled: float")  // [num_bags, dim]
    .Input("grad: float")    // [num_bags, dim]
    .Attr("dtype: {float, half, bfloat16}")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("Tvalues: {int32, int64} = DT_INT64")
    .Attr("Toffsets: {int32, int64} = DT_INT64")
    .Output("grad_weights: float")
    .SetIsStateful()
    .SetShapeFn(WeightsGradShape);

REGISTER_OP("FeedfastDensePooledLookupWeightsGrad")
    .Input("table: dtype")
    .Input("values: Tvalues")
    .Input("offsets: Toffsets")
    .Input("weights: float")
    .Input("pooled: float")
    .Input("grad: float")
    .Attr("dtype: {float, half, bfloat16}")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("Tvalues: {int32, int64} = DT_INT64")
    .Attr("Toffsets: {int32, int64} = DT_INT64")
    .Output("grad_weights: float")
    .SetShapeFn(WeightsGradShape);

absl::Status PoolingAttr(OpKernelConstruction* ctx, Pooling* pooling) {
  std::string name;
  TF_RETURN_IF_ERROR(ctx->GetAttr("pooling", &name));
  return ToPooling(name, pooling);
}

// Inputs 1 and 2 of every op here, and the list of none or one weights.
absl::Status ReadBags(OpKernelContext* ctx, Bags* bags) {
  OpInputList weights;
  TF_RETURN_IF_ERROR(ctx->input_list("weights", &weights));
  if (weights.size() > 1)
    return absl::InvalidArgumentError("weights must be none or one tensor; got " +
                                      std::to_string(weights.size()));
  return ViewBags(ctx->input(1), ctx->input(2), weights.size() == 0 ? nullptr : &weights[0], bags);
}

// Calls use(table) with input 0 while nobody can change it.
struct VariableTable {
  static constexpr bool kStays = true;  // at its address from call to call

  template <typename Use>
  static absl::Status With(OpKernelContext* ctx, DataType dtype, const Use& use) {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    TF_RETURN_IF_ERROR(LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &variable));
    // Held while the rows are read. No reference to the tensor is taken: updates happen in place
    // only while the variable is its sole owner.
    const tensorflow::tf_shared_lock lock(*variable->mu());
    if (!variable->is_initialized)
      return absl::FailedPreconditionError("table is a variable that was not initialized");
    Table table;
    TF_RETURN_IF_ERROR(ViewTable(*variable->tensor(), dtype, &table));
    return use(table);
  }
};

struct TensorTable {
  static constexpr bool kStays = false;

  template <typename Use>
  static absl::Status With(OpKernelContext* ctx, DataType dtype, const Use& use) {
    Table table;
    TF_RETURN_IF_ERROR(ViewTable(ctx->input(0), dtype, &table));
    return use(table);
  }
};

// Runs work(begin, end) over the bags on the op's own threads.
template <typename Work>
void ForBags(OpKernelContext* ctx, std::int64_t num_bags, std::int64_t num_ids, std::int64_t dim,
             const Work& work) {
  if (num_bags == 0) return;
  // Cycles: one for each four elements and some for each row's way from memory.
  const std::int64_t cost = (num_ids / num_bags + 1) * (dim / 4 + 20);
  ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(num_bags, cost, work);
}

template <typename Source>
class PooledLookupOp : public OpKernel {
 public:
  explicit PooledLookupOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype_));
    OP_REQUIRES_OK(ctx, PoolingAttr(ctx, &pooling_));
  }

  void Compute(OpKernelContext* ctx) override {
    Bags bags;
    OP_REQUIRES_OK(ctx, ReadBags(ctx, &bags));
    OP_REQUIRES_OK(
        ctx, Source::With(ctx, dtype_, [&](const Table& table) -> absl::Status {
          if constexpr (Source::kStays) pages_.See(table);
          TF_RETURN_IF_ERROR(ToTensorFlow(ValidateBags(bags, table.num_rows)));
          Tensor* pooled = nullptr;
          TF_RETURN_IF_ERROR(ctx->allocate_output(0, {bags.num_bags(), table.dim}, &pooled));
          float* out = pooled->flat<float>().data();
          const PooledFeature feature{table, bags, pooling_, 0};
          const GroupedWork work({&feature, 1});
          // Cycles for a cache line on its way from memory, of one core.
          constexpr std::int64_t kCost = 16;
          ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
              work.size(), kCost,
              [&](std::int64_t begin, std::int64_t end) { work.Run(out, table.dim, begin, end); });
          return absl::OkStatus();
        }));
  }

 private:
  DataType dtype_ = tensorflow::DT_FLOAT;
  Pooling pooling_ = Pooling::kSum;
  TablePages pages_;
};

class RowOffsetsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& rows = ctx->input(0);
    const Tensor& num_rows = ctx->input(1);
    OP_REQUIRES(ctx, rows.dims() == 1 || (rows.dims() == 2 && rows.dim_size(1) >= 1),
                absl::InvalidArgumentError("rows must have shape [nnz] or [nnz, rank]; got " +
                                           rows.shape().DebugString()));
    OP_REQUIRES_OK(ctx, RequireRank("num_rows", num_rows, 0));
    const std::int64_t num_bags = num_rows.scalar<std::int64_t>()();
    OP_REQUIRES(ctx, num_bags >= 0 && num_bags < std::numeric_limits<std::int64_t>::max(),
                absl::InvalidArgumentError("num_rows must not be negative; got " +
                                           std::to_string(num_bags)));
    Tensor* offsets = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {num_bags + 1}, &offsets));
    OP_REQUIRES_OK(ctx, ToTensorFlow(embedding_kernels::OffsetsOfBags(
                            "rows", rows.flat<std::int64_t>().data(), rows.dim_size(0),
                            rows.dims() == 1 ? 1 : rows.dim_size(1), num_bags,
                            offsets->flat<std::int64_t>().data())));
  }
};

class PooledLookupGradOp : public OpKernel {
 public:
  explicit PooledLookupGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, PoolingAttr(ctx, &pooling_));
  }

  void Compute(OpKernelContext* ctx) override {
    Bags bags;
    OP_REQUIRES_OK(ctx, ReadBags(ctx, &bags));
    // The forward op has compared the ids with the table.
    constexpr std::int64_t kAnyRow = std::numeric_limits<std::int64_t>::max();
    OP_REQUIRES_OK(ctx, ToTensorFlow(ValidateBags(bags, kAnyRow)));
    const Tensor& grad = ctx->input(0);
    OP_REQUIRES_OK(ctx, RequireRank("grad", grad, 2));
    const std::int64_t dim = grad.dim_size(1);
    OP_REQUIRES_OK(ctx, RequireShape("grad", grad, {bags.num_bags(), dim}));

    RowGroups groups;
    OP_REQUIRES_OK(ctx, ToTensorFlow(groups.Group(bags, pooling_)));
    Tensor* rows = nullptr;
    Tensor* row_grads = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {groups.num_rows()}, &rows));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {groups.num_rows(), dim}, &row_grads));
    std::copy(groups.rows().begin(), groups.rows().end(), rows->flat<std::int64_t>().data());
    const RowGradient gradient = groups.Gradient(grad.flat<float>().data(), dim);
    float* to = row_grads->flat<float>().data();
    ForBags(
        ctx, groups.num_rows(), bags.values.size(), dim,
        [&](std::int64_t begin, std::int64_t end) { SumRowGradient(gradient, to, begin, end); });
  }

 private:
  Pooling pooling_ = Pooling::kSum;
};

template <typename Source>
class PooledLookupWeightsGradOp : public OpKernel {
 public:
  explicit PooledLookupWeightsGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype_));
    OP_REQUIRES_OK(ctx, PoolingAttr(ctx, &pooling_));
  }

  void Compute(OpKernelContext* ctx) override {
    Bags bags;
    OP_REQUIRES_OK(ctx, ViewBags(ctx->input(1), ctx->input(2), &ctx->input(3), &bags));
    OP_REQUIRES_OK(
        ctx, Source::With(ctx, dtype_, [&](const Table& table) -> absl::Status {
          TF_RETURN_IF_ERROR(ToTensorFlow(ValidateBags(bags, table.num_rows)));
          TF_RETURN_IF_ERROR(RequireShape("pooled", ctx->input(4), {bags.num_bags(), table.dim}));
          TF_RETURN_IF_ERROR(RequireShape("grad", ctx->input(5), {bags.num_bags(), table.dim}));
          Tensor* grad_weights = nullptr;
          TF_RETURN_IF_ERROR(ctx->allocate_output(0, {bags.values.size()}, &grad_weights));
          const float* pooled = ctx->input(4).flat<float>().data();
          const float* grad = ctx->input(5).flat<float>().data();
          float* out = grad_weights->flat<float>().data();
          ForBags(ctx, bags.num_bags(), bags.values.size(), table.dim,
                  [&](std::int64_t begin, std::int64_t end) {
                    PooledLookupWeightsGradRange(table, bags, pooling_, pooled, grad, out, begin,
                                                 end);
                  });
          return absl::OkStatus();
        }));
  }

 private:
  DataType dtype_ = tensorflow::DT_FLOAT;
  Pooling pooling_ = Pooling::kSum;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastPooledLookup").Device(tensorflow::DEVICE_CPU),
                        PooledLookupOp<VariableTable>);
REGISTER_KERNEL_BUILDER(Name("FeedfastDensePooledLookup").Device(tensorflow::DEVICE_CPU),
                        PooledLookupOp<TensorTable>);
REGISTER_KERNEL_BUILDER(Name("FeedfastRowOffsets").Device(tensorflow::DEVICE_CPU), RowOffsetsOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastPooledLookupGrad").Device(tensorflow::DEVICE_CPU),
                        PooledLookupGradOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastPooledLookupWeightsGrad").Device(tensorflow::DEVICE_CPU),
                        PooledLookupWeightsGradOp<VariableTable>);
REGISTER_KERNEL_BUILDER(Name("FeedfastDensePooledLookupWeightsGrad").Device(tensorflow::DEVICE_CPU),
                        PooledLookupWeightsGradOp<TensorTable>);

}  // namespace
}  // namespace feedfast::tf_ops
