#ifndef FEEDFAST_CPP_COMMON_MAPPED_BLOCKS_H_
#define FEEDFAST_CPP_COMMON_MAPPED_BLOCKS_H_

#include <cstdint>
#include <string>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast {

// `size` bytes of the file `path`, from byte `offset` on.
struct FileBlock {
  std::string path;
  std::int64_t offset = 0;
  std::int64_t size = 0;
};

// Blocks of files behind each other in memory, read-only: bytes() = block 0 | block 1 | ...
// Several blocks are mapped into one reservation when all offsets, and all sizes but the last, are
// multiples of the page size; other blocks are copied into memory. One block is always mapped.
// Where sizes are multiples of 2 MiB, every address is congruent to its file offset modulo 2 MiB,
// which lets the kernel use huge pages. Move-only; the bytes stay valid until it is destroyed, also
// when the files are unlinked meanwhile. Truncating a mapped file is outside the contract.
class MappedBlocks {
 public:
  // NotFound: no such file. InvalidArgument: not a regular file, or a negative offset or size.
  // DataLoss: a file is shorter than offset + size. ResourceExhausted: no address space or memory.
  static StatusOr<MappedBlocks> Open(Span<const FileBlock> blocks);

  MappedBlocks() = default;
  MappedBlocks(MappedBlocks&& other) noexcept;
  MappedBlocks& operator=(MappedBlocks&& other) noexcept;
  MappedBlocks(const MappedBlocks&) = delete;
  MappedBlocks& operator=(const MappedBlocks&) = delete;
  ~MappedBlocks();

  Span<const std::uint8_t> bytes() const noexcept { return bytes_; }

 private:
  MappedBlocks(std::uint8_t* reservation, std::int64_t reserved_bytes) noexcept
      : reservation_(reservation), reserved_bytes_(reserved_bytes) {}

  std::uint8_t* reservation_ = nullptr;
  std::int64_t reserved_bytes_ = 0;
  Span<const std::uint8_t> bytes_;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_MAPPED_BLOCKS_H_
