#include "cpp/model_store/tensor_header.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "cpp/model_store/json.h"
#include "cpp/model_store/manifest.h"

namespace feedfast::model_store {
namespace {

constexpr std::int64_t kLengthBytes = 8;
constexpr std::size_t kMaxRank = 8;

struct KnownDtype {
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array<KnownDtype, 7> kDtypes = {
    {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"U8", 1}, {"I8", 1}}};

const KnownDtype& Known(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)]; }

std::uint64_t HeaderLength(Span<const std::uint8_t> head) noexcept {
  std::uint64_t length = 0;
  for (std::int64_t i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | head[i];
  return length;
}

Status ReadSizes(const Json& value, const char* key, std::vector<std::int64_t>& sizes) {
  if (!value.is_array()) return DataLoss(key, " is not a list of sizes");
  for (const Json& size : value) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() >= std::uint64_t{kMaxSize})
      return DataLoss(key, " is not a list of sizes");
    sizes.push_back(size.get<std::int64_t>());
  }
  return OkStatus();
}

// Whether items of this size and shape fill exactly `bytes`. Sizes of a tensor are below its bytes,
// or one is zero, so the product stays in range.
bool Fills(std::int64_t item_bytes, const std::vector<std::int64_t>& shape, std::int64_t bytes) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return bytes == 0;
  std::int64_t size = item_bytes;
  for (const std::int64_t extent : shape) {
    if (extent > bytes / size) return false;
    size *= extent;
  }
  return size == bytes;
}

StatusOr<TensorSpec> ReadSpec(const Json& entry) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets"))
    return DataLoss("not an object of dtype, shape and data_offsets");
  const Json& dtype = entry["dtype"];
  const auto* known =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&dtype](const KnownDtype& candidate) {
        return dtype.is_string() && dtype.get_ref<const std::string&>() == candidate.name;
      });
  if (known == kDtypes.end()) return DataLoss("dtype ", CanonicalJson(dtype), " is unknown");
  TensorSpec spec;
  spec.dtype = static_cast<Dtype>(known - kDtypes.begin());
  FEEDFAST_RETURN_IF_ERROR(ReadSizes(entry["shape"], "shape", spec.shape));
  std::vector<std::int64_t> offsets;
  FEEDFAST_RETURN_IF_ERROR(ReadSizes(entry["data_offsets"], "data_offsets", offsets));
  if (offsets.size() != 2) return DataLoss("data_offsets has ", offsets.size(), " values; needs 2");
  spec.begin = offsets[0];
  spec.end = offsets[1];
  if (spec.shape.size() > kMaxRank || spec.begin % known->bytes != 0 || spec.end < spec.begin ||
      !Fills(known->bytes, spec.shape, spec.end - spec.begin))
    return DataLoss("shape of ", spec.shape.size(), " extents of ", known->name,
                    " does not fill bytes ", spec.begin, " to ", spec.end);
  return spec;
}

}  // namespace

std::string_view DtypeName(Dtype dtype) noexcept { return Known(dtype).name; }

std::int64_t DtypeBytes(Dtype dtype) noexcept { return Known(dtype).bytes; }

std::string ShapeText(Span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::int64_t i = 0; i < shape.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::int64_t TensorHeadBytes(Span<const std::uint8_t> head) noexcept {
  const std::uint64_t length = HeaderLength(head);
  return kLengthBytes + static_cast<std::int64_t>(
                            std::min(length, static_cast<std::uint64_t>(kMaxTensorHeaderBytes)));
}

StatusOr<TensorHeader> ParseTensorHeader(Span<const std::uint8_t> head, std::int64_t file_size) {
  if (head.size() < kLengthBytes)
    return DataLoss(file_size, " bytes are too few for a safetensors header");
  const std::uint64_t length = HeaderLength(head);
  if (length > static_cast<std::uint64_t>(kMaxTensorHeaderBytes) ||
      static_cast<std::int64_t>(length) > head.size() - kLengthBytes)
    return DataLoss("header of ", length, " bytes does not fit into ", file_size, " bytes");
  TensorHeader header;
  header.data_start = kLengthBytes + static_cast<std::int64_t>(length);
  StatusOr<Json> parsed = ParseJson(head.subspan(kLengthBytes, static_cast<std::int64_t>(length)),
                                    RepeatedNames::kRefused);
  if (!parsed.ok()) return DataLoss("header is ", parsed.status().message());
  if (!parsed->is_object()) return DataLoss("header is not a JSON object");
  parsed->erase("__metadata__");
  for (const auto& [name, entry] : parsed->get_ref<const Json::object_t&>()) {
    StatusOr<TensorSpec> spec = ReadSpec(entry);
    if (!spec.ok()) return DataLoss("tensor '", name, "': ", spec.status().message());
    header.tensors.emplace(name, std::move(spec).value());
  }
  std::vector<const std::pair<const std::string, TensorSpec>*> order;
  order.reserve(header.tensors.size());
  for (const auto& tensor : header.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::int64_t covered = 0;
  for (const auto* tensor : order) {
    if (tensor->second.begin != covered)
      return DataLoss("tensor '", tensor->first, "': starts at byte ", tensor->second.begin,
                      "; expected ", covered);
    covered = tensor->second.end;
  }
  if (header.data_start + covered != file_size)
    return DataLoss("tensors end at byte ", header.data_start + covered, " of ", file_size);
  return header;
}

}  // namespace feedfast::model_store
