#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cpp/embedding_kernels/grouped_lookup.h"
#include "cpp/tf_ops/lookup_inputs.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "cpp/tf_ops/variable_locks.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {
namespace {

using embedding_kernels::GroupedWork;
using embedding_kernels::PooledFeature;
using embedding_kernels::Pooling;
using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// pooled [num_bags, num_columns] as in grouped_lookup.h; columns of no feature are 0. Feature f
// reads tables[table_of[f]] with values[f] and offsets[f], and the next of `weights` if
// weighted[f].
REGISTER_OP("FeedfastGroupedLookup")
    .Input("tables: num_tables * resource")
    .Input("values: Tvalues")    // each [nnz of the feature]
    .Input("offsets: Toffsets")  // each [num_bags + 1]
    .Input("weights: num_weights * float")
    .Attr("num_tables: int >= 1")
    .Attr("num_weights: int >= 0")
    .Attr("dtypes: list({float, half, bfloat16}) >= 1")  // of the tables
    .Attr("table_of: list(int) >= 1")
    .Attr("weighted: list(bool) >= 1")
    .Attr("poolings: list({'sum', 'mean', 'sqrtn'}) >= 1")
    .Attr("columns: list(int) >= 1")
    .Attr("num_columns: int >= 1")
    .Attr("Tvalues: list({int32, int64}) >= 1")
    .Attr("Toffsets: list({int32, int64}) >= 1")
    .Output("pooled: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      std::vector<ShapeHandle> offsets;
      std::int64_t num_columns = 0;
      DimensionHandle num_bags;
      TF_RETURN_IF_ERROR(c->input("offsets", &offsets));
      TF_RETURN_IF_ERROR(c->GetAttr("num_columns", &num_columns));
      TF_RETURN_IF_ERROR(c->WithRank(offsets.front(), 1, offsets.data()));
      TF_RETURN_IF_ERROR(c->Subtract(c->Dim(offsets.front(), 0), 1, &num_bags));
      c->set_output(0, c->Matrix(num_bags, c->MakeDim(num_columns)));
      return absl::OkStatus();
    });

class GroupedLookupOp : public OpKernel {
 public:
  explicit GroupedLookupOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::vector<std::string> poolings;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtypes", &dtypes_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("table_of", &table_of_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("weighted", &weighted_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("poolings", &poolings));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("columns", &columns_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_columns", &num_columns_));
    const std::size_t num_features = table_of_.size();
    std::vector<DataType> values;
    std::vector<DataType> offsets;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("Tvalues", &values));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("Toffsets", &offsets));
    int num_tables = 0;
    int num_weights = 0;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_tables", &num_tables));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_weights", &num_weights));
    OP_REQUIRES(ctx,
                weighted_.size() == num_features && poolings.size() == num_features &&
                    columns_.size() == num_features && values.size() == num_features &&
                    offsets.size() == num_features &&
                    dtypes_.size() == static_cast<std::size_t>(num_tables) &&
                    std::count(weighted_.begin(), weighted_.end(), true) == num_weights,
                absl::InvalidArgumentError("attributes of the grouped lookup name different "
                                           "numbers of features, tables or weights"));
    for (const int table : table_of_)
      OP_REQUIRES(ctx, table >= 0 && table < num_tables,
                  absl::InvalidArgumentError("table_of names table " + std::to_string(table) +
                                             " of " + std::to_string(num_tables)));
    poolings_.resize(num_features);
    for (std::size_t f = 0; f < num_features; ++f)
      OP_REQUIRES_OK(ctx, ToPooling(poolings[f], &poolings_[f]));
    pages_ = std::vector<TablePages>(dtypes_.size());
  }

  void Compute(OpKernelContext* ctx) override {
    OpInputList handles;
    OpInputList values;
    OpInputList offsets;
    OpInputList weights;
    OP_REQUIRES_OK(ctx, ctx->input_list("tables", &handles));
    OP_REQUIRES_OK(ctx, ctx->input_list("values", &values));
    OP_REQUIRES_OK(ctx, ctx->input_list("offsets", &offsets));
    OP_REQUIRES_OK(ctx, ctx->input_list("weights", &weights));
    std::vector<tensorflow::core::RefCountPtr<Var>> variables(dtypes_.size());
    for (std::size_t t = 0; t < variables.size(); ++t)
      OP_REQUIRES_OK(ctx, LookupResource(ctx, tensorflow::HandleFromInput(ctx, static_cast<int>(t)),
                                         &variables[t]));
    const VariableLocks locks(variables, VariableLocks::kShared);

    std::vector<PooledFeature> features(table_of_.size());
    int next_weights = 0;
    for (std::size_t f = 0; f < features.size(); ++f) {
      const auto t = static_cast<std::size_t>(table_of_[f]);
      OP_REQUIRES(ctx, variables[t]->is_initialized,
                  absl::FailedPreconditionError("a table is a variable that was not initialized"));
      OP_REQUIRES_OK(ctx, ViewTable(*variables[t]->tensor(), dtypes_[t], &features[f].table));
      pages_[t].See(features[f].table);
      const int i = static_cast<int>(f);
      OP_REQUIRES_OK(
          ctx, ViewBags(values[i], offsets[i], weighted_[f] ? &weights[next_weights++] : nullptr,
                        &features[f].bags));
      features[f].pooling = poolings_[f];
      features[f].column = columns_[f];
    }
    OP_REQUIRES_OK(ctx, ToTensorFlow(ValidateFeatures(features, num_columns_)));

    const std::int64_t num_bags = features.front().bags.num_bags();
    Tensor* pooled = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {num_bags, num_columns_}, &pooled));
    float* out = pooled->flat<float>().data();
    std::int64_t written = 0;
    for (const PooledFeature& feature : features) written += feature.table.dim;
    if (written != num_columns_) std::fill_n(out, num_bags * num_columns_, 0.0f);
    const GroupedWork work(features);
    // Cycles for a cache line on its way from memory, of one core.
    constexpr std::int64_t kCost = 16;
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
        work.size(), kCost,
        [&](std::int64_t begin, std::int64_t end) { work.Run(out, num_columns_, begin, end); });
  }

 private:
  std::vector<DataType> dtypes_;
  std::vector<int> table_of_;
  std::vector<bool> weighted_;
  std::vector<Pooling> poolings_;
  std::vector<std::int64_t> columns_;
  std::int64_t num_columns_ = 0;
  std::vector<TablePages> pages_;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastGroupedLookup").Device(tensorflow::DEVICE_CPU),
                        GroupedLookupOp);

}  // namespace
}  // namespace feedfast::tf_ops
