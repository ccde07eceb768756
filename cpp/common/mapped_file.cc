#include "cpp/common/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "cpp/common/descriptor.h"
#include "cpp/common/huge_pages.h"

namespace feedfast {
namespace {

Status ErrnoStatus(const std::string& path, int error) {
  if (error == ENOENT) return NotFound("'", path, "' does not exist");
  return InvalidArgument("cannot open '", path, "': ", std::strerror(error));
}

}  // namespace

StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: a FIFO without a writer is refused below instead of waited for.
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const int fd = descriptor.fd();
  if (fd < 0) return ErrnoStatus(path, errno);
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return ErrnoStatus(path, errno);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("'", path, "' is not a regular file");
  if (info.st_size == 0) return MappedFile();
  void* address =
      ::mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED)
    return ResourceExhausted("cannot map '", path, "' (", info.st_size,
                             " bytes): ", std::strerror(errno));
  const Span<const std::uint8_t> bytes(static_cast<const std::uint8_t*>(address), info.st_size);
  if (bytes.size() >= kHugePageBytes) AdviseHugePages(bytes);
  return MappedFile(bytes);
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty())
    ::munmap(const_cast<std::uint8_t*>(bytes_.data()), static_cast<std::size_t>(bytes_.size()));
}

}  // namespace feedfast
