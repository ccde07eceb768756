#include "cpp/tf_ops/lookup_inputs.h"

#include "cpp/embedding_kernels/table_pages.h"
#include "cpp/tf_ops/status_to_tf.h"

namespace feedfast::tf_ops {
namespace {

using embedding_kernels::Bags;
using embedding_kernels::IndexSpan;
using embedding_kernels::Pooling;
using embedding_kernels::RowFormat;
using embedding_kernels::Table;
using tensorflow::DataType;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

template <typename T>
Span<const T> AsSpan(const Tensor& tensor) {
  return {tensor.flat<T>().data(), tensor.NumElements()};
}

absl::Status ViewIndexes(const char* name, const Tensor& tensor, IndexSpan* indexes) {
  TF_RETURN_IF_ERROR(RequireRank(name, tensor, 1));
  if (tensor.dtype() == tensorflow::DT_INT32)
    *indexes = AsSpan<std::int32_t>(tensor);
  else
    *indexes = AsSpan<std::int64_t>(tensor);
  return absl::OkStatus();
}

}  // namespace

absl::Status RequireRank(const char* name, const Tensor& tensor, int rank) {
  if (tensor.dims() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must have " + std::to_string(rank) +
                                    " dimensions; got " + std::to_string(tensor.dims()));
}

absl::Status RequireShape(const char* name, const Tensor& tensor,
                          const tensorflow::TensorShape& shape) {
  if (tensor.shape() == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(name) + " must have shape " + shape.DebugString() +
                                    "; got " + tensor.shape().DebugString());
}

absl::Status ToPooling(const std::string& name, Pooling* pooling) {
  const StatusOr<Pooling> parsed = embedding_kernels::ParsePooling(name);
  if (!parsed.ok()) return ToTensorFlow(parsed.status());
  *pooling = parsed.value();
  return absl::OkStatus();
}

absl::Status ViewBags(const Tensor& values, const Tensor& offsets, const Tensor* weights,
                      Bags* bags) {
  TF_RETURN_IF_ERROR(ViewIndexes("values", values, &bags->values));
  TF_RETURN_IF_ERROR(ViewIndexes("offsets", offsets, &bags->offsets));
  if (weights == nullptr) return absl::OkStatus();
  TF_RETURN_IF_ERROR(RequireRank("weights", *weights, 1));
  bags->weights = AsSpan<float>(*weights);
  return absl::OkStatus();
}

absl::Status ViewTable(const Tensor& tensor, DataType dtype, Table* table) {
  if (tensor.dtype() != dtype)
    return absl::InvalidArgumentError("table has dtype " + DataTypeString(tensor.dtype()) +
                                      "; the op was built for " + DataTypeString(dtype));
  TF_RETURN_IF_ERROR(RequireRank("table", tensor, 2));
  if (tensor.dim_size(1) < 1)
    return absl::InvalidArgumentError("table must have at least 1 columns; got 0");
  RowFormat format = RowFormat::kFloat32;
  if (dtype == tensorflow::DT_HALF) format = RowFormat::kFloat16;
  if (dtype == tensorflow::DT_BFLOAT16) format = RowFormat::kBfloat16;
  *table = {tensor.data(), tensor.dim_size(0), tensor.dim_size(1), format};
  return absl::OkStatus();
}

ShapeHandle ShapeOfVariable(InferenceContext* c, int index) {
  const auto* shapes = c->input_handle_shapes_and_types(index);
  if (shapes == nullptr || shapes->empty()) return c->UnknownShape();
  return shapes->front().shape;
}

void TablePages::See(const Table& table) {
  // Below this size the TLB holds the table.
  constexpr std::int64_t kLeastBytes = std::int64_t{64} << 20;
  const std::int64_t bytes = table.num_rows * RowBytes(table.format, table.dim);
  if (bytes < kLeastBytes) return;
  for (const auto& seen : seen_)
    if (seen.load(std::memory_order_relaxed) == table.data) return;
  const std::size_t place = next_.fetch_add(1, std::memory_order_relaxed) % seen_.size();
  seen_[place].store(table.data, std::memory_order_relaxed);
  embedding_kernels::MoveToHugePages(table.data, bytes);
}

}  // namespace feedfast::tf_ops
