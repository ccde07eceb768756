#include <cstdint>
#include <memory>
#include <vector>

#include "cpp/mph/stateless_hash.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "cpp/tf_ops/tensor_keys.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr std::int64_t kCyclesPerKey = 50;

absl::Status AppendDimension(InferenceContext* c, std::int64_t size) {
  ShapeHandle rows;
  TF_RETURN_IF_ERROR(c->Concatenate(c->input(0), c->Vector(size), &rows));
  c->set_output(0, rows);
  return absl::OkStatus();
}

// rows[..., j] = HashRow(keys[...], seeds[j], num_rows).
REGISTER_OP("FeedfastHashRows")
    .Input("keys: T")  // any shape
    .Attr("T: {string, int64}")
    .Attr("seeds: list(int) >= 1")  // the bits of unsigned seeds
    .Attr("num_rows: int >= 1")
    .Output("rows: int64")  // the shape of keys, then one per seed
    .SetShapeFn([](InferenceContext* c) {
      std::vector<std::int64_t> seeds;
      TF_RETURN_IF_ERROR(c->GetAttr("seeds", &seeds));
      return AppendDimension(c, static_cast<std::int64_t>(seeds.size()));
    });

// rows[..., :] = quotient and remainder of keys[...], as QuotientRemainderRows for strings and
// SplitIds for integers.
REGISTER_OP("FeedfastQuotientRemainderRows")
    .Input("keys: T")  // any shape
    .Attr("T: {string, int64}")
    .Attr("seed: int")  // the bits of an unsigned seed
    .Attr("num_quotients: int >= 1")
    .Attr("num_remainders: int >= 1")
    .Output("rows: int64")  // the shape of keys, then 2
    .SetShapeFn([](InferenceContext* c) { return AppendDimension(c, 2); });

Span<const std::int64_t> Integers(const Tensor& keys) {
  return {keys.flat<std::int64_t>().data(), keys.NumElements()};
}

std::unique_ptr<mph::KeySource> MakeSource(const Tensor& keys) {
  if (keys.dtype() == tensorflow::DT_STRING) return std::make_unique<TensorKeys>(keys);
  return std::make_unique<mph::IntegerKeys>(Integers(keys));
}

absl::Status AllocateRows(OpKernelContext* ctx, std::int64_t width, Span<std::int64_t>* rows) {
  tensorflow::TensorShape shape = ctx->input(0).shape();
  TF_RETURN_IF_ERROR(shape.AddDimWithStatus(width));
  Tensor* tensor = nullptr;
  TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &tensor));
  *rows = {tensor->flat<std::int64_t>().data(), tensor->NumElements()};
  return absl::OkStatus();
}

class HashRowsOp : public OpKernel {
 public:
  explicit HashRowsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::vector<std::int64_t> seeds;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("seeds", &seeds));
    seeds_.assign(seeds.begin(), seeds.end());
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_rows", &num_rows_));
    OP_REQUIRES_OK(ctx, ToTensorFlow(mph::ValidateHashedRows(num_rows_)));
  }

  void Compute(OpKernelContext* ctx) override {
    const auto width = static_cast<std::int64_t>(seeds_.size());
    Span<std::int64_t> rows;
    OP_REQUIRES_OK(ctx, AllocateRows(ctx, width, &rows));
    const std::unique_ptr<mph::KeySource> keys = MakeSource(ctx->input(0));
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
        keys->size(), kCyclesPerKey * width, [&](std::int64_t begin, std::int64_t end) {
          mph::HashRows(*keys, begin, seeds_, num_rows_,
                        rows.subspan(begin * width, (end - begin) * width));
        });
  }

 private:
  std::vector<std::uint64_t> seeds_;
  std::int64_t num_rows_ = 1;
};

class QuotientRemainderRowsOp : public OpKernel {
 public:
  explicit QuotientRemainderRowsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("seed", &seed_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_quotients", &num_quotients_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_remainders", &num_remainders_));
    OP_REQUIRES_OK(ctx,
                   ToTensorFlow(mph::ValidateQuotientRemainder(num_quotients_, num_remainders_)));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& keys = ctx->input(0);
    Span<std::int64_t> rows;
    OP_REQUIRES_OK(ctx, AllocateRows(ctx, 2, &rows));
    if (keys.dtype() == tensorflow::DT_INT64) {
      const Span<const std::int64_t> ids = Integers(keys);
      OP_REQUIRES_OK(ctx, ToTensorFlow(mph::ValidateIds(ids, num_quotients_ * num_remainders_)));
      mph::SplitIds(ids, num_remainders_, rows);
      return;
    }
    const TensorKeys source(keys);
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
        source.size(), kCyclesPerKey, [&](std::int64_t begin, std::int64_t end) {
          mph::QuotientRemainderRows(source, begin, static_cast<std::uint64_t>(seed_),
                                     num_quotients_, num_remainders_,
                                     rows.subspan(begin * 2, (end - begin) * 2));
        });
  }

 private:
  std::int64_t seed_ = 0;
  std::int64_t num_quotients_ = 1;
  std::int64_t num_remainders_ = 1;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastHashRows").Device(tensorflow::DEVICE_CPU), HashRowsOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastQuotientRemainderRows").Device(tensorflow::DEVICE_CPU),
                        QuotientRemainderRowsOp);

}  // namespace
}  // namespace feedfast::tf_ops
