#include "cpp/model_store/opened_model.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "cpp/common/aligned_buffer.h"
#include "cpp/common/descriptor.h"
#include "cpp/model_store/sha256.h"

namespace feedfast::model_store {
namespace {

using embedding_kernels::RowFormat;

constexpr std::int64_t kTensorAlign = 64;
constexpr std::int64_t kUsualHeadBytes = 4096;  // of a table block
constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;
constexpr std::string_view kRows = "rows";

std::string PathOf(const std::string& blobs, const BlobRef& blob) {
  return blobs + "/" + blob.sha256;
}

// The blob's file, of the right size.
StatusOr<Descriptor> OpenBlob(const std::string& blobs, const BlobRef& blob) {
  // O_NONBLOCK: a FIFO without a writer is refused below instead of waited for.
  Descriptor file(::open(PathOf(blobs, blob).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info = {};
  if (file.fd() < 0 && errno == ENOENT) return DataLoss("blob ", blob.sha256, " is missing");
  if (file.fd() < 0 || ::fstat(file.fd(), &info) != 0)
    return InvalidArgument("blob ", blob.sha256, " cannot be opened: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return DataLoss("blob ", blob.sha256, " is not a regular file");
  if (info.st_size != blob.num_bytes)
    return DataLoss("blob ", blob.sha256, " has ", info.st_size, " bytes; the manifest says ",
                    blob.num_bytes);
  return file;
}

// Reads from byte `offset` on until the span is full or the file ends; how many bytes.
StatusOr<std::int64_t> ReadAt(const Descriptor& file, const BlobRef& blob, std::int64_t offset,
                              Span<std::uint8_t> out) {
  std::int64_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(file.fd(), out.data() + done,
                                static_cast<std::size_t>(out.size() - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return InvalidArgument("blob ", blob.sha256, " cannot be read: ", std::strerror(errno));
    if (got == 0) break;
    done += got;
  }
  return done;
}

Status VerifyDigest(const std::string& blobs, const BlobRef& blob, Span<std::uint8_t> buffer) {
  const StatusOr<Descriptor> file = OpenBlob(blobs, blob);
  if (!file.ok()) return file.status();
  Sha256 digest;
  for (std::int64_t offset = 0;;) {
    const StatusOr<std::int64_t> got = ReadAt(file.value(), blob, offset, buffer);
    if (!got.ok()) return got.status();
    digest.Update({buffer.data(), got.value()});
    offset += got.value();
    if (got.value() < buffer.size()) break;
  }
  const std::string found = digest.HexDigest();
  if (found != blob.sha256)
    return DataLoss("blob ", blob.sha256, " is altered: its sha256 is ", found);
  return OkStatus();
}

StatusOr<TensorHeader> CheckedHeader(const BlobRef& blob, Span<const std::uint8_t> head) {
  StatusOr<TensorHeader> header = ParseTensorHeader(head, blob.num_bytes);
  if (!header.ok()) return DataLoss("blob ", blob.sha256, ": ", header.status().message());
  if (header->data_start % kTensorAlign != 0)
    return DataLoss("blob ", blob.sha256, ": data start at byte ", header->data_start,
                    ", which is not a multiple of ", kTensorAlign);
  return header;
}

StatusOr<TensorHeader> ReadHeader(const std::string& blobs, const BlobRef& blob) {
  const StatusOr<Descriptor> file = OpenBlob(blobs, blob);
  if (!file.ok()) return file.status();
  std::vector<std::uint8_t> head(static_cast<std::size_t>(kUsualHeadBytes));
  StatusOr<std::int64_t> got = ReadAt(file.value(), blob, 0, head);
  if (!got.ok()) return got.status();
  if (got.value() == kUsualHeadBytes && TensorHeadBytes(head) > kUsualHeadBytes) {
    head.resize(static_cast<std::size_t>(std::min(TensorHeadBytes(head), blob.num_bytes)));
    got = ReadAt(file.value(), blob, 0, head);
    if (!got.ok()) return got.status();
  }
  return CheckedHeader(blob, {head.data(), got.value()});
}

Dtype StoredDtype(RowFormat format) {
  switch (format) {
    case RowFormat::kFloat32:
      return Dtype::kF32;
    case RowFormat::kFloat16:
      return Dtype::kF16;
    case RowFormat::kBfloat16:
      return Dtype::kBf16;
    case RowFormat::kInt8Rowwise:
    case RowFormat::kInt4Rowwise:
      break;
  }
  return Dtype::kU8;
}

StatusOr<MappedBlocks> MapTable(const std::string& blobs, const Section& section) {
  const Dtype dtype = StoredDtype(section.format);
  const std::int64_t columns =
      embedding_kernels::RowBytes(section.format, section.dim) / DtypeBytes(dtype);
  std::vector<FileBlock> blocks;
  blocks.reserve(section.blobs.size());
  for (const BlobRef& blob : section.blobs) {
    const StatusOr<TensorHeader> header = ReadHeader(blobs, blob);
    if (!header.ok()) return header.status();
    const auto rows = header->tensors.find(kRows);
    if (header->tensors.size() != 1 || rows == header->tensors.end() || rows->second.dtype != dtype)
      return DataLoss("blob ", blob.sha256, " is not one tensor '", kRows, "' of ",
                      DtypeName(dtype));
    const std::vector<std::int64_t> shape = {blob.num_rows, columns};
    if (rows->second.shape != shape)
      return DataLoss("blob ", blob.sha256, " has shape ", ShapeText(rows->second.shape),
                      "; the manifest says ", ShapeText(shape));
    blocks.push_back({PathOf(blobs, blob), header->data_start, rows->second.end});
  }
  return MappedBlocks::Open(blocks);
}

// The file of a section that is one blob, of the right size.
StatusOr<MappedFile> MapFile(const std::string& blobs, const BlobRef& blob) {
  const StatusOr<Descriptor> checked = OpenBlob(blobs, blob);
  if (!checked.ok()) return checked.status();
  StatusOr<MappedFile> file = MappedFile::Open(PathOf(blobs, blob));
  if (file.ok() && file->bytes().size() != blob.num_bytes)
    return DataLoss("blob ", blob.sha256, " changed its size while it was opened");
  return file;
}

StatusOr<Tensors> ViewTensors(const BlobRef& blob, Span<const std::uint8_t> bytes) {
  const StatusOr<TensorHeader> header = CheckedHeader(blob, bytes);
  if (!header.ok()) return header.status();
  Tensors tensors;
  for (const auto& [name, spec] : header->tensors)
    tensors.emplace(name,
                    Tensor{spec.dtype, spec.shape,
                           bytes.subspan(header->data_start + spec.begin, spec.end - spec.begin)});
  return tensors;
}

}  // namespace

StatusOr<OpenedModel> OpenedModel::Open(const std::string& root, std::string_view model,
                                        std::optional<std::string_view> version, Verify verify) {
  const auto open = [&]() -> StatusOr<HeldManifest> {
    for (;;) {
      const StatusOr<std::string> found = FindVersion(root, model, version);
      if (!found.ok()) return found.status();
      StatusOr<HeldManifest> held = OpenManifest(root, std::string(model), found.value());
      if (held.ok() || held.status().code() != StatusCode::kNotFound || version.has_value())
        return held;
      // The newest one may grow old and be removed before it is open.
      const StatusOr<std::string> again = FindVersion(root, model, version);
      if (again.ok() && again.value() == found.value()) return held;
    }
  };
  StatusOr<HeldManifest> held = open();
  if (!held.ok()) return held.status();
  OpenedModel opened(std::move(held).value());
  opened.where_ =
      root + ": model '" + opened.manifest().model + "' version " + opened.manifest().version;
  const std::string blobs = root + "/blobs";
  if (verify == Verify::kFull) FEEDFAST_RETURN_IF_ERROR(opened.VerifyBlobs(blobs));
  FEEDFAST_RETURN_IF_ERROR(opened.Map(blobs));
  return opened;
}

Status OpenedModel::VerifyBlobs(const std::string& blobs) const {
  AlignedBuffer<std::uint8_t> buffer(kChunkBytes);
  std::set<std::string_view> seen;
  for (const auto& [name, section] : manifest().sections)
    for (const BlobRef& blob : section.blobs) {
      if (!seen.insert(blob.sha256).second) continue;
      if (const Status status = VerifyDigest(blobs, blob, buffer.span()); !status.ok())
        return {status.code(), where_ + ": section '" + name + "': " + status.message()};
    }
  return OkStatus();
}

Status OpenedModel::Map(const std::string& blobs) {
  const auto map = [&blobs](const Section& section, Mapped& mapped) -> Status {
    if (section.kind == SectionKind::kTable) {
      StatusOr<MappedBlocks> rows = MapTable(blobs, section);
      if (!rows.ok()) return rows.status();
      mapped.rows = std::move(rows).value();
      return OkStatus();
    }
    const BlobRef& blob = section.blobs.front();
    StatusOr<MappedFile> file = MapFile(blobs, blob);
    if (!file.ok()) return file.status();
    mapped.file = std::move(file).value();
    if (section.kind == SectionKind::kImage) return OkStatus();
    StatusOr<Tensors> tensors = ViewTensors(blob, mapped.file.bytes());
    if (!tensors.ok()) return tensors.status();
    mapped.tensors = std::move(tensors).value();
    return OkStatus();
  };
  for (const auto& [name, section] : manifest().sections)
    if (const Status status = map(section, mapped_[name]); !status.ok())
      return {status.code(), where_ + ": section '" + name + "': " + status.message()};
  return OkStatus();
}

StatusOr<const Section*> OpenedModel::Find(std::string_view name, SectionKind kind) const {
  const auto found = manifest().sections.find(name);
  if (found == manifest().sections.end()) return DataLoss("section '", name, "' is missing");
  if (found->second.kind != kind)
    return DataLoss("section '", name, "' is of kind '", SectionKindName(found->second.kind),
                    "'; '", SectionKindName(kind), "' is needed");
  return &found->second;
}

StatusOr<embedding_kernels::Table> OpenedModel::table(std::string_view name) const {
  const StatusOr<const Section*> section = Find(name, SectionKind::kTable);
  if (!section.ok()) return section.status();
  const Section& found = *section.value();
  return embedding_kernels::Table{mapped_.find(name)->second.rows.bytes().data(), found.num_rows,
                                  found.dim, found.format};
}

StatusOr<const Tensors*> OpenedModel::tensors(std::string_view name) const {
  const StatusOr<const Section*> section = Find(name, SectionKind::kTensors);
  if (!section.ok()) return section.status();
  return &mapped_.find(name)->second.tensors;
}

StatusOr<Span<const std::uint8_t>> OpenedModel::image(std::string_view name,
                                                      std::string_view layout) const {
  const StatusOr<const Section*> section = Find(name, SectionKind::kImage);
  if (!section.ok()) return section.status();
  if (section.value()->layout != layout)
    return DataLoss("section '", name, "' has layout '", section.value()->layout, "'; '", layout,
                    "' is needed");
  return mapped_.find(name)->second.file.bytes();
}

}  // namespace feedfast::model_store
