#ifndef FEEDFAST_CPP_MODEL_STORE_OPENED_MODEL_H_
#define FEEDFAST_CPP_MODEL_STORE_OPENED_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpp/common/mapped_blocks.h"
#include "cpp/common/mapped_file.h"
#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/embedding_kernels/table.h"
#include "cpp/model_store/manifest.h"
#include "cpp/model_store/tensor_header.h"
#include "cpp/model_store/versions.h"

namespace feedfast::model_store {

enum class Verify {
  kHeader,  // the manifest, the size of every blob, the headers of tensor files; safe on any bytes
  kFull,    // every byte besides, against the digests
};

// An array of a section of kind tensors, as a view.
struct Tensor {
  Dtype dtype = Dtype::kU8;
  std::vector<std::int64_t> shape;
  Span<const std::uint8_t> bytes;

  // The items as T. Requires sizeof(T) == DtypeBytes(dtype).
  template <typename T>
  Span<const T> As() const noexcept {
    return {reinterpret_cast<const T*>(bytes.data()),
            bytes.size() / static_cast<std::int64_t>(sizeof(T))};
  }
};

using Tensors = std::map<std::string, Tensor, std::less<>>;

// A model version whose sections are mapped read-only. What it gives out are views that live as
// long as it, whatever happens to the store's files; moving keeps them. While it lives, garbage
// collection leaves the version alone.
class OpenedModel {
 public:
  // Opens a version of the store at `root`; without `version` the one of the largest number.
  // InvalidArgument: a name or number cannot be one, a file cannot be opened. NotFound: no such
  // model or version; the message lists those there are. DataLoss: a manifest or blob is truncated,
  // altered, missing or of an unknown format version; the message names it and its section.
  // ResourceExhausted: address space or memory. Throws std::bad_alloc.
  static StatusOr<OpenedModel> Open(const std::string& root, std::string_view model,
                                    std::optional<std::string_view> version, Verify verify);

  const Manifest& manifest() const noexcept { return held_.manifest; }
  // "<root>: model '<model>' version <version>", for messages.
  const std::string& where() const noexcept { return where_; }

  // Sections by name. DataLoss: it is missing, or of another kind or layout; the message starts
  // with the section.
  StatusOr<embedding_kernels::Table> table(std::string_view name) const;
  StatusOr<const Tensors*> tensors(std::string_view name) const;
  StatusOr<Span<const std::uint8_t>> image(std::string_view name, std::string_view layout) const;

 private:
  // One of the three, by the kind of the section.
  struct Mapped {
    MappedBlocks rows;
    MappedFile file;
    Tensors tensors;
  };

  explicit OpenedModel(HeldManifest held) : held_(std::move(held)) {}

  Status VerifyBlobs(const std::string& blobs) const;
  Status Map(const std::string& blobs);
  StatusOr<const Section*> Find(std::string_view name, SectionKind kind) const;

  HeldManifest held_;
  std::string where_;
  std::map<std::string, Mapped, std::less<>> mapped_;
};

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_OPENED_MODEL_H_
