#ifndef FEEDFAST_CPP_MODEL_STORE_MANIFEST_H_
#define FEEDFAST_CPP_MODEL_STORE_MANIFEST_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/table.h"
#include "cpp/model_store/json.h"

// Versions of models as docs/formats/model_store.md describes them; python/feedfast/store is the
// writer, and a reader with the same checks.
namespace feedfast::model_store {

inline constexpr std::int64_t kMaxManifestBytes = std::int64_t{64} << 20;
// Columns of a table, at most; rows and bytes are below kMaxSize.
inline constexpr std::int64_t kMaxDim = std::int64_t{1} << 30;
inline constexpr std::int64_t kMaxSize = std::int64_t{1} << 62;

// One blob of a section: the file blobs/<sha256>.
struct BlobRef {
  std::string sha256;
  std::int64_t num_bytes = 0;
  std::int64_t num_rows = 0;  // of a table block
};

enum class SectionKind {
  kTable,    // row blocks of one matrix, in order
  kTensors,  // one safetensors file
  kImage,    // one file with a format of its own
};

// "table", "tensors" or "image".
std::string_view SectionKindName(SectionKind kind) noexcept;

// One named part of a model.
struct Section {
  SectionKind kind = SectionKind::kImage;
  std::vector<BlobRef> blobs;  // exactly one unless it is a table
  std::string layout;          // of an image: the name of its format; of a table; else empty
  // Of a table alone: the layout, and its shape.
  embedding_kernels::RowFormat format = embedding_kernels::RowFormat::kFloat32;
  std::int64_t num_rows = 0;
  std::int64_t dim = 0;
};

// Which blobs are the sections of one model version, and how they are to be read.
struct Manifest {  // NOLINT(bugprone-exception-escape): to move a Json does not throw
  std::string model;
  std::string version;
  std::map<std::string, Section, std::less<>> sections;
  Json description;  // an object: what the model's own reader needs
};

// Whether it can be one component of a path: 1 to 128 letters, digits, dots, dashes and
// underscores, the first a letter or digit.
bool IsName(std::string_view text) noexcept;

// Parses and checks manifest.json. DataLoss: it is truncated, altered, malformed, or of an unknown
// format version. Throws std::bad_alloc.
StatusOr<Manifest> ParseManifest(Span<const std::uint8_t> text);

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_MANIFEST_H_
