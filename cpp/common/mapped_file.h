#ifndef FEEDFAST_CPP_COMMON_MAPPED_FILE_H_
#define FEEDFAST_CPP_COMMON_MAPPED_FILE_H_

#include <cstdint>
#include <string>

#include "cpp/common/span.h"
#include "cpp/common/status.h"

namespace feedfast {

// A whole file mapped read-only. Move-only; the bytes stay valid until it is destroyed, also when
// the file is unlinked meanwhile. Truncating a mapped file is outside the contract: writers of
// feedfast write a new name and rename.
class MappedFile {
 public:
  // NotFound: no such file. InvalidArgument: not a regular file. ResourceExhausted: mmap failed.
  static StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  Span<const std::uint8_t> bytes() const noexcept { return bytes_; }

 private:
  explicit MappedFile(Span<const std::uint8_t> bytes) noexcept : bytes_(bytes) {}

  Span<const std::uint8_t> bytes_;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_MAPPED_FILE_H_
