#include "cpp/bindings/string_keys.h"

#include <pybind11/numpy.h>

#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/bindings/arrow_keys.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

std::string Element(const char* name, std::int64_t position) {
  return std::string(name) + "[" + std::to_string(position) + "]";
}

// str and bytes objects, held by a tuple that nobody else can change.
class ObjectKeys final : public mph::KeySource {
 public:
  // Requires a list or a tuple.
  ObjectKeys(const py::object& objects, const char* name) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(objects.ptr());
    const bool copy = !PyTuple_Check(objects.ptr());
    objects_ = copy ? py::reinterpret_steal<py::object>(PyTuple_New(size)) : objects;
    if (!objects_) throw py::error_already_set();
    // A new tuple may start a garbage collection, whose finalizers may change the list.
    if (PySequence_Fast_GET_SIZE(objects.ptr()) != size)
      throw py::value_error(std::string(name) + " changed its size while it was read");
    PyObject** items = PySequence_Fast_ITEMS(objects.ptr());
    views_.reserve(static_cast<std::size_t>(size));
    // Objects lie all over the heap. Nothing here runs Python code that could change the list.
    constexpr Py_ssize_t kAhead = 16;
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (i + kAhead < size) __builtin_prefetch(items[i + kAhead], 1);
      if (copy) PyTuple_SET_ITEM(objects_.ptr(), i, py::handle(items[i]).inc_ref().ptr());
      views_.push_back(View(items[i], name, i));
    }
  }

  std::int64_t size() const noexcept override { return static_cast<std::int64_t>(views_.size()); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    mph::SpanKeys(views_).Views(begin, views);
  }

 private:
  static std::string_view View(PyObject* object, const char* name, std::int64_t position) {
    if (PyBytes_Check(object))
      return {PyBytes_AS_STRING(object), static_cast<std::size_t>(PyBytes_GET_SIZE(object))};
    if (!PyUnicode_Check(object))
      throw py::type_error(Element(name, position) + " is a " + Py_TYPE(object)->tp_name +
                           "; keys must be str or bytes");
    Py_ssize_t size = 0;
    const char* bytes = PyUnicode_AsUTF8AndSize(object, &size);
    if (bytes == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
      PyErr_Clear();
      throw py::value_error(Element(name, position) +
                            " has a lone surrogate and no UTF-8 form; pass such keys as bytes");
    }
    return {bytes, static_cast<std::size_t>(size)};
  }

  py::object objects_;
  std::vector<std::string_view> views_;
};

// A numpy S array: items of one width, padded with NULs.
class FixedWidthKeys final : public mph::KeySource {
 public:
  explicit FixedWidthKeys(py::array array)
      : array_(std::move(array)),
        data_(static_cast<const char*>(array_.data())),
        width_(static_cast<std::size_t>(array_.itemsize())) {}

  std::int64_t size() const noexcept override { return array_.size(); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i) {
      const char* item = data_ + static_cast<std::size_t>(begin + i) * width_;
      views[i] = {item, TrimmedSize(item)};
    }
  }

 private:
  // The bytes of an item before its padding, found by words from the end.
  std::size_t TrimmedSize(const char* item) const noexcept {
    std::size_t size = width_;
    for (; size >= 8; size -= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, item + size - 8, sizeof(word));
      if (word != 0) return size - static_cast<std::size_t>(__builtin_clzll(word) / 8);
    }
    while (size > 0 && item[size - 1] == '\0') --size;
    return size;
  }

  py::array array_;
  const char* data_;
  std::size_t width_;
};

// A numpy U array: items of one width in UTF-32, padded with NULs, encoded as UTF-8 here.
class EncodedKeys final : public mph::KeySource {
 public:
  EncodedKeys(const py::array& array, const char* name) {
    const auto width = static_cast<std::size_t>(array.itemsize() / 4);
    const auto* item = static_cast<const char32_t*>(array.data());
    ends_.reserve(static_cast<std::size_t>(array.size()) + 1);
    ends_.push_back(0);
    for (std::int64_t i = 0; i < array.size(); ++i, item += width) {
      std::size_t size = width;
      while (size > 0 && item[size - 1] == U'\0') --size;
      char32_t bits = 0;
      for (std::size_t k = 0; k < size; ++k) bits |= item[k];
      if (bits < 0x80)
        AppendAscii(item, size);
      else
        for (std::size_t k = 0; k < size; ++k) Append(item[k], name, i);
      ends_.push_back(bytes_.size());
    }
  }

  std::int64_t size() const noexcept override {
    return static_cast<std::int64_t>(ends_.size()) - 1;
  }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    const std::size_t* ends = ends_.data() + begin;
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {bytes_.data() + ends[i], ends[i + 1] - ends[i]};
  }

 private:
  void AppendAscii(const char32_t* item, std::size_t size) {
    const std::size_t end = bytes_.size();
    bytes_.resize(end + size);
    for (std::size_t k = 0; k < size; ++k) bytes_[end + k] = static_cast<char>(item[k]);
  }
  void Append(char32_t c, const char* name, std::int64_t position) {
    const auto tail = [&](int shift) {
      bytes_.push_back(static_cast<char>(0x80 | ((c >> shift) & 0x3F)));
    };
    if (c < 0x80) {
      bytes_.push_back(static_cast<char>(c));
    } else if (c < 0x800) {
      bytes_.push_back(static_cast<char>(0xC0 | (c >> 6)));
      tail(0);
    } else if (c < 0x10000) {
      if (c >= 0xD800 && c < 0xE000)
        throw py::value_error(Element(name, position) +
                              " has a lone surrogate and no UTF-8 form; pass such keys as bytes");
      bytes_.push_back(static_cast<char>(0xE0 | (c >> 12)));
      tail(6);
      tail(0);
    } else if (c < 0x110000) {
      bytes_.push_back(static_cast<char>(0xF0 | (c >> 18)));
      tail(12);
      tail(6);
      tail(0);
    } else {
      throw py::value_error(Element(name, position) + " has a code point above 0x10FFFF");
    }
  }

  std::string bytes_;
  std::vector<std::size_t> ends_;  // end of each item in bytes_, after a leading 0
};

// The array with these flags, itself or a copy.
py::array WithFlags(const py::object& array, int flags) {
  py::array result = py::array::ensure(array, flags);
  if (!result) throw std::bad_alloc();
  return result;
}

std::unique_ptr<mph::KeySource> FromNumpy(const py::array& array, const char* name) {
  if (array.ndim() != 1)
    throw py::value_error(std::string(name) + " must have 1 dimension; got " +
                          std::to_string(array.ndim()));
  switch (array.dtype().kind()) {
    case 'O':
      return std::make_unique<ObjectKeys>(array.attr("tolist")(), name);
    case 'S':
      return std::make_unique<FixedWidthKeys>(WithFlags(array, py::array::c_style));
    case 'U': {
      const py::object native =
          array.attr("astype")(array.dtype().attr("newbyteorder")("="), py::arg("copy") = false);
      constexpr int kReadable = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
      return std::make_unique<EncodedKeys>(WithFlags(native, kReadable), name);
    }
    default:
      throw py::type_error(std::string(name) + " is a numpy array of dtype " +
                           std::string(py::str(array.dtype())) + "; allowed kinds: S, U, object");
  }
}

}  // namespace

std::unique_ptr<mph::KeySource> MakeKeySource(const py::object& keys, const char* name) {
  if (py::isinstance<py::list>(keys) || py::isinstance<py::tuple>(keys))
    return std::make_unique<ObjectKeys>(keys, name);
  if (py::isinstance<py::array>(keys)) return FromNumpy(py::cast<py::array>(keys), name);
  if (HasArrowInterface(keys)) return MakeArrowKeySource(keys, name);
  throw py::type_error(std::string(name) + " is a " + Py_TYPE(keys.ptr())->tp_name +
                       "; allowed: a list or tuple of str or bytes, a numpy array of kind S, U or "
                       "object, an object with __arrow_c_array__ or __arrow_c_stream__");
}

}  // namespace feedfast::bindings
