#include "cpp/bindings/status_to_python.h"

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

void ThrowAs(PyObject* type, std::string_view message) {
  PyObject* text = PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()),
                                        "backslashreplace");
  if (text != nullptr) {
    PyErr_SetObject(type, text);
    Py_DECREF(text);
  }
  throw pybind11::error_already_set();
}

void ThrowIfError(const Status& status) {
  if (!status.ok()) ThrowAs(ExceptionOf(status.code()), status.message());
}

}  // namespace feedfast::bindings
