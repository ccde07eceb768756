#include "cpp/bindings/status_to_python.h"

#include <pybind11/pybind11.h>

namespace feedfast::bindings {
namespace {

PyObject* ExceptionOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOutOfRange:
      return PyExc_IndexError;
    case StatusCode::kNotFound:
      return PyExc_FileNotFoundError;
    case StatusCode::kResourceExhausted:
      return PyExc_MemoryError;
    case StatusCode::kFailedPrecondition:
    case StatusCode::kInternal:
      return PyExc_RuntimeError;
    case StatusCode::kOk:
    case StatusCode::kInvalidArgument:
    case StatusCode::kDataLoss:
      break;
  }
  return PyExc_ValueError;
}

}  // namespace

void ThrowIfError(const Status& status) {
  if (status.ok()) return;
  // Messages may quote keys that are not UTF-8; such bytes are shown as \xNN.
  PyObject* text =
      PyUnicode_DecodeUTF8(status.message().data(),
                           static_cast<Py_ssize_t>(status.message().size()), "backslashreplace");
  if (text != nullptr) {
    PyErr_SetObject(ExceptionOf(status.code()), text);
    Py_DECREF(text);
  }
  throw pybind11::error_already_set();
}

}  // namespace feedfast::bindings
