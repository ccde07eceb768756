#include "cpp/common/mapped_blocks.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "cpp/common/descriptor.h"
#include "cpp/common/huge_pages.h"

namespace feedfast {
namespace {

std::int64_t PageBytes() {
  static const std::int64_t bytes = ::sysconf(_SC_PAGESIZE);
  return bytes;
}

StatusOr<Descriptor> OpenBlock(const FileBlock& block) {
  // O_NONBLOCK: a FIFO without a writer is refused below instead of waited for.
  const int fd = ::open(block.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) return NotFound("'", block.path, "' does not exist");
    return InvalidArgument("cannot open '", block.path, "': ", std::strerror(errno));
  }
  Descriptor descriptor(fd);
  struct stat info = {};
  if (::fstat(fd, &info) != 0)
    return InvalidArgument("cannot open '", block.path, "': ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return InvalidArgument("'", block.path, "' is not a regular file");
  if (block.offset > info.st_size || block.size > info.st_size - block.offset)
    return DataLoss("'", block.path, "' has ", info.st_size, " bytes; bytes ", block.offset, " to ",
                    block.offset + block.size, " are needed");
  return descriptor;
}

Status ReadBlock(const FileBlock& block, int fd, std::uint8_t* out) {
  std::int64_t done = 0;
  while (done < block.size) {
    const ssize_t got = ::pread(fd, out + done, static_cast<std::size_t>(block.size - done),
                                static_cast<off_t>(block.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return InvalidArgument("cannot read '", block.path, "': ", std::strerror(errno));
    if (got == 0)
      return DataLoss("'", block.path, "' ends before byte ", block.offset + block.size);
    done += got;
  }
  return OkStatus();
}

bool CanMapSideBySide(Span<const FileBlock> blocks) {
  for (std::int64_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].offset % PageBytes() != 0) return false;
    if (i + 1 < blocks.size() && blocks[i].size % PageBytes() != 0) return false;
  }
  return true;
}

}  // namespace

StatusOr<MappedBlocks> MappedBlocks::Open(Span<const FileBlock> blocks) {
  std::int64_t total = 0;
  for (const FileBlock& block : blocks) {
    if (block.offset < 0 || block.size < 0 ||
        block.size > std::numeric_limits<std::int64_t>::max() / 2 - block.offset ||
        block.size > std::numeric_limits<std::int64_t>::max() / 2 - total)
      return InvalidArgument("'", block.path, "': block of ", block.size, " bytes at byte ",
                             block.offset, " has no valid extent");
    total += block.size;
  }
  const bool map = blocks.size() == 1 || CanMapSideBySide(blocks);
  // The bytes before the first block on its page, when a single block starts inside one.
  const std::int64_t lead = map && !blocks.empty() ? blocks[0].offset % PageBytes() : 0;
  if (total == 0) {
    for (const FileBlock& block : blocks) FEEDFAST_RETURN_IF_ERROR(OpenBlock(block).status());
    return MappedBlocks();
  }

  const std::int64_t slack = total >= kHugePageBytes ? kHugePageBytes : 0;
  const std::int64_t reserved = lead + total + slack;
  void* address =
      ::mmap(nullptr, static_cast<std::size_t>(reserved), map ? PROT_NONE : PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | (map ? MAP_NORESERVE : 0), -1, 0);
  if (address == MAP_FAILED)
    return ResourceExhausted("cannot reserve ", reserved, " bytes for '", blocks[0].path,
                             "': ", std::strerror(errno));
  MappedBlocks mapped(static_cast<std::uint8_t*>(address), reserved);
  std::int64_t skip = 0;
  if (slack > 0) {
    const auto base = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address));
    skip = (blocks[0].offset - lead - base) % kHugePageBytes;
    if (skip < 0) skip += kHugePageBytes;
  }
  std::uint8_t* const start = mapped.reservation_ + skip + lead;
  std::uint8_t* next = start;
  for (const FileBlock& block : blocks) {
    StatusOr<Descriptor> file = OpenBlock(block);
    if (!file.ok()) return file.status();
    if (block.size == 0) continue;
    if (map) {
      if (::mmap(next - lead, static_cast<std::size_t>(block.size + lead), PROT_READ,
                 MAP_SHARED | MAP_FIXED, file->fd(),
                 static_cast<off_t>(block.offset - lead)) == MAP_FAILED)
        return ResourceExhausted("cannot map '", block.path, "' (", block.size,
                                 " bytes): ", std::strerror(errno));
    } else {
      FEEDFAST_RETURN_IF_ERROR(ReadBlock(block, file->fd(), next));
    }
    next += block.size;
  }
  mapped.bytes_ = {start, total};
  return mapped;
}

MappedBlocks::MappedBlocks(MappedBlocks&& other) noexcept
    : reservation_(std::exchange(other.reservation_, nullptr)),
      reserved_bytes_(std::exchange(other.reserved_bytes_, 0)),
      bytes_(std::exchange(other.bytes_, {})) {}

MappedBlocks& MappedBlocks::operator=(MappedBlocks&& other) noexcept {
  std::swap(reservation_, other.reservation_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedBlocks::~MappedBlocks() {
  if (reservation_ != nullptr) ::munmap(reservation_, static_cast<std::size_t>(reserved_bytes_));
}

}  // namespace feedfast
