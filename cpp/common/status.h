#ifndef FEEDFAST_CPP_COMMON_STATUS_H_
#define FEEDFAST_CPP_COMMON_STATUS_H_

#include <cassert>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

namespace feedfast {

enum class StatusCode {
  kOk,
  kInvalidArgument,     // an argument breaks the contract whatever the state
  kOutOfRange,          // an index or id lies outside its table
  kNotFound,            // a file or name does not exist
  kDataLoss,            // stored bytes are truncated, altered or of an unknown version
  kFailedPrecondition,  // right call, wrong state (unsupported CPU target, closed object)
  kResourceExhausted,   // memory or file space ran out
  kInternal,            // a defect of feedfast
};

// The outcome of an operation that can fail because of its input. Messages name the argument, the
// position, the value found and the limit, without a trailing period.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {
    assert(code != StatusCode::kOk);
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }

namespace internal {
template <typename... Pieces>
Status MakeStatus(StatusCode code, const Pieces&... pieces) {
  std::ostringstream message;
  (message << ... << pieces);
  return Status(code, message.str());
}
}  // namespace internal

template <typename... Pieces>
Status InvalidArgument(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kInvalidArgument, pieces...);
}
template <typename... Pieces>
Status OutOfRange(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kOutOfRange, pieces...);
}
template <typename... Pieces>
Status NotFound(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kNotFound, pieces...);
}
template <typename... Pieces>
Status DataLoss(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kDataLoss, pieces...);
}
template <typename... Pieces>
Status FailedPrecondition(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kFailedPrecondition, pieces...);
}
template <typename... Pieces>
Status ResourceExhausted(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kResourceExhausted, pieces...);
}
template <typename... Pieces>
Status Internal(const Pieces&... pieces) {
  return internal::MakeStatus(StatusCode::kInternal, pieces...);
}

// A value, or the status that says why there is none.
template <typename T>
class [[nodiscard]] StatusOr {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): `return value;` and `return InvalidArgument(...);`
  StatusOr(T value) : value_(std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  StatusOr(Status status) : status_(std::move(status)) { assert(!status_.ok()); }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T& value() & {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

// Returns from the enclosing function when `expression` is not ok.
#define FEEDFAST_RETURN_IF_ERROR(expression)                                        \
  do {                                                                              \
    if (::feedfast::Status feedfast_status_ = (expression); !feedfast_status_.ok()) \
      return feedfast_status_;                                                      \
  } while (false)

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_STATUS_H_
