#include "cpp/mph/external_spill.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace feedfast::mph {

UnnamedFile::~UnnamedFile() {
  if (fd_ >= 0) ::close(fd_);
}

StatusOr<UnnamedFile> UnnamedFile::Create(const std::string& folder) {
  UnnamedFile file;
  std::string name = folder + "/.tmp-spill-XXXXXX";
  file.fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (file.fd_ < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR)
      return NotFound("spill folder '", folder, "' does not exist");
    return ResourceExhausted("cannot create a file in '", folder, "': ", std::strerror(error));
  }
  ::unlink(name.c_str());
  return file;
}

Status UnnamedFile::Append(Span<const std::uint8_t> bytes) {
  for (std::int64_t done = 0; done < bytes.size();) {
    const ssize_t written =
        ::pwrite(fd_, bytes.data() + done, static_cast<std::size_t>(bytes.size() - done), size_);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      return ResourceExhausted("cannot spill to disk after ", size_,
                               " bytes: ", std::strerror(errno));
    done += written;
    size_ += written;
  }
  return OkStatus();
}

Status UnnamedFile::Read(std::int64_t offset, Span<std::uint8_t> bytes) const {
  for (std::int64_t done = 0; done < bytes.size();) {
    const ssize_t got = ::pread(fd_, bytes.data() + done,
                                static_cast<std::size_t>(bytes.size() - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ResourceExhausted("cannot read the spill file: ", std::strerror(errno));
    done += got;
  }
  return OkStatus();
}

StatusOr<CodeSpill> CodeSpill::Create(const std::string& folder, bool with_rows,
                                      std::int64_t buffer_bytes) {
  StatusOr<UnnamedFile> file = UnnamedFile::Create(folder);
  if (!file.ok()) return file.status();
  CodeSpill spill;
  spill.file_ = std::move(file).value();
  spill.record_bytes_ = with_rows ? sizeof(CodeRecord) : sizeof(KeyCode);
  spill.block_bytes_ =
      std::clamp<std::int64_t>(buffer_bytes / kNumPartitions, 4096, std::int64_t{1} << 20) /
      spill.record_bytes_ * spill.record_bytes_;
  spill.buffers_.resize(kNumPartitions);
  for (std::vector<std::uint8_t>& buffer : spill.buffers_)
    buffer.reserve(static_cast<std::size_t>(spill.block_bytes_));
  spill.blocks_.resize(kNumPartitions);
  spill.counts_.resize(kNumPartitions);
  return spill;
}

Status CodeSpill::Flush(int partition) {
  std::vector<std::uint8_t>& buffer = buffers_[static_cast<std::size_t>(partition)];
  if (buffer.empty()) return OkStatus();
  const std::int64_t offset = file_.size();
  FEEDFAST_RETURN_IF_ERROR(file_.Append(buffer));
  blocks_[static_cast<std::size_t>(partition)].emplace_back(offset, file_.size() - offset);
  buffer.clear();
  return OkStatus();
}

Status CodeSpill::Finish() {
  for (int partition = 0; partition < kNumPartitions; ++partition)
    FEEDFAST_RETURN_IF_ERROR(Flush(partition));
  buffers_ = {};
  return OkStatus();
}

StatusOr<KeySpill> KeySpill::Create(const std::string& folder) {
  StatusOr<UnnamedFile> file = UnnamedFile::Create(folder);
  if (!file.ok()) return file.status();
  KeySpill spill;
  spill.file_ = std::move(file).value();
  return spill;
}

Status KeySpill::Add(std::string_view key, std::int64_t row) {
  const Header header = {row, key.size()};
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(&header);
  buffer_.insert(buffer_.end(), bytes, bytes + sizeof(header));
  buffer_.insert(buffer_.end(), key.begin(), key.end());
  return static_cast<std::int64_t>(buffer_.size()) < kBlockBytes ? OkStatus() : Flush();
}

Status KeySpill::Flush() {
  FEEDFAST_RETURN_IF_ERROR(file_.Append(buffer_));
  buffer_.clear();
  return OkStatus();
}

Status KeySpill::Fill(std::uint64_t size, std::vector<std::uint8_t>* bytes, std::size_t* at,
                      std::int64_t* next) const {
  if (bytes->size() - *at >= size || *next == file_.size()) return OkStatus();
  bytes->erase(bytes->begin(), bytes->begin() + static_cast<std::ptrdiff_t>(*at));
  *at = 0;
  const auto held = static_cast<std::int64_t>(bytes->size());
  const std::int64_t more =
      std::min(std::max(kBlockBytes, static_cast<std::int64_t>(size)), file_.size() - *next);
  bytes->resize(static_cast<std::size_t>(held + more));
  FEEDFAST_RETURN_IF_ERROR(file_.Read(*next, {bytes->data() + held, more}));
  *next += more;
  return OkStatus();
}

}  // namespace feedfast::mph
