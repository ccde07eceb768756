// FeedfastLeafEncode: dense features to one leaf row per tree.
#include <cstring>
#include <memory>
#include <utility>

#include "cpp/tf_ops/status_to_tf.h"
#include "cpp/tree_encoder/leaf_encoder.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/mutex.h"
#include "tensorflow/core/util/work_sharder.h"

namespace feedfast::tf_ops {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;
using tree_encoder::LeafEncoder;

Span<const std::uint8_t> AsBytes(const Tensor& image) {
  const auto flat = image.flat<std::uint8_t>();
  return {flat.data(), static_cast<std::int64_t>(flat.size())};
}

REGISTER_OP("FeedfastLeafEncode")
    .Input("x: float")        // [batch, num_features]; NaN is missing
    .Input("forest: uint8")   // the image of docs/formats/forest.md
    .Output("leaves: int32")  // [batch, num_trees], rows of one leaf table
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x;
      ShapeHandle forest;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &forest));
      DimensionHandle num_trees = c->UnknownDim();
      if (const Tensor* const image = c->input_tensor(1); image != nullptr) {
        const StatusOr<LeafEncoder> encoder = LeafEncoder::FromImage(AsBytes(*image));
        TF_RETURN_IF_ERROR(ToTensorFlow(encoder.status()));
        DimensionHandle unused;
        TF_RETURN_IF_ERROR(c->WithValue(c->Dim(x, 1), encoder->num_features(), &unused));
        num_trees = c->MakeDim(encoder->num_trees());
      }
      c->set_output(0, c->Matrix(c->Dim(x, 0), num_trees));
      return absl::OkStatus();
    });

// The forest travels in the graph as a constant, so that a SavedModel holds it without assets or
// resources to initialise. The kernel unpacks it once and keeps it while the image stays the same.
class LeafEncodeOp : public OpKernel {
 public:
  explicit LeafEncodeOp(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& image = context->input(1);
    OP_REQUIRES(context, x.dims() == 2,
                InvalidArgument("x must have 2 dimensions; got ", x.dims()));
    std::shared_ptr<const LeafEncoder> encoder;
    OP_REQUIRES_OK(context, EncoderOf(image, &encoder));
    const std::int64_t num_features = encoder->num_features();
    const std::int64_t num_trees = encoder->num_trees();
    OP_REQUIRES(context, x.dim_size(1) == num_features,
                InvalidArgument("x has ", x.dim_size(1), " columns; the forest was trained on ",
                                num_features, " features"));
    Tensor* leaves = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, TensorShape({x.dim_size(0), num_trees}), &leaves));
    const float* const rows = x.flat<float>().data();
    std::int32_t* const out = leaves->flat<std::int32_t>().data();
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    constexpr std::int64_t kCyclesPerTree = 30;
    tensorflow::Shard(workers.num_threads, workers.workers, x.dim_size(0),
                      kCyclesPerTree * num_trees, [&](std::int64_t begin, std::int64_t end) {
                        encoder->Encode(rows + begin * num_features, end - begin, num_features,
                                        out + begin * num_trees);
                      });
  }

 private:
  // The encoder of `image`: the one at hand when the bytes are the same. Holding the tensor keeps
  // its buffer from being reused, so an equal address is an equal image.
  absl::Status EncoderOf(const Tensor& image, std::shared_ptr<const LeafEncoder>* encoder) {
    const Span<const std::uint8_t> bytes = AsBytes(image);
    const tensorflow::mutex_lock lock(mutex_);
    const Span<const std::uint8_t> known = AsBytes(image_);
    const bool same =
        encoder_ != nullptr && known.size() == bytes.size() &&
        (known.data() == bytes.data() ||
         std::memcmp(known.data(), bytes.data(), static_cast<std::size_t>(bytes.size())) == 0);
    if (!same) {
      StatusOr<LeafEncoder> loaded = LeafEncoder::FromImage(bytes);
      if (!loaded.ok()) return ToTensorFlow(loaded.status());
      encoder_ = std::make_shared<const LeafEncoder>(std::move(loaded).value());
      image_ = image;
    }
    *encoder = encoder_;
    return absl::OkStatus();
  }

  tensorflow::mutex mutex_;
  Tensor image_{tensorflow::DT_UINT8, TensorShape({0})} TF_GUARDED_BY(mutex_);
  std::shared_ptr<const LeafEncoder> encoder_ TF_GUARDED_BY(mutex_);
};

REGISTER_KERNEL_BUILDER(Name("FeedfastLeafEncode").Device(tensorflow::DEVICE_CPU), LeafEncodeOp);

}  // namespace
}  // namespace feedfast::tf_ops
