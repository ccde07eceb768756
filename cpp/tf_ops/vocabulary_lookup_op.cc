#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "cpp/mph/oov_rows.h"
#include "cpp/mph/stateless_hash.h"
#include "cpp/mph/vocabulary.h"
#include "cpp/tf_ops/status_to_tf.h"
#include "cpp/tf_ops/tensor_keys.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::ResourceHandle;
using tensorflow::Tensor;
using tensorflow::tstring;
using tensorflow::core::RefCountPtr;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// A handle by name, so that the nodes of a restored graph meet in one vocabulary.
REGISTER_OP("FeedfastVocabularyHandle")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .Output("vocabulary: resource")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

// Maps the file behind the handle (header verification), unless a user of the same name did, and
// counts one more user.
REGISTER_OP("FeedfastVocabularyInit")
    .Input("vocabulary: resource")
    .Input("path: string")  // scalar
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      return c->WithRank(c->input(1), 0, &unused);
    });

// Counts one user less; the last one closes the file. Not an error when there is none.
REGISTER_OP("FeedfastVocabularyRelease")
    .Input("vocabulary: resource")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

// rows[i] = row of keys[i], as LookupWithOov: rows 0..num_oov-1 are for unknown keys.
REGISTER_OP("FeedfastVocabularyLookup")
    .Input("vocabulary: resource")
    .Input("keys: string")  // any shape
    .Attr("num_oov: int >= 1 = 1")
    .Output("rows: int64")  // the shape of keys
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(1));
      return absl::OkStatus();
    });

REGISTER_OP("FeedfastVocabularySize")
    .Input("vocabulary: resource")
    .Output("size: int64")  // scalar
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

class VocabularyResource : public tensorflow::ResourceBase {
 public:
  explicit VocabularyResource(mph::Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

  std::string DebugString() const override {
    return "feedfast vocabulary of " + std::to_string(vocabulary_.size()) + " keys";
  }
  const mph::Vocabulary& vocabulary() const { return vocabulary_; }

  std::int64_t num_users = 0;  // guarded by UsersMutex()

 private:
  mph::Vocabulary vocabulary_;
};

// Objects that were restored from one SavedModel in one process share a resource name, so a
// vocabulary lives until the last of them is gone. One lock for all is enough: opening and closing
// are rare and take microseconds.
std::mutex& UsersMutex() {
  static std::mutex mutex;
  return mutex;
}

class VocabularyInitOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& path = ctx->input(1);
    OP_REQUIRES(ctx, path.dims() == 0,
                absl::InvalidArgumentError("path must be a scalar; got shape " +
                                           path.shape().DebugString()));
    const std::lock_guard<std::mutex> lock(UsersMutex());
    RefCountPtr<VocabularyResource> resource;
    const auto open = [&](VocabularyResource** created) -> absl::Status {
      try {
        StatusOr<mph::Vocabulary> vocabulary =
            mph::Vocabulary::Open(path.scalar<tstring>()(), mph::Verify::kHeader);
        if (!vocabulary.ok()) return ToTensorFlow(vocabulary.status());
        *created = new VocabularyResource(std::move(vocabulary).value());
        return absl::OkStatus();
      } catch (const std::bad_alloc&) {
        return absl::ResourceExhaustedError("no memory to open the vocabulary");
      }
    };
    OP_REQUIRES_OK(ctx, tensorflow::LookupOrCreateResource<VocabularyResource>(
                            ctx, tensorflow::HandleFromInput(ctx, 0), &resource, open));
    ++resource->num_users;
  }
};

class VocabularyReleaseOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const ResourceHandle& handle = tensorflow::HandleFromInput(ctx, 0);
    const std::lock_guard<std::mutex> lock(UsersMutex());
    RefCountPtr<VocabularyResource> resource;
    if (!tensorflow::LookupResource(ctx, handle, &resource).ok()) return;
    if (--resource->num_users == 0)
      OP_REQUIRES_OK(ctx, tensorflow::DeleteResource<VocabularyResource>(ctx, handle));
  }
};

class VocabularyLookupOp : public OpKernel {
 public:
  explicit VocabularyLookupOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_oov", &num_oov_));
    OP_REQUIRES_OK(ctx, ToTensorFlow(mph::ValidateHashedRows(num_oov_)));
  }

  void Compute(OpKernelContext* ctx) override {
    RefCountPtr<VocabularyResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    const Tensor& keys = ctx->input(1);
    Tensor* rows = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, keys.shape(), &rows));
    const TensorKeys source(keys);
    std::int64_t* out = rows->flat<std::int64_t>().data();
    // Threads share blocks of keys: filling the pipeline of a lookup costs as much as 30 keys, and
    // a key takes 40 to 60 cycles (bench_vocabulary_lookup).
    constexpr std::int64_t kBlock = 1024;
    constexpr std::int64_t kCyclesPerKey = 50;
    const std::int64_t size = source.size();
    ctx->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(
        (size + kBlock - 1) / kBlock, kBlock * kCyclesPerKey,
        [&](std::int64_t first_block, std::int64_t end_block) {
          const std::int64_t begin = first_block * kBlock;
          const std::int64_t end = std::min(size, end_block * kBlock);
          mph::LookupWithOov(resource->vocabulary(), source, begin, num_oov_,
                             {out + begin, end - begin});
        });
  }

 private:
  std::int64_t num_oov_ = 1;
};

class VocabularySizeOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    RefCountPtr<VocabularyResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    Tensor* size = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &size));
    size->scalar<std::int64_t>()() = resource->vocabulary().size();
  }
};

REGISTER_KERNEL_BUILDER(Name("FeedfastVocabularyHandle").Device(tensorflow::DEVICE_CPU),
                        tensorflow::ResourceHandleOp<VocabularyResource>);
REGISTER_KERNEL_BUILDER(Name("FeedfastVocabularyInit").Device(tensorflow::DEVICE_CPU),
                        VocabularyInitOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastVocabularyRelease").Device(tensorflow::DEVICE_CPU),
                        VocabularyReleaseOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastVocabularyLookup").Device(tensorflow::DEVICE_CPU),
                        VocabularyLookupOp);
REGISTER_KERNEL_BUILDER(Name("FeedfastVocabularySize").Device(tensorflow::DEVICE_CPU),
                        VocabularySizeOp);

}  // namespace
}  // namespace feedfast::tf_ops
