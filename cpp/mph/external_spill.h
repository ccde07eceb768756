#ifndef FEEDFAST_CPP_MPH_EXTERNAL_SPILL_H_
#define FEEDFAST_CPP_MPH_EXTERNAL_SPILL_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_hash.h"

namespace feedfast::mph {

// A file without a name: the system removes it when it is closed, however the process ends.
// ResourceExhausted: there is no space; NotFound: there is no such folder.
class UnnamedFile {
 public:
  UnnamedFile() = default;
  UnnamedFile(UnnamedFile&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  UnnamedFile& operator=(UnnamedFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~UnnamedFile();

  static StatusOr<UnnamedFile> Create(const std::string& folder);

  std::int64_t size() const noexcept { return size_; }
  Status Append(Span<const std::uint8_t> bytes);
  // Requires that the range was written.
  Status Read(std::int64_t offset, Span<std::uint8_t> bytes) const;

 private:
  int fd_ = -1;
  std::int64_t size_ = 0;
};

// A code with the row of its key, where rows are given.
struct CodeRecord {
  KeyCode code;
  std::int64_t row;
};

// Code records on disk, apart by the high byte of the code.
class CodeSpill {
 public:
  static constexpr int kNumPartitions = 256;

  // Holds `buffer_bytes` of records in memory. Rows are kept only `with_rows`.
  static StatusOr<CodeSpill> Create(const std::string& folder, bool with_rows,
                                    std::int64_t buffer_bytes);

  Status Add(CodeRecord record) {
    std::vector<std::uint8_t>& buffer = buffers_[record.code >> 56];
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&record);
    buffer.insert(buffer.end(), bytes, bytes + record_bytes_);
    ++counts_[record.code >> 56];
    if (static_cast<std::int64_t>(buffer.size()) < block_bytes_) return OkStatus();
    return Flush(static_cast<int>(record.code >> 56));
  }
  // Writes what is buffered and frees the buffers: nothing is added any more.
  Status Finish();

  std::int64_t count(int partition) const noexcept {
    return counts_[static_cast<std::size_t>(partition)];
  }
  // Calls body(record) for the records of a partition, after Finish.
  template <typename Body>
  Status ForEach(int partition, const Body& body) const {
    std::vector<std::uint8_t> block;
    for (const auto& [offset, size] : blocks_[static_cast<std::size_t>(partition)]) {
      block.resize(static_cast<std::size_t>(size));
      FEEDFAST_RETURN_IF_ERROR(file_.Read(offset, {block.data(), size}));
      for (std::int64_t at = 0; at < size; at += record_bytes_) {
        CodeRecord record = {};
        std::copy_n(block.data() + at, record_bytes_, reinterpret_cast<std::uint8_t*>(&record));
        body(record);
      }
    }
    return OkStatus();
  }

 private:
  CodeSpill() = default;
  Status Flush(int partition);

  UnnamedFile file_;
  std::int64_t record_bytes_ = 0;
  std::int64_t block_bytes_ = 0;
  std::vector<std::vector<std::uint8_t>> buffers_;
  std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> blocks_;  // offset, size
  std::vector<std::int64_t> counts_;
};

// Keys with their rows on disk, in the order they came; read only when two codes are equal.
class KeySpill {
 public:
  static StatusOr<KeySpill> Create(const std::string& folder);

  Status Add(std::string_view key, std::int64_t row);
  // Calls body(key, row) for all keys.
  template <typename Body>
  Status ForEach(const Body& body) {
    FEEDFAST_RETURN_IF_ERROR(Flush());
    std::vector<std::uint8_t> bytes;
    std::int64_t next = 0;  // of the file
    std::size_t at = 0;     // of bytes
    while (true) {
      Header header;
      FEEDFAST_RETURN_IF_ERROR(Fill(sizeof(header), &bytes, &at, &next));
      if (bytes.size() - at < sizeof(header)) return OkStatus();
      std::copy_n(bytes.data() + at, sizeof(header), reinterpret_cast<std::uint8_t*>(&header));
      at += sizeof(header);
      FEEDFAST_RETURN_IF_ERROR(Fill(header.size, &bytes, &at, &next));
      body(std::string_view(reinterpret_cast<const char*>(bytes.data()) + at, header.size),
           header.row);
      at += header.size;
    }
  }

 private:
  struct Header {
    std::int64_t row;
    std::uint64_t size;
  };
  static constexpr std::int64_t kBlockBytes = std::int64_t{1} << 20;

  KeySpill() = default;
  Status Flush();
  // Reads on until bytes[at..] holds `size` bytes or the file ends.
  Status Fill(std::uint64_t size, std::vector<std::uint8_t>* bytes, std::size_t* at,
              std::int64_t* next) const;

  UnnamedFile file_;
  std::vector<std::uint8_t> buffer_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_EXTERNAL_SPILL_H_
