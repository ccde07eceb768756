#ifndef FEEDFAST_CPP_BINDINGS_STATUS_TO_PYTHON_H_
#define FEEDFAST_CPP_BINDINGS_STATUS_TO_PYTHON_H_

#include <pybind11/pybind11.h>

#include <string_view>
#include <utility>

#include "cpp/common/status.h"

namespace feedfast::bindings {

// Raises an exception of this type. Messages may quote keys and paths that are not UTF-8; such
// bytes are shown as \xNN. Needs the GIL.
[[noreturn]] void ThrowAs(PyObject* type, std::string_view message);

// Raises the Python exception of a status that is not ok: InvalidArgument and DataLoss become
// ValueError, OutOfRange IndexError, NotFound FileNotFoundError, ResourceExhausted MemoryError,
// FailedPrecondition and Internal RuntimeError. Needs the GIL.
void ThrowIfError(const Status& status);

template <typename T>
T ValueOrThrow(StatusOr<T> result) {
  ThrowIfError(result.status());
  return std::move(result).value();
}

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_STATUS_TO_PYTHON_H_
