#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "cpp/bindings/arrow_c_data.h"
#include "cpp/bindings/registers.h"
#include "cpp/mph/packed_keys.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using SharedKeys = std::shared_ptr<const mph::PackedKeys>;

// What an exported array needs for as long as somebody holds it.
struct ExportedKeys {
  SharedKeys keys;
  const void* buffers[3];
};

void ReleaseSchema(ArrowSchema* schema) { schema->release = nullptr; }

void ReleaseArray(ArrowArray* array) {
  delete static_cast<ExportedKeys*>(array->private_data);
  array->release = nullptr;
}

// Destroys a structure of the interface, which its taker may have released or moved away before.
template <typename T>
void DestroyCapsule(PyObject* capsule) {
  auto* exported = static_cast<T*>(PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)));
  if (exported->release != nullptr) exported->release(exported);
  delete exported;
}

template <typename T>
py::object ToCapsule(std::unique_ptr<T> exported, const char* name) {
  py::object capsule =
      py::reinterpret_steal<py::object>(PyCapsule_New(exported.get(), name, &DestroyCapsule<T>));
  if (!capsule) throw py::error_already_set();
  exported.release();
  return capsule;
}

py::tuple ExportToArrow(const SharedKeys& keys, const py::object& /*requested_schema*/) {
  auto schema = std::make_unique<ArrowSchema>();
  schema->format = "Z";  // large_binary
  schema->name = "";
  schema->release = &ReleaseSchema;
  auto array = std::make_unique<ArrowArray>();
  auto owner = std::make_unique<ExportedKeys>(
      ExportedKeys{keys, {nullptr, keys->offsets.data(), keys->bytes.data()}});
  array->length = keys->size();
  array->n_buffers = 3;
  array->buffers = owner->buffers;
  array->private_data = owner.release();
  array->release = &ReleaseArray;
  py::object schema_capsule = ToCapsule(std::move(schema), "arrow_schema");
  return py::make_tuple(std::move(schema_capsule), ToCapsule(std::move(array), "arrow_array"));
}

py::tuple SplitLines(const py::buffer& text, bool is_last) {
  const py::buffer_info info = text.request();
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 0 && info.strides[0] != 1))
    throw py::value_error("text must be contiguous bytes");
  mph::Lines lines = [&] {
    py::gil_scoped_release nogil;
    return mph::SplitLines(
        {static_cast<const char*>(info.ptr), static_cast<std::size_t>(info.size)}, is_last);
  }();
  const auto keys = std::make_shared<mph::PackedKeys>(std::move(lines.keys));
  return py::make_tuple(keys, lines.consumed);
}

}  // namespace

void RegisterPackedKeys(py::module_& m) {
  py::class_<mph::PackedKeys, std::shared_ptr<mph::PackedKeys>>(m, "PackedKeys")
      .def("__len__", &mph::PackedKeys::size)
      .def_property_readonly("nbytes",
                             [](const mph::PackedKeys& keys) {
                               return keys.bytes.size() +
                                      keys.offsets.size() * sizeof(std::int64_t);
                             })
      .def(
          "__arrow_c_array__",
          [](const std::shared_ptr<mph::PackedKeys>& keys, const py::object& requested_schema) {
            return ExportToArrow(keys, requested_schema);
          },
          py::arg("requested_schema") = py::none());
  m.def("split_lines", &SplitLines, py::arg("text"), py::kw_only(), py::arg("is_last"));
}

}  // namespace feedfast::bindings
