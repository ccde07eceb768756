#include <cstdint>

#include "cpp/mph/key_codes.h"
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

// codes[...] = HashKeys(keys[...], seed): what vocabularies know of a key.
REGISTER_OP("FeedfastHashKeys")
    .Input("keys: string")    // any shape
    .Attr("seed: int")        // the bits of an unsigned seed
    .Output("codes: uint64")  // the shape of keys
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      c->set_output(0, c->input(0));
      return absl::OkStatus();
    });

class HashKeysOp : public OpKernel {
 public:
  explicit HashKeysOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("seed", &seed_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& keys = ctx->input(0);
    Tensor* codes = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, keys.shape(), &codes));
    auto* const out = reinterpret_cast<mph::KeyCode*>(codes->flat<tensorflow::uint64>().data());
    mph::HashAll(TensorKeys(keys), static_cast<std::uint64_t>(seed_), 1,
                 {out, codes->NumElements()});
  }

 private:
  std::int64_t seed_ = 0;
};

REGISTER_KERNEL_BUILDER(Name("FeedfastHashKeys").Device(tensorflow::DEVICE_CPU), HashKeysOp);

}  // namespace
}  // namespace feedfast::tf_ops
