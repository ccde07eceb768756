#ifndef FEEDFAST_CPP_COMMON_ALIGNED_BUFFER_H_
#define FEEDFAST_CPP_COMMON_ALIGNED_BUFFER_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "cpp/common/huge_pages.h"
#include "cpp/common/span.h"

namespace feedfast {

inline constexpr std::int64_t kCacheLineBytes = 64;

// `size` zeroed elements whose first byte lies on a cache line, and in huge pages where they fill
// two and the system has some. Move-only; a move leaves the source empty. Throws std::bad_alloc.
template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "AlignedBuffer holds plain data");

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::int64_t size) : data_(Allocate(size)), size_(size) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::int64_t size() const noexcept { return size_; }
  T& operator[](std::int64_t i) noexcept { return span()[i]; }
  const T& operator[](std::int64_t i) const noexcept { return span()[i]; }
  Span<T> span() noexcept { return {data_.get(), size_}; }
  Span<const T> span() const noexcept { return {data_.get(), size_}; }

 private:
  struct Free {
    std::align_val_t alignment{kCacheLineBytes};
    void operator()(T* p) const noexcept { ::operator delete(p, alignment); }
  };

  static std::unique_ptr<T, Free> Allocate(std::int64_t size) {
    if (size <= 0) return nullptr;
    if (size > std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(T)))
      throw std::bad_alloc();
    const std::int64_t bytes = size * static_cast<std::int64_t>(sizeof(T));
    const bool huge = bytes >= 2 * kHugePageBytes;
    const std::align_val_t alignment{
        static_cast<std::size_t>(huge ? kHugePageBytes : kCacheLineBytes)};
    void* p = ::operator new(static_cast<std::size_t>(bytes), alignment);
    if (huge) AdviseHugePages({static_cast<const std::uint8_t*>(p), bytes});
    std::memset(p, 0, static_cast<std::size_t>(bytes));
    return {static_cast<T*>(p), Free{alignment}};
  }

  std::unique_ptr<T, Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_ALIGNED_BUFFER_H_
