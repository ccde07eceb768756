#include "cpp/ranker/layers.h"

#include <cstdint>
#include <vector>

namespace feedfast::ranker {
namespace {

using model_store::Dtype;
using model_store::Tensor;
using model_store::Tensors;

const Tensor* Find(const Tensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

Dtype WeightDtype(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return Dtype::kBf16;
    case Precision::kInt8:
      return Dtype::kI8;
    case Precision::kFp32:
      break;
  }
  return Dtype::kF32;
}

// A tensor of exactly this dtype and shape; extents of -1 are any of at least 1.
StatusOr<const Tensor*> FindExact(const Tensors& tensors, const std::string& name, Dtype dtype,
                                  const std::vector<std::int64_t>& shape) {
  const Tensor* tensor = Find(tensors, name);
  if (tensor == nullptr) return DataLoss(name, " is missing");
  bool fits = tensor->dtype == dtype && tensor->shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i)
    fits = tensor->shape[i] >= 1 && (shape[i] < 0 || tensor->shape[i] == shape[i]);
  if (!fits)
    return DataLoss(name, " must be ", model_store::DtypeName(dtype), " of shape ",
                    model_store::ShapeText(shape), " (-1: any); got ",
                    model_store::DtypeName(tensor->dtype), " of shape ",
                    model_store::ShapeText(tensor->shape));
  return tensor;
}

StatusOr<Span<const float>> FindRow(const Tensors& tensors, const std::string& name,
                                    std::int64_t size) {
  const StatusOr<const Tensor*> row = FindExact(tensors, name, Dtype::kF32, {size});
  if (!row.ok()) return row.status();
  return row.value()->As<float>();
}

struct Matrix {
  WeightView view;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

// The matrix `name` with its scales `name`_scale; sizes of -1 are any.
StatusOr<Matrix> FindMatrix(const Tensors& tensors, const std::string& name, Precision precision,
                            std::int64_t rows, std::int64_t columns) {
  const StatusOr<const Tensor*> found =
      FindExact(tensors, name, WeightDtype(precision), {rows, columns});
  if (!found.ok()) return found.status();
  const Tensor& tensor = *found.value();
  Matrix matrix{{}, tensor.shape[0], tensor.shape[1]};
  const std::string scale = name + "_scale";
  if (precision != Precision::kInt8 && Find(tensors, scale) != nullptr)
    return DataLoss(scale, " is given; ", name, " holds ", PrecisionName(precision),
                    " weights, which have no scales");
  switch (precision) {
    case Precision::kFp32:
      matrix.view = tensor.As<float>();
      break;
    case Precision::kBf16:
      matrix.view = WeightView::Bf16(tensor.As<std::uint16_t>());
      break;
    case Precision::kInt8: {
      const StatusOr<Span<const float>> scales = FindRow(tensors, scale, matrix.columns);
      if (!scales.ok()) return scales.status();
      matrix.view = WeightView::Int8(tensor.As<std::int8_t>(), scales.value());
      break;
    }
  }
  return matrix;
}

Status ReadGate(const Tensors& tensors, const std::string& layer, Precision precision,
                GatedLayer& out) {
  std::int64_t source = out.gate == Gate::kHidden ? out.out : out.in;
  if (Find(tensors, layer + "/gate_down") != nullptr) {
    const StatusOr<Matrix> down = FindMatrix(tensors, layer + "/gate_down", precision, source, -1);
    if (!down.ok()) return down.status();
    out.gate_down = down->view;
    out.gate_rank = down->columns;
    source = out.gate_rank;
  }
  const StatusOr<Matrix> up =
      FindMatrix(tensors, layer + "/gate_weight", precision, source, out.out);
  if (!up.ok()) return up.status();
  out.gate_weight = up->view;
  const StatusOr<Span<const float>> bias = FindRow(tensors, layer + "/gate_bias", out.out);
  if (!bias.ok()) return bias.status();
  out.gate_bias = bias.value();
  return OkStatus();
}

}  // namespace

StatusOr<GatedLayer> ReadGatedLayer(const Tensors& tensors, const std::string& layer,
                                    const LayerDescription& description) {
  GatedLayer out;
  out.gate = description.gate;
  out.activation = description.activation;
  const StatusOr<Matrix> weight =
      FindMatrix(tensors, layer + "/weight", description.precision, -1, -1);
  if (!weight.ok()) return weight.status();
  out.in = weight->rows;
  out.out = weight->columns;
  out.weight = weight->view;
  const StatusOr<Span<const float>> bias = FindRow(tensors, layer + "/bias", out.out);
  if (!bias.ok()) return bias.status();
  out.bias = bias.value();
  if (out.gate != Gate::kNone) {
    FEEDFAST_RETURN_IF_ERROR(ReadGate(tensors, layer, description.precision, out));
    return out;
  }
  for (const char* array : {"/gate_down", "/gate_weight", "/gate_bias"})
    if (Find(tensors, layer + array) != nullptr)
      return DataLoss(layer, array, " is given; the layer has no gate");
  return out;
}

StatusOr<CrossLayer> ReadCrossLayer(const Tensors& tensors, const std::string& layer,
                                    const CrossDescription& description, std::int64_t size) {
  CrossLayer out;
  out.size = size;
  out.rank = description.rank;
  if (out.rank > 0) {
    const StatusOr<Matrix> down =
        FindMatrix(tensors, layer + "/down", description.precision, size, out.rank);
    if (!down.ok()) return down.status();
    out.down = down->view;
  } else if (Find(tensors, layer + "/down") != nullptr) {
    return DataLoss(layer, "/down is given; the description says full matrices");
  }
  const StatusOr<Matrix> weight = FindMatrix(tensors, layer + "/weight", description.precision,
                                             out.rank > 0 ? out.rank : size, size);
  if (!weight.ok()) return weight.status();
  out.weight = weight->view;
  const StatusOr<Span<const float>> bias = FindRow(tensors, layer + "/bias", size);
  if (!bias.ok()) return bias.status();
  out.bias = bias.value();
  return out;
}

StatusOr<const Tensor*> FindFloats(const Tensors& tensors, const std::string& name,
                                   std::size_t rank) {
  const Tensor* tensor = Find(tensors, name);
  if (tensor == nullptr)
    return DataLoss("tensor '", name, "' must be F32 with ", rank, " dimensions; got nothing");
  if (tensor->dtype != Dtype::kF32 || tensor->shape.size() != rank)
    return DataLoss("tensor '", name, "' must be F32 with ", rank, " dimensions; got ",
                    model_store::DtypeName(tensor->dtype), " of shape ",
                    model_store::ShapeText(tensor->shape));
  return tensor;
}

}  // namespace feedfast::ranker
