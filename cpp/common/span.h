#ifndef FEEDFAST_CPP_COMMON_SPAN_H_
#define FEEDFAST_CPP_COMMON_SPAN_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace feedfast {

// A view of `size` contiguous elements owned by somebody else: std::span of C++20 with signed
// sizes.
template <typename T>
class Span {
 public:
  using value_type = std::remove_cv_t<T>;

  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::int64_t size) noexcept : data_(data), size_(size) {}
  // NOLINTNEXTLINE(google-explicit-constructor): views convert like std::span
  Span(std::vector<value_type>& v) noexcept
      : data_(v.data()), size_(static_cast<std::int64_t>(v.size())) {}
  template <typename U = T, typename = std::enable_if_t<std::is_const_v<U>>>
  // NOLINTNEXTLINE(google-explicit-constructor)
  Span(const std::vector<value_type>& v) noexcept
      : data_(v.data()), size_(static_cast<std::int64_t>(v.size())) {}
  template <typename U, typename = std::enable_if_t<std::is_same_v<T, const U>>>
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr Span(Span<U> other) noexcept : data_(other.data()), size_(other.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::int64_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](std::int64_t i) const noexcept {
    assert(i >= 0 && i < size_);
    return data_[i];
  }
  constexpr Span subspan(std::int64_t first, std::int64_t count) const noexcept {
    assert(first >= 0 && count >= 0 && first + count <= size_);
    return Span(data_ + first, count);
  }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_SPAN_H_
