#ifndef FEEDFAST_CPP_TF_OPS_LOOKUP_INPUTS_H_
#define FEEDFAST_CPP_TF_OPS_LOOKUP_INPUTS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cpp/embedding_kernels/bags.h"
#include "cpp/embedding_kernels/table.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/tensor.h"

// Inputs that the ops of pooled lookups share.
namespace feedfast::tf_ops {

absl::Status RequireRank(const char* name, const tensorflow::Tensor& tensor, int rank);
absl::Status RequireShape(const char* name, const tensorflow::Tensor& tensor,
                          const tensorflow::TensorShape& shape);

absl::Status ToPooling(const std::string& name, embedding_kernels::Pooling* pooling);

// Views of values [nnz] and offsets [num_bags + 1], each int64 or int32, and of weights [nnz] or
// nullptr.
absl::Status ViewBags(const tensorflow::Tensor& values, const tensorflow::Tensor& offsets,
                      const tensorflow::Tensor* weights, embedding_kernels::Bags* bags);

// A view of a table [num_rows, dim] of `dtype`.
absl::Status ViewTable(const tensorflow::Tensor& tensor, tensorflow::DataType dtype,
                       embedding_kernels::Table* table);

// The shape of the variable behind input `index`, unknown where the handle does not tell.
tensorflow::shape_inference::ShapeHandle ShapeOfVariable(
    tensorflow::shape_inference::InferenceContext* c, int index);

// Moves large tables to huge pages the first time an op sees them: TensorFlow allocates small ones.
// A kernel remembers the last few: one traced function may read different tables in turn.
class TablePages {
 public:
  void See(const embedding_kernels::Table& table);

 private:
  std::array<std::atomic<const void*>, 8> seen_{};
  std::atomic<std::size_t> next_{0};
};

}  // namespace feedfast::tf_ops

#endif  // FEEDFAST_CPP_TF_OPS_LOOKUP_INPUTS_H_
