#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/row_gradient.h"
#include "cpp/embedding_kernels/row_optimizer.h"
#include "cpp/embedding_kernels/table.h"
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

using embedding_kernels::Bags;
using embedding_kernels::Pooling;
using embedding_kernels::RangeRunner;
using embedding_kernels::RowFormat;
using embedding_kernels::RowGradient;
using embedding_kernels::RowGroups;
using embedding_kernels::RowOptimizer;
using embedding_kernels::StateSize;
using embedding_kernels::StrictlyAscending;
using embedding_kernels::TrainableTable;
using embedding_kernels::ValidateRows;
using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;
using tensorflow::shape_inference::InferenceContext;

// The rule of row_optimizer.h with its options, as ReadOptimizer reads them.
#define FEEDFAST_ROW_RULE_ATTRS                                                \
  .Attr("rule: {'sgd', 'adagrad', 'rowwise_adagrad', 'adam', 'rowwise_adam'}") \
      .Attr("epsilon: float")                                                  \
      .Attr("beta1: float")                                                    \
      .Attr("beta2: float")                                                    \
      .Attr("weight_decay: float")                                             \
      .Attr("weight_decay_mode: {'l2', 'decouple'}")                           \
      .Attr("clipping: {'none', 'value', 'row_norm', 'norm'}")                 \
      .Attr("max_gradient: float")                                             \
      .Attr("stochastic_rounding: bool")                                       \
      .Attr("seed: int")

// Updates rows of `table`, whose first dimension counts rows, in place: the rule, its options and
// its states are those of row_optimizer.h. rows[i] has the gradient values[i, ...]; duplicates are
// summed first.
REGISTER_OP("FeedfastRowUpdate")
    .Input("table: resource")
    .Input("states: num_states * resource")  // float, as many and as large as the rule has
    .Input("rows: int64")                    // [n]
    .Input("values: float")                  // [n, ...], like rows of the table
    .Input("learning_rate: float")
    .Input("step: int64")  // of the table, from 1
    .Attr("num_states: int >= 0")
    .Attr("dtype: {float, half, bfloat16}") FEEDFAST_ROW_RULE_ATTRS.SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

// The same for the gradient of pooled bags: `grad` [num_bags, dim] is the gradient by their pooled
// vectors. `step` counts the updates of the table and is advanced first. The output is 0, the
// gradient of the trigger of FeedfastUpdateInBackward.
REGISTER_OP("FeedfastPooledRowUpdate")
    .Input("table: resource")
    .Input("states: num_states * resource")
    .Input("grad: float")
    .Input("values: int64")                 // [nnz]
    .Input("offsets: int64")                // [num_bags + 1]
    .Input("weights: num_weights * float")  // none, or one [nnz]
    .Input("learning_rate: float")
    .Input("step: resource")  // int64, scalar
    .Attr("num_states: int >= 0")
    .Attr("num_weights: int >= 0")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("dtype: {float, half, bfloat16}") FEEDFAST_ROW_RULE_ATTRS.Output("trigger_grad: float")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

// variable[rows[i], ...] = values[i, ...], in place and in that order.
REGISTER_OP("FeedfastAssignRows")
    .Input("variable: resource")
    .Input("rows: int64")    // [n]
    .Input("values: dtype")  // [n, ...]
    .Attr("dtype: {float, half, bfloat16}")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

// `pooled` as it is; the gradient function is FeedfastPooledRowUpdate with the other inputs, so
// that the table is updated when the loss is differentiated by the trigger.
REGISTER_OP("FeedfastUpdateInBackward")
    .Input("pooled: float")
    .Input("trigger: float")  // scalar
    .Input("table: resource")
    .Input("states: num_states * resource")
    .Input("values: int64")
    .Input("offsets: int64")
    .Input("weights: num_weights * float")
    .Input("learning_rate: float")
    .Input("step: resource")
    .Attr("num_states: int >= 0")
    .Attr("num_weights: int >= 0")
    .Attr("pooling: {'sum', 'mean', 'sqrtn'}")
    .Attr("dtype: {float, half, bfloat16}") FEEDFAST_ROW_RULE_ATTRS.Output("output: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      return absl::OkStatus();
    });

template <typename T>
absl::Status Assign(const StatusOr<T>& parsed, T* to) {
  if (parsed.ok()) *to = parsed.value();
  return ToTensorFlow(parsed.status());
}

// Everything but the learning rate and the step.
absl::Status ReadOptimizer(OpKernelConstruction* ctx, RowOptimizer* optimizer) {
  std::string rule;
  std::string clipping;
  std::string mode;
  std::int64_t seed = 0;
  TF_RETURN_IF_ERROR(ctx->GetAttr("rule", &rule));
  TF_RETURN_IF_ERROR(ctx->GetAttr("clipping", &clipping));
  TF_RETURN_IF_ERROR(ctx->GetAttr("weight_decay_mode", &mode));
  TF_RETURN_IF_ERROR(ctx->GetAttr("epsilon", &optimizer->epsilon));
  TF_RETURN_IF_ERROR(ctx->GetAttr("beta1", &optimizer->beta1));
  TF_RETURN_IF_ERROR(ctx->GetAttr("beta2", &optimizer->beta2));
  TF_RETURN_IF_ERROR(ctx->GetAttr("weight_decay", &optimizer->weight_decay));
  TF_RETURN_IF_ERROR(ctx->GetAttr("max_gradient", &optimizer->max_gradient));
  TF_RETURN_IF_ERROR(ctx->GetAttr("stochastic_rounding", &optimizer->stochastic_rounding));
  TF_RETURN_IF_ERROR(ctx->GetAttr("seed", &seed));
  optimizer->seed = static_cast<std::uint64_t>(seed);
  TF_RETURN_IF_ERROR(Assign(embedding_kernels::ParseUpdateRule(rule), &optimizer->rule));
  TF_RETURN_IF_ERROR(
      Assign(embedding_kernels::ParseGradientClipping(clipping), &optimizer->clipping));
  TF_RETURN_IF_ERROR(
      Assign(embedding_kernels::ParseWeightDecayMode(mode), &optimizer->weight_decay_mode));
  return ToTensorFlow(ValidateRowOptimizer(*optimizer));
}

absl::Status ReadScalar(const char* name, const Tensor& tensor) {
  if (tensor.NumElements() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must be a scalar; got shape " +
                                    tensor.shape().DebugString());
}

RangeRunner RunOnOpThreads(OpKernelContext* ctx) {
  return [ctx](std::int64_t size, std::int64_t cost,
               const std::function<void(std::int64_t, std::int64_t)>& body) {
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(size, cost, body);
  };
}

// Makes the caller the only owner of the variable's buffer. Readers share it unless the variable is
// in copy-on-read mode, which our updates never switch on: then every read would copy the table.
absl::Status Unshare(OpKernelContext* ctx, Var* variable) {
  Tensor* tensor = variable->tensor();
  if (variable->copy_on_read_mode.load() || tensor->RefCountIsOne()) return absl::OkStatus();
  Tensor copy;
  TF_RETURN_IF_ERROR(ctx->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
  *tensor = copy;
  return absl::OkStatus();
}

absl::Status RequireVariable(const std::string& name, const Var& variable, DataType dtype,
                             std::int64_t elements) {
  // tensor() is not const.
  const Tensor& tensor = *const_cast<Var&>(variable).tensor();
  if (!variable.is_initialized)
    return absl::FailedPreconditionError(name + " is a variable that was not initialized");
  if (tensor.dtype() != dtype)
    return absl::InvalidArgumentError(name + " has dtype " + DataTypeString(tensor.dtype()) +
                                      "; expected " + DataTypeString(dtype));
  if (elements >= 0 && tensor.NumElements() != elements)
    return absl::InvalidArgumentError(name + " has " + std::to_string(tensor.NumElements()) +
                                      " elements; the rule needs " + std::to_string(elements));
  return absl::OkStatus();
}

absl::Status LookupVariables(OpKernelContext* ctx, std::vector<RefCountPtr<Var>>* variables) {
  OpInputList states;
  TF_RETURN_IF_ERROR(ctx->input_list("states", &states));
  const Tensor* table = nullptr;
  TF_RETURN_IF_ERROR(ctx->input("table", &table));
  std::vector<const Tensor*> handles = {table};
  for (int i = 0; i < states.size(); ++i) handles.push_back(&states[i]);
  for (const Tensor* handle : handles) {
    RefCountPtr<Var> variable;
    TF_RETURN_IF_ERROR(
        LookupResource(ctx, handle->scalar<tensorflow::ResourceHandle>()(), &variable));
    for (const auto& other : *variables)
      if (other.get() == variable.get())
        return absl::InvalidArgumentError("table and states must be different variables; states[" +
                                          std::to_string(variables->size() - 1) +
                                          "] is given twice");
    variables->push_back(std::move(variable));
  }
  return absl::OkStatus();
}

// variables[0] is the table, the following ones are its states. Checks everything; writes nothing.
absl::Status ViewTrainable(const std::vector<RefCountPtr<Var>>& variables, DataType dtype,
                           const RowOptimizer& optimizer, TrainableTable* table) {
  TF_RETURN_IF_ERROR(RequireVariable("table", *variables[0], dtype, -1));
  const Tensor& rows = *variables[0]->tensor();
  table->num_rows = rows.dims() == 0 ? 1 : rows.dim_size(0);
  table->dim = table->num_rows == 0 ? 1 : rows.NumElements() / table->num_rows;
  table->format = RowFormat::kFloat32;
  if (dtype == tensorflow::DT_HALF) table->format = RowFormat::kFloat16;
  if (dtype == tensorflow::DT_BFLOAT16) table->format = RowFormat::kBfloat16;
  std::size_t states = 0;
  for (int slot = 0; slot < embedding_kernels::kMaxStates; ++slot) {
    const std::int64_t size = StateSize(optimizer.rule, slot, table->dim);
    if (size == 0) continue;
    ++states;
    if (states >= variables.size()) break;
    TF_RETURN_IF_ERROR(RequireVariable("states[" + std::to_string(slot) + "]", *variables[states],
                                       tensorflow::DT_FLOAT, table->num_rows * size));
  }
  if (states + 1 != variables.size())
    return absl::InvalidArgumentError("the rule has " + std::to_string(states) + " states; got " +
                                      std::to_string(variables.size() - 1));
  return absl::OkStatus();
}

// Fills in the pointers of a table that was viewed, which then nobody else reads.
absl::Status Own(OpKernelContext* ctx, const std::vector<RefCountPtr<Var>>& variables,
                 TrainableTable* table) {
  for (const auto& variable : variables) TF_RETURN_IF_ERROR(Unshare(ctx, variable.get()));
  table->data = variables[0]->tensor()->data();
  for (std::size_t state = 1; state < variables.size(); ++state)
    table->states[state - 1] = variables[state]->tensor()->flat<float>().data();
  return absl::OkStatus();
}

// What an op keeps from one call to the next.
class UpdateMemory {
 public:
  // Moves what is large to huge pages the first time.
  void See(const RowOptimizer& optimizer, const TrainableTable& table) {
    table_.See({table.data, table.num_rows, table.dim, table.format});
    for (int slot = 0; slot < embedding_kernels::kMaxStates; ++slot) {
      const std::int64_t size = StateSize(optimizer.rule, slot, table.dim);
      if (size > 0) states_[slot].See({table.states[slot], table.num_rows, size});
    }
  }

  // Calls use(groups), with the memory of the last call unless that call is still going on.
  template <typename Use>
  absl::Status WithGroups(const Use& use) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) return use(&groups_);
    RowGroups groups;
    return use(&groups);
  }

 private:
  TablePages table_;
  TablePages states_[embedding_kernels::kMaxStates];
  std::mutex mutex_;
  RowGroups groups_;
};

// What the update ops share: the rule, the memory, and the update once its gradient is known.
class RowOptimizerOp : public OpKernel {
 protected:
  explicit RowOptimizerOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype_));
    OP_REQUIRES_OK(ctx, ReadOptimizer(ctx, &optimizer_));
  }

  // The rule at `step`, with the learning rate of the call, and the table it is for. Writes
  // nothing.
  absl::Status View(OpKernelContext* ctx, const std::vector<RefCountPtr<Var>>& variables,
                    std::int64_t step, RowOptimizer* optimizer, TrainableTable* table) const {
    const Tensor* learning_rate = nullptr;
    TF_RETURN_IF_ERROR(ctx->input("learning_rate", &learning_rate));
    TF_RETURN_IF_ERROR(ReadScalar("learning_rate", *learning_rate));
    *optimizer = optimizer_;
    optimizer->learning_rate = learning_rate->flat<float>()(0);
    optimizer->step = step;
    TF_RETURN_IF_ERROR(ToTensorFlow(ValidateRowOptimizer(*optimizer)));
    return ViewTrainable(variables, dtype_, *optimizer, table);
  }

  // Applies the gradient that group(groups, &gradient) makes. Writes nothing where that fails.
  template <typename Group>
  absl::Status Apply(OpKernelContext* ctx, const std::vector<RefCountPtr<Var>>& variables,
                     const RowOptimizer& optimizer, TrainableTable* table, const Group& group) {
    return memory_.WithGroups([&](RowGroups* groups) -> absl::Status {
      RowGradient gradient;
      TF_RETURN_IF_ERROR(group(groups, &gradient));
      TF_RETURN_IF_ERROR(Own(ctx, variables, table));
      memory_.See(optimizer, *table);
      ApplyRowGradient(*table, optimizer, gradient, RunOnOpThreads(ctx));
      return absl::OkStatus();
    });
  }

 private:
  DataType dtype_ = tensorflow::DT_FLOAT;
  RowOptimizer optimizer_;
  UpdateMemory memory_;
};

// One row of the table for each of `count`.
absl::Status RequireRows(const char* name, const Tensor& tensor, std::int64_t count,
                         std::int64_t dim) {
  if (tensor.NumElements() == count * dim) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must have " + std::to_string(count) +
                                    " x " + std::to_string(dim) + " elements; got shape " +
                                    tensor.shape().DebugString());
}

class RowUpdateOp : public RowOptimizerOp {
 public:
  explicit RowUpdateOp(OpKernelConstruction* ctx) : RowOptimizerOp(ctx) {}

  void Compute(OpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Update(ctx)); }

 private:
  absl::Status Update(OpKernelContext* ctx) {
    const Tensor* rows_tensor = nullptr;
    const Tensor* values = nullptr;
    const Tensor* step = nullptr;
    TF_RETURN_IF_ERROR(ctx->input("rows", &rows_tensor));
    TF_RETURN_IF_ERROR(ctx->input("values", &values));
    TF_RETURN_IF_ERROR(ctx->input("step", &step));
    TF_RETURN_IF_ERROR(ReadScalar("step", *step));
    if (rows_tensor->dims() != 1)
      return absl::InvalidArgumentError("rows must have 1 dimensions; got " +
                                        std::to_string(rows_tensor->dims()));
    const Span<const std::int64_t> rows{rows_tensor->flat<std::int64_t>().data(),
                                        rows_tensor->NumElements()};

    std::vector<RefCountPtr<Var>> variables;
    TF_RETURN_IF_ERROR(LookupVariables(ctx, &variables));
    const VariableLocks locks(variables, VariableLocks::kExclusive);
    RowOptimizer optimizer;
    TrainableTable table;
    TF_RETURN_IF_ERROR(View(ctx, variables, step->flat<std::int64_t>()(0), &optimizer, &table));
    TF_RETURN_IF_ERROR(RequireRows("values", *values, rows.size(), table.dim));
    TF_RETURN_IF_ERROR(ToTensorFlow(ValidateRows(rows, table.num_rows)));
    const float* grad = values->flat<float>().data();
    return Apply(ctx, variables, optimizer, &table,
                 [&](RowGroups* groups, RowGradient* gradient) -> absl::Status {
                   if (!StrictlyAscending(rows)) {
                     TF_RETURN_IF_ERROR(ToTensorFlow(groups->GroupSlices(rows)));
                     *gradient = groups->Gradient(grad, table.dim);
                     return absl::OkStatus();
                   }
                   gradient->num_rows = rows.size();
                   gradient->rows = rows.data();
                   gradient->grad = grad;
                   gradient->dim = table.dim;
                   return absl::OkStatus();
                 });
  }
};

class PooledRowUpdateOp : public RowOptimizerOp {
 public:
  explicit PooledRowUpdateOp(OpKernelConstruction* ctx) : RowOptimizerOp(ctx) {
    std::string pooling;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("pooling", &pooling));
    OP_REQUIRES_OK(ctx, ToPooling(pooling, &pooling_));
  }

  void Compute(OpKernelContext* ctx) override {
    OP_REQUIRES_OK(ctx, Update(ctx));
    Tensor* zero = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &zero));
    zero->scalar<float>()() = 0.0f;
  }

 private:
  absl::Status Update(OpKernelContext* ctx) {
    const Tensor* grad = nullptr;
    const Tensor* values = nullptr;
    const Tensor* offsets = nullptr;
    OpInputList weights;
    TF_RETURN_IF_ERROR(ctx->input("grad", &grad));
    TF_RETURN_IF_ERROR(ctx->input("values", &values));
    TF_RETURN_IF_ERROR(ctx->input("offsets", &offsets));
    TF_RETURN_IF_ERROR(ctx->input_list("weights", &weights));
    if (weights.size() > 1)
      return absl::InvalidArgumentError("weights must be none or one tensor; got " +
                                        std::to_string(weights.size()));
    Bags bags;
    TF_RETURN_IF_ERROR(
        ViewBags(*values, *offsets, weights.size() == 0 ? nullptr : &weights[0], &bags));

    std::vector<RefCountPtr<Var>> variables;
    TF_RETURN_IF_ERROR(LookupVariables(ctx, &variables));
    RefCountPtr<Var> counter;
    const Tensor* step = nullptr;
    TF_RETURN_IF_ERROR(ctx->input("step", &step));
    TF_RETURN_IF_ERROR(LookupResource(ctx, step->scalar<tensorflow::ResourceHandle>()(), &counter));
    variables.push_back(std::move(counter));
    const VariableLocks locks(variables, VariableLocks::kExclusive);
    counter = std::move(variables.back());
    variables.pop_back();

    TF_RETURN_IF_ERROR(RequireVariable("step", *counter, tensorflow::DT_INT64, 1));
    RowOptimizer optimizer;
    TrainableTable table;
    TF_RETURN_IF_ERROR(
        View(ctx, variables, counter->tensor()->flat<std::int64_t>()(0) + 1, &optimizer, &table));
    TF_RETURN_IF_ERROR(ToTensorFlow(ValidateBags(bags, table.num_rows)));
    TF_RETURN_IF_ERROR(RequireRows("grad", *grad, bags.num_bags(), table.dim));
    TF_RETURN_IF_ERROR(Unshare(ctx, counter.get()));
    TF_RETURN_IF_ERROR(Apply(ctx, variables, optimizer, &table,
                             [&](RowGroups* groups, RowGradient* gradient) -> absl::Status {
                               TF_RETURN_IF_ERROR(ToTensorFlow(groups->Group(bags, pooling_)));
                               *gradient = groups->Gradient(grad->flat<float>().data(), table.dim);
                               return absl::OkStatus();
                             }));
    counter->tensor()->flat<std::int64_t>()(0) = optimizer.step;
    return absl::OkStatus();
  }

  Pooling pooling_ = Pooling::kSum;
};

class AssignRowsOp : public OpKernel {
 public:
  explicit AssignRowsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype_));
  }

  void Compute(OpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Write(ctx)); }

 private:
  absl::Status Write(OpKernelContext* ctx) {
    const Tensor& rows_tensor = ctx->input(1);
    const Tensor& values = ctx->input(2);
    std::vector<RefCountPtr<Var>> variables(1);
    TF_RETURN_IF_ERROR(
        LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &variables.front()));
    const VariableLocks locks(variables, VariableLocks::kExclusive);
    Var* variable = variables.front().get();
    TF_RETURN_IF_ERROR(RequireVariable("variable", *variable, dtype_, -1));
    const std::int64_t num_rows =
        variable->tensor()->dims() == 0 ? 1 : variable->tensor()->dim_size(0);
    const Span<const std::int64_t> rows{rows_tensor.flat<std::int64_t>().data(),
                                        rows_tensor.NumElements()};
    TF_RETURN_IF_ERROR(ToTensorFlow(ValidateRows(rows, num_rows)));
    const std::int64_t dim = num_rows == 0 ? 0 : variable->tensor()->NumElements() / num_rows;
    TF_RETURN_IF_ERROR(RequireRows("values", values, rows.size(), dim));
    TF_RETURN_IF_ERROR(Unshare(ctx, variable));
    const auto row_bytes = static_cast<std::size_t>(dim * tensorflow::DataTypeSize(dtype_));
    auto* to = static_cast<char*>(variable->tensor()->data());
    const auto* from = static_cast<const char*>(values.data());
    for (std::int64_t i = 0; i < rows.size(); ++i)
      std::memcpy(to + static_cast<std::size_t>(rows[i]) * row_bytes,
                  from + static_cast<std::size_t>(i) * row_bytes, row_bytes);
    return absl::OkStatus();
  }

  DataType dtype_ = tensorflow::DT_FLOAT;
};

class UpdateInBackwardOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override { ctx->set_output(0, ctx->input(0)); }
};

REGISTER_KERNEL_BUILDER(Name("FeedfastRowUpdate").Device(tensorflow::DEVICE_CPU), RowUpdateOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastPooledRowUpdate").Device(tensorflow::DEVICE_CPU),
                        PooledRowUpdateOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastAssignRows").Device(tensorflow::DEVICE_CPU), AssignRowsOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastUpdateInBackward").Device(tensorflow::DEVICE_CPU),
                        UpdateInBackwardOp);

}  // namespace
}  // namespace feedfast::tf_ops
