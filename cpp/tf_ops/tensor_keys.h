#ifndef FEEDFAST_CPP_TF_OPS_TENSOR_KEYS_H_
#define FEEDFAST_CPP_TF_OPS_TENSOR_KEYS_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/mph/key_source.h"
#include "tensorflow/core/framework/tensor.h"

namespace feedfast::tf_ops {

// The strings of a tensor, which outlives the source: short ones lie inside their 24-byte element,
// long ones on the heap.
class TensorKeys final : public mph::KeySource {
 public:
  explicit TensorKeys(const tensorflow::Tensor& keys)
      : keys_(keys.flat<tensorflow::tstring>().data()), size_(keys.NumElements()) {}

  std::int64_t size() const noexcept override { return size_; }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {keys_[begin + i].data(), keys_[begin + i].size()};
  }

 private:
  const tensorflow::tstring* keys_;
  std::int64_t size_;
};

}  // namespace feedfast::tf_ops

#endif  // FEEDFAST_CPP_TF_OPS_TENSOR_KEYS_H_
