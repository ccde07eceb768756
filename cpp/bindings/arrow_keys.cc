#include "cpp/bindings/arrow_keys.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/bindings/arrow_c_data.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

[[noreturn]] void ThrowNull(const char* name, std::int64_t position) {
  throw py::value_error(std::string(name) + "[" + std::to_string(position) +
                        "] is null; keys must not be null");
}

bool IsNull(const ArrowArray& array, std::int64_t i) noexcept {
  const auto* validity = static_cast<const std::uint8_t*>(array.buffers[0]);
  const std::int64_t bit = array.offset + i;
  return validity != nullptr && ((validity[bit >> 3] >> (bit & 7)) & 1) == 0;
}

bool MayHaveNulls(const ArrowArray& array) noexcept {
  return array.null_count != 0 && array.n_buffers > 0 && array.buffers[0] != nullptr;
}

// The strings of one Arrow array of a plain (not dictionary) layout.
class StringArray {
 public:
  StringArray(const ArrowArray& array, std::string_view format)
      : array_(&array), kind_(format.size() == 2 ? 'v' : format[0]) {}

  static bool IsSupported(std::string_view format) {
    for (const char* known : {"u", "U", "z", "Z", "vu", "vz", "n"})
      if (format == known) return true;
    return false;
  }

  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept {
    if (views.empty()) return;
    if (kind_ == 'v') return StringViews(begin, views);
    if (kind_ == 'u' || kind_ == 'z') return Offsets<std::int32_t>(begin, views);
    Offsets<std::int64_t>(begin, views);
  }

 private:
  template <typename Offset>
  void Offsets(std::int64_t begin, Span<std::string_view> views) const noexcept {
    const auto* offsets = static_cast<const Offset*>(array_->buffers[1]) + array_->offset + begin;
    const auto* data = static_cast<const char*>(array_->buffers[2]);
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {data + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }

  // 16 bytes per string: the length, then the bytes of a short string, or its first four, a buffer
  // and an offset.
  void StringViews(std::int64_t begin, Span<std::string_view> views) const noexcept {
    struct Entry {
      std::int32_t length;
      char prefix[4];
      std::int32_t buffer;
      std::int32_t offset;
    };
    const auto* entries = static_cast<const Entry*>(array_->buffers[1]) + array_->offset + begin;
    for (std::int64_t i = 0; i < views.size(); ++i) {
      const Entry& entry = entries[i];
      const char* bytes = entry.prefix;
      if (entry.length > 12)
        bytes = static_cast<const char*>(array_->buffers[2 + entry.buffer]) + entry.offset;
      views[i] = {bytes, static_cast<std::size_t>(entry.length)};
    }
  }

  const ArrowArray* array_;
  char kind_;
};

template <typename Index>
std::int64_t LoadIndex(const ArrowArray& array, std::int64_t i) noexcept {
  return static_cast<std::int64_t>(static_cast<const Index*>(array.buffers[1])[array.offset + i]);
}

using IndexLoader = std::int64_t (*)(const ArrowArray&, std::int64_t) noexcept;

IndexLoader LoaderOf(char format) {
  switch (format) {
    case 'c':
      return &LoadIndex<std::int8_t>;
    case 'C':
      return &LoadIndex<std::uint8_t>;
    case 's':
      return &LoadIndex<std::int16_t>;
    case 'S':
      return &LoadIndex<std::uint16_t>;
    case 'i':
      return &LoadIndex<std::int32_t>;
    case 'I':
      return &LoadIndex<std::uint32_t>;
    case 'l':
      return &LoadIndex<std::int64_t>;
    default:
      return &LoadIndex<std::uint64_t>;
  }
}

// Strings of one Arrow array behind a common face; dictionaries are resolved to one view per key.
class Chunk {
 public:
  // `first` is the position of the array's first key among all keys, for messages.
  Chunk(const ArrowArray& array, const ArrowSchema& schema, const char* name, std::int64_t first)
      : length_(array.length), strings_(array, FormatOf(schema)) {
    // The null type is what an empty list becomes.
    if (FormatOf(schema) == "n" && length_ > 0) ThrowNull(name, first);
    if (MayHaveNulls(array))
      for (std::int64_t i = 0; i < length_; ++i)
        if (IsNull(array, i)) ThrowNull(name, first + i);
    if (schema.dictionary != nullptr) Resolve(array, schema, name, first);
  }

  static std::string_view FormatOf(const ArrowSchema& schema) {
    return schema.dictionary == nullptr ? schema.format : schema.dictionary->format;
  }

  std::int64_t length() const noexcept { return length_; }

  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept {
    if (resolved_.empty())
      strings_.Views(begin, views);
    else
      std::copy_n(resolved_.data() + begin, views.size(), views.data());
  }

 private:
  void Resolve(const ArrowArray& array, const ArrowSchema& schema, const char* name,
               std::int64_t first) {
    const ArrowArray& dictionary = *array.dictionary;
    std::vector<std::string_view> words(static_cast<std::size_t>(dictionary.length));
    StringArray(dictionary, FormatOf(schema)).Views(0, words);
    const bool may_be_null = MayHaveNulls(dictionary);
    const IndexLoader load = LoaderOf(schema.format[0]);
    resolved_.reserve(static_cast<std::size_t>(length_));
    for (std::int64_t i = 0; i < length_; ++i) {
      const std::int64_t index = load(array, i);
      if (index < 0 || index >= dictionary.length)
        throw py::index_error(std::string(name) + "[" + std::to_string(first + i) +
                              "] has dictionary index " + std::to_string(index) +
                              " in a dictionary of " + std::to_string(dictionary.length));
      if (may_be_null && IsNull(dictionary, index)) ThrowNull(name, first + i);
      resolved_.push_back(words[static_cast<std::size_t>(index)]);
    }
  }

  std::int64_t length_;
  StringArray strings_;
  std::vector<std::string_view> resolved_;
};

template <typename T>
const T& FromCapsule(const py::object& capsule, const char* kind) {
  const auto* pointer = static_cast<const T*>(PyCapsule_GetPointer(capsule.ptr(), kind));
  if (pointer == nullptr) throw py::error_already_set();
  return *pointer;
}

// Releases a structure that a stream filled in.
template <typename T>
struct Released : T {
  Released() : T() {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;
  ~Released() {
    if (this->release != nullptr) this->release(this);
  }
};

class ArrowKeys final : public mph::KeySource {
 public:
  ArrowKeys(const py::object& keys, const char* name) : name_(name) {
    if (py::hasattr(keys, "__arrow_c_array__"))
      ReadArray(keys.attr("__arrow_c_array__")());
    else
      ReadStream(keys.attr("__arrow_c_stream__")());
  }

  std::int64_t size() const noexcept override { return starts_.back(); }

  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    // The last chunk that starts at or before `begin`; empty chunks share their start with the
    // next.
    auto chunk = static_cast<std::size_t>(
        std::upper_bound(starts_.begin(), starts_.end() - 1, begin) - starts_.begin() - 1);
    for (std::int64_t done = 0; done < views.size(); ++chunk) {
      const std::int64_t skip = begin + done - starts_[chunk];
      const std::int64_t count = std::min(chunks_[chunk].length() - skip, views.size() - done);
      chunks_[chunk].Views(skip, views.subspan(done, count));
      done += count;
    }
  }

 private:
  void ReadArray(const py::tuple& capsules) {
    capsules_ = capsules;
    const auto& schema = FromCapsule<ArrowSchema>(capsules[0], "arrow_schema");
    CheckFormat(schema);
    AddChunk(FromCapsule<ArrowArray>(capsules[1], "arrow_array"), schema);
  }

  void ReadStream(const py::object& capsule) {
    capsules_ = capsule;
    // A stream is consumed by reading; the interface has no const.
    auto& stream =
        const_cast<ArrowArrayStream&>(FromCapsule<ArrowArrayStream>(capsule, "arrow_array_stream"));
    Released<ArrowSchema> schema;
    CheckStream(stream, stream.get_schema(&stream, &schema));
    CheckFormat(schema);
    while (true) {
      auto array = std::make_unique<Released<ArrowArray>>();
      CheckStream(stream, stream.get_next(&stream, array.get()));
      if (array->release == nullptr) return;
      AddChunk(*array, schema);
      arrays_.push_back(std::move(array));
    }
  }

  void CheckFormat(const ArrowSchema& schema) const {
    const std::string_view format = Chunk::FormatOf(schema);
    if (!StringArray::IsSupported(format))
      throw py::type_error(std::string(name_) + " is an Arrow array of format '" +
                           std::string(format) +
                           "'; allowed: string, large_string, string_view, binary, large_binary, "
                           "binary_view and dictionaries of these");
  }

  void CheckStream(ArrowArrayStream& stream, int error) const {
    if (error == 0) return;
    const char* text = stream.get_last_error(&stream);
    throw py::value_error(std::string(name_) +
                          ": cannot read the Arrow stream: " + (text == nullptr ? "" : text));
  }

  void AddChunk(const ArrowArray& array, const ArrowSchema& schema) {
    chunks_.emplace_back(array, schema, name_, starts_.back());
    starts_.push_back(starts_.back() + array.length);
  }

  const char* name_;
  py::object capsules_;  // own the structures that an array or stream is read from
  std::vector<std::unique_ptr<Released<ArrowArray>>> arrays_;
  std::vector<Chunk> chunks_;
  std::vector<std::int64_t> starts_ = {0};  // first key of each chunk, then the number of keys
};

}  // namespace

bool HasArrowInterface(const py::handle& object) {
  return py::hasattr(object, "__arrow_c_array__") || py::hasattr(object, "__arrow_c_stream__");
}

std::unique_ptr<mph::KeySource> MakeArrowKeySource(const py::object& keys, const char* name) {
  return std::make_unique<ArrowKeys>(keys, name);
}

}  // namespace feedfast::bindings
