#include "cpp/model_store/manifest.h"

#include <algorithm>
#include <array>
#include <utility>

#include "cpp/model_store/sha256.h"

namespace feedfast::model_store {
namespace {

using embedding_kernels::RowFormat;

constexpr std::string_view kFormat = "feedfast.model_store";
constexpr std::int64_t kOldestVersion = 1;
constexpr std::int64_t kNewestVersion = 2;

struct Layout {
  std::string_view name;
  RowFormat format;
};
constexpr std::array<Layout, 5> kLayouts = {{{"float32", RowFormat::kFloat32},
                                             {"float16", RowFormat::kFloat16},
                                             {"bfloat16", RowFormat::kBfloat16},
                                             {"int8_rowwise", RowFormat::kInt8Rowwise},
                                             {"int4_rowwise", RowFormat::kInt4Rowwise}}};

// The member of an object; nullptr: there is none, or `value` is no object.
const Json* Find(const Json& value, const char* key) {
  if (!value.is_object()) return nullptr;
  const auto found = value.find(key);
  return found == value.end() ? nullptr : &*found;
}

// nullptr: no string.
const std::string* FindText(const Json& value, const char* key) {
  const Json* found = Find(value, key);
  return found == nullptr ? nullptr : found->get_ptr<const std::string*>();
}

StatusOr<std::int64_t> ReadSize(const Json* value, const char* key) {
  if (value == nullptr) return DataLoss("'", key, "' is missing");
  if (!value->is_number_unsigned() || value->get<std::uint64_t>() >= std::uint64_t{kMaxSize})
    return DataLoss("'", key, "' is not a size; got ", CanonicalJson(*value));
  return value->get<std::int64_t>();
}

bool IsSha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

StatusOr<BlobRef> ReadBlob(const Json& value, SectionKind kind) {
  BlobRef blob;
  const std::string* sha256 = FindText(value, "sha256");
  if (sha256 == nullptr || !IsSha256(*sha256)) return DataLoss("a blob has no sha256");
  blob.sha256 = *sha256;
  const StatusOr<std::int64_t> bytes = ReadSize(Find(value, "bytes"), "bytes");
  if (!bytes.ok()) return bytes.status();
  blob.num_bytes = bytes.value();
  if (kind == SectionKind::kTable) {
    const StatusOr<std::int64_t> rows = ReadSize(Find(value, "rows"), "rows");
    if (!rows.ok()) return rows.status();
    blob.num_rows = rows.value();
  }
  return blob;
}

Status ReadTable(const Json& value, Section& section) {
  const std::string* layout = FindText(value, "layout");
  const auto* known = std::find_if(
      kLayouts.begin(), kLayouts.end(),
      [layout](const Layout& candidate) { return layout != nullptr && candidate.name == *layout; });
  if (known == kLayouts.end())
    return DataLoss("layout ", layout == nullptr ? "" : *layout,
                    " is unknown; allowed: float32, float16, bfloat16, int8_rowwise, int4_rowwise");
  section.layout = *layout;
  section.format = known->format;
  const Json* shape = Find(value, "shape");
  if (shape == nullptr || !shape->is_array() || shape->size() != 2)
    return DataLoss("shape of a table is not [rows, dim]");
  const StatusOr<std::int64_t> rows = ReadSize(&(*shape)[0], "shape");
  if (!rows.ok()) return rows.status();
  const StatusOr<std::int64_t> dim = ReadSize(&(*shape)[1], "shape");
  if (!dim.ok()) return dim.status();
  if (dim.value() < 1 || dim.value() > kMaxDim)
    return DataLoss("dim of a table is ", dim.value(), "; allowed: 1 to ", kMaxDim);
  section.num_rows = rows.value();
  section.dim = dim.value();
  std::int64_t sum = 0;
  for (const BlobRef& blob : section.blobs) {
    if (blob.num_rows > section.num_rows - sum)
      return DataLoss(section.num_rows, " rows, but its blobs have more");
    sum += blob.num_rows;
  }
  if (sum != section.num_rows) return DataLoss(section.num_rows, " rows, but its blobs have ", sum);
  return OkStatus();
}

StatusOr<Section> ReadSection(const Json& value) {
  Section section;
  const Json* blobs = Find(value, "blobs");
  if (blobs == nullptr || !blobs->is_array()) return DataLoss("not an object with a list of blobs");
  const std::string* kind = FindText(value, "kind");
  const std::string_view name = kind == nullptr ? std::string_view() : *kind;
  if (name == "table") {
    section.kind = SectionKind::kTable;
  } else if (name == "tensors") {
    section.kind = SectionKind::kTensors;
  } else if (name != "image") {
    return DataLoss("kind '", name, "' is unknown; allowed: table, tensors, image");
  }
  for (const Json& entry : *blobs) {
    StatusOr<BlobRef> blob = ReadBlob(entry, section.kind);
    if (!blob.ok()) return blob.status();
    section.blobs.push_back(std::move(blob).value());
  }
  if (section.kind == SectionKind::kTable) {
    FEEDFAST_RETURN_IF_ERROR(ReadTable(value, section));
    return section;
  }
  if (section.blobs.size() != 1)
    return DataLoss(section.blobs.size(), " blobs; a section of kind '", name, "' has 1");
  if (section.kind == SectionKind::kImage) {
    const std::string* layout = FindText(value, "layout");
    if (layout == nullptr) return DataLoss("'layout' is not a string");
    section.layout = *layout;
  }
  return section;
}

StatusOr<std::string> ReadName(const Json& content, const char* key) {
  const std::string* name = FindText(content, key);
  if (name == nullptr) return DataLoss("'", key, "' is not a string");
  if (!IsName(*name)) return DataLoss(key, " '", *name, "' is not a name");
  return *name;
}

}  // namespace

std::string_view SectionKindName(SectionKind kind) noexcept {
  switch (kind) {
    case SectionKind::kTable:
      return "table";
    case SectionKind::kTensors:
      return "tensors";
    case SectionKind::kImage:
      break;
  }
  return "image";
}

bool IsName(std::string_view text) noexcept {
  const auto is_alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  return !text.empty() && text.size() <= 128 && is_alphanumeric(text.front()) &&
         std::all_of(text.begin(), text.end(), [&is_alphanumeric](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

StatusOr<Manifest> ParseManifest(Span<const std::uint8_t> text) {
  StatusOr<Json> parsed = ParseJson(text, RepeatedNames::kLastWins);
  if (!parsed.ok()) return parsed.status();
  Json content = std::move(parsed).value();
  const std::string* format = FindText(content, "format");
  if (format == nullptr || *format != kFormat)
    return DataLoss("not a manifest: format is not '", kFormat, "'");
  const Json* version = Find(content, "format_version");
  if (version == nullptr || !version->is_number_integer() || *version < kOldestVersion ||
      *version > kNewestVersion)
    return DataLoss("format_version ", version == nullptr ? "null" : CanonicalJson(*version),
                    " is unknown; this build reads 1, 2");
  const std::string* sha256 = FindText(content, "content_sha256");
  const std::string given = sha256 == nullptr ? std::string() : *sha256;
  content.erase("content_sha256");
  const std::string canonical = CanonicalJson(content);
  if (given != Sha256Hex({reinterpret_cast<const std::uint8_t*>(canonical.data()),
                          static_cast<std::int64_t>(canonical.size())}))
    return DataLoss("altered: its content does not match content_sha256");

  Manifest manifest;
  StatusOr<std::string> model = ReadName(content, "model");
  if (!model.ok()) return model.status();
  manifest.model = std::move(model).value();
  StatusOr<std::string> number = ReadName(content, "version");
  if (!number.ok()) return number.status();
  manifest.version = std::move(number).value();
  const Json* sections = Find(content, "sections");
  if (sections == nullptr || !sections->is_object()) return DataLoss("'sections' is not an object");
  for (const auto& [name, value] : sections->get_ref<const Json::object_t&>()) {
    if (!IsName(name)) return DataLoss("section '", name, "' is not a name");
    StatusOr<Section> section = ReadSection(value);
    if (!section.ok()) return DataLoss("section '", name, "': ", section.status().message());
    manifest.sections.emplace(name, std::move(section).value());
  }
  const Json* description = Find(content, "description");
  if (description == nullptr || !description->is_object())
    return DataLoss("'description' is not an object");
  manifest.description = *description;
  return manifest;
}

}  // namespace feedfast::model_store
