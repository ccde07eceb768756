#ifndef FEEDFAST_CPP_COMMON_DESCRIPTOR_H_
#define FEEDFAST_CPP_COMMON_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace feedfast {

// An open file, closed on every way out; -1: none. Move-only.
class Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }

  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_DESCRIPTOR_H_
