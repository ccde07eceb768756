// The readers of a store's JSON: manifests with the descriptions of rankers in them, and headers of
// safetensors files. What they accept is consistent and stays inside the file.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "cpp/model_store/json.h"
#include "cpp/model_store/manifest.h"
#include "cpp/model_store/sha256.h"
#include "cpp/model_store/tensor_header.h"
#include "cpp/ranker/description.h"
#include "fuzz/fuzz_target.h"

namespace {

using feedfast::Span;
using feedfast::StatusOr;
using feedfast::fuzz::Require;
using feedfast::model_store::CanonicalJson;
using feedfast::model_store::Json;
using feedfast::model_store::Manifest;
using feedfast::model_store::ParseJson;
using feedfast::model_store::RepeatedNames;

Span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()),
          static_cast<std::int64_t>(text.size())};
}

void CheckManifest(const Manifest& manifest) {
  for (const auto& [name, section] : manifest.sections) {
    Require(feedfast::model_store::IsName(name), "sections have names");
    std::int64_t rows = 0;
    for (const auto& blob : section.blobs) {
      Require(blob.sha256.size() == 64 && blob.num_bytes >= 0 && blob.num_rows >= 0,
              "blobs have digests and sizes");
      rows += blob.num_rows;
    }
    if (section.kind == feedfast::model_store::SectionKind::kTable) {
      Require(section.dim >= 1 && rows == section.num_rows, "tables have the rows of their blobs");
    } else {
      Require(section.blobs.size() == 1, "other sections have one blob");
    }
  }
  const auto description = feedfast::ranker::ParseDescription(manifest.description);
  if (!description.ok()) return;
  std::int64_t outputs = 0;
  for (const auto& tower : description->towers)
    outputs += static_cast<std::int64_t>(tower.objectives.size());
  Require(outputs == description->num_objectives(), "every objective is in one tower");
  Require(description->num_inputs() >= description->num_viewer_inputs() &&
              description->num_viewer_inputs() >= 0,
          "widths do not overflow");
}

void CheckHeader(Span<const std::uint8_t> file) {
  const auto header = feedfast::model_store::ParseTensorHeader(file, file.size());
  if (!header.ok()) return;
  std::int64_t bytes = header->data_start;
  for (const auto& [name, spec] : header->tensors) {
    std::int64_t size = feedfast::model_store::DtypeBytes(spec.dtype);
    for (const std::int64_t extent : spec.shape) size *= extent;
    Require(spec.begin >= 0 && spec.end - spec.begin == size, "tensors have the bytes of a shape");
    Require(spec.end <= file.size() - header->data_start, "tensors lie inside the file");
    bytes += size;
  }
  Require(bytes == file.size(), "tensors fill the file");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Span<const std::uint8_t> input(data, static_cast<std::int64_t>(size));
  CheckHeader(input);
  const StatusOr<Json> value = ParseJson(input, RepeatedNames::kLastWins);
  if (!value.ok()) return 0;
  const std::string canonical = CanonicalJson(value.value());
  const StatusOr<Json> again = ParseJson(Bytes(canonical), RepeatedNames::kRefused);
  Require(again.ok() && CanonicalJson(again.value()) == canonical, "canonical JSON reads back");
  const StatusOr<Manifest> manifest = feedfast::model_store::ParseManifest(input);
  if (manifest.ok()) CheckManifest(manifest.value());
  return 0;
}

// Makes the digest of a manifest right, and the length of a header, most of the time.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned int seed) {
  constexpr std::string_view kDigest = "\"content_sha256\": \"";
  const std::size_t bytes = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 8 == 0) return bytes;
  if (bytes > 9 && data[8] == '{') {  // a header of 8 bytes, then JSON
    const std::uint8_t* const end = std::find(data + 8, data + bytes, 0);
    const std::uint64_t length = static_cast<std::uint64_t>(end - data) - 8;
    if (seed % 2 == 0) std::memcpy(data, &length, sizeof(length));
    return bytes;
  }
  StatusOr<Json> value =
      ParseJson({data, static_cast<std::int64_t>(bytes)}, RepeatedNames::kLastWins);
  if (!value.ok() || !value->is_object()) return bytes;
  value->erase("content_sha256");
  const std::string digest = feedfast::model_store::Sha256Hex(Bytes(CanonicalJson(value.value())));
  std::uint8_t* const found =
      std::search(data, data + bytes, kDigest.begin(), kDigest.end()) + kDigest.size();
  if (found + digest.size() <= data + bytes) std::copy(digest.begin(), digest.end(), found);
  return bytes;
}
