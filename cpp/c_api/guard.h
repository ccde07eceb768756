#ifndef FEEDFAST_CPP_C_API_GUARD_H_
#define FEEDFAST_CPP_C_API_GUARD_H_

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <system_error>

#include "cpp/c_api/include/feedfast/feedfast.h"
#include "cpp/common/status.h"

namespace feedfast::c_api {

inline ff_status StatusNumber(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::kOk:
      return FF_OK;
    case StatusCode::kInvalidArgument:
      return FF_INVALID_ARGUMENT;
    case StatusCode::kOutOfRange:
      return FF_OUT_OF_RANGE;
    case StatusCode::kNotFound:
      return FF_NOT_FOUND;
    case StatusCode::kDataLoss:
      return FF_DATA_LOSS;
    case StatusCode::kFailedPrecondition:
      return FF_FAILED_PRECONDITION;
    case StatusCode::kResourceExhausted:
      return FF_RESOURCE_EXHAUSTED;
    case StatusCode::kInternal:
      break;
  }
  return FF_INTERNAL;
}

// Writes as much of the text as fits, and a NUL.
inline void WriteMessage(std::string_view text, char* message, std::size_t size) noexcept {
  if (message == nullptr || size == 0) return;
  const std::size_t count = std::min(text.size(), size - 1);
  std::memcpy(message, text.data(), count);
  message[count] = '\0';
}

// The outcome of body(), which returns a Status and may throw, as a C function gives it.
template <typename Body>
ff_status Guard(char* message, std::size_t message_size, const Body& body) noexcept {
  try {
    const Status status = body();
    if (!status.ok()) WriteMessage(status.message(), message, message_size);
    return StatusNumber(status.code());
  } catch (const std::bad_alloc&) {
    WriteMessage("out of memory", message, message_size);
    return FF_RESOURCE_EXHAUSTED;
  } catch (const std::system_error& error) {  // of the start of a thread
    WriteMessage(error.what(), message, message_size);
    return FF_RESOURCE_EXHAUSTED;
  } catch (const std::exception& error) {
    WriteMessage(error.what(), message, message_size);
  } catch (...) {
    WriteMessage("an unknown exception", message, message_size);
  }
  return FF_INTERNAL;
}

}  // namespace feedfast::c_api

#endif  // FEEDFAST_CPP_C_API_GUARD_H_
