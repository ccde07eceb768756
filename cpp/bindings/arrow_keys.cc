#include "cpp/bindings/arrow_keys.h"

#include <algorithm>
#include <cstring>
#include <memory>
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

// The first null of an array, or -1. Reads the validity bitmap by words of 64.
std::int64_t FirstNull(const ArrowArray& array) noexcept {
  if (array.null_count == 0 || array.n_buffers == 0 || array.buffers[0] == nullptr) return -1;
  const auto* validity = static_cast<const std::uint8_t*>(array.buffers[0]);
  for (std::int64_t i = 0; i < array.length;) {
    const std::int64_t bit = array.offset + i;
    if ((bit & 7) == 0 && array.length - i >= 64) {
      std::uint64_t word = 0;
      std::memcpy(&word, validity + (bit >> 3), sizeof(word));
      if (word == ~std::uint64_t{0}) {
        i += 64;
        continue;
      }
    }
    if (((validity[bit >> 3] >> (bit & 7)) & 1) == 0) return i;
    ++i;
  }
  return -1;
}

bool IsNull(const ArrowArray& array, std::int64_t i) noexcept {
  ArrowArray element = array;
  element.offset += i;
  element.length = 1;
  return FirstNull(element) >= 0;
}

// Whether two arrays of one format are the same memory.
bool SameBytes(const ArrowArray& a, const ArrowArray& b) noexcept {
  return a.length == b.length && a.offset == b.offset && a.n_buffers == b.n_buffers &&
         std::equal(a.buffers, a.buffers + a.n_buffers, b.buffers);
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

// indexes[i] = index begin + i of a dictionary-encoded array.
using IndexLoader = void (*)(const ArrowArray& array, std::int64_t begin,
                             Span<std::int64_t> indexes) noexcept;

template <typename Index>
void LoadIndexes(const ArrowArray& array, std::int64_t begin, Span<std::int64_t> indexes) noexcept {
  const Index* from = static_cast<const Index*>(array.buffers[1]) + array.offset + begin;
  std::copy_n(from, indexes.size(), indexes.data());
}

IndexLoader LoaderOf(char format) {
  switch (format) {
    case 'c':
      return &LoadIndexes<std::int8_t>;
    case 'C':
      return &LoadIndexes<std::uint8_t>;
    case 's':
      return &LoadIndexes<std::int16_t>;
    case 'S':
      return &LoadIndexes<std::uint16_t>;
    case 'i':
      return &LoadIndexes<std::int32_t>;
    case 'I':
      return &LoadIndexes<std::uint32_t>;
    case 'l':
      return &LoadIndexes<std::int64_t>;
    default:
      return &LoadIndexes<std::uint64_t>;
  }
}

std::string_view ValueFormat(const ArrowSchema& schema) {
  return schema.dictionary == nullptr ? schema.format : schema.dictionary->format;
}

// The indexes of a dictionary-encoded array whose dictionary begins at word `first_word` of all.
class IndexArray {
 public:
  IndexArray(const ArrowArray& array, const ArrowSchema& schema, std::int64_t first_word)
      : array_(&array), load_(LoaderOf(schema.format[0])), first_word_(first_word) {}

  void Load(std::int64_t begin, Span<std::int64_t> words) const noexcept {
    if (words.empty()) return;
    load_(*array_, begin, words);
    for (std::int64_t& word : words) word += first_word_;
  }

  // IndexError: an index outside the dictionary. ValueError: the index of a null word. `first` is
  // the position of the first key, for messages.
  void Check(const char* name, std::int64_t first) const {
    const ArrowArray& dictionary = *array_->dictionary;
    const bool has_nulls = FirstNull(dictionary) >= 0;
    std::int64_t indexes[mph::kKeyBlock];
    for (std::int64_t begin = 0; begin < array_->length; begin += mph::kKeyBlock) {
      const std::int64_t size = std::min(mph::kKeyBlock, array_->length - begin);
      load_(*array_, begin, {indexes, size});
      std::uint64_t highest = 0;  // a negative index is the highest of all
      for (std::int64_t i = 0; i < size; ++i)
        highest = std::max(highest, static_cast<std::uint64_t>(indexes[i]));
      if (highest < static_cast<std::uint64_t>(dictionary.length) && !has_nulls) continue;
      for (std::int64_t i = 0; i < size; ++i) {
        if (indexes[i] < 0 || indexes[i] >= dictionary.length)
          throw py::index_error(std::string(name) + "[" + std::to_string(first + begin + i) +
                                "] has dictionary index " + std::to_string(indexes[i]) +
                                " in a dictionary of " + std::to_string(dictionary.length));
        if (IsNull(dictionary, indexes[i])) ThrowNull(name, first + begin + i);
      }
    }
  }

 private:
  const ArrowArray* array_;
  IndexLoader load_;
  std::int64_t first_word_;
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

// Either plain arrays, or dictionary-encoded ones with all their words.
class ArrowKeys final : public mph::KeySource {
 public:
  ArrowKeys(const py::object& keys, const char* name) : name_(name) {
    if (const py::object array = py::getattr(keys, "__arrow_c_array__", py::none());
        !array.is_none())
      ReadArray(array());
    else
      ReadStream(keys.attr("__arrow_c_stream__")());
    if (!indexes_.empty()) words_ = std::make_unique<mph::SpanKeys>(word_views_);
  }

  std::int64_t size() const noexcept override { return starts_.back(); }

  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    if (words_ == nullptr)
      return ForEachPart(
          begin, views.size(),
          [&](std::size_t chunk, std::int64_t skip, std::int64_t done, std::int64_t count) {
            strings_[chunk].Views(skip, views.subspan(done, count));
          });
    std::int64_t words[mph::kKeyBlock];
    for (std::int64_t done = 0; done < views.size(); done += mph::kKeyBlock) {
      const std::int64_t count = std::min(mph::kKeyBlock, views.size() - done);
      WordIndexes(begin + done, {words, count});
      for (std::int64_t i = 0; i < count; ++i)
        views[done + i] = word_views_[static_cast<std::size_t>(words[i])];
    }
  }

  const mph::KeySource* words() const noexcept override { return words_.get(); }

  void WordIndexes(std::int64_t begin, Span<std::int64_t> words) const noexcept override {
    ForEachPart(begin, words.size(),
                [&](std::size_t chunk, std::int64_t skip, std::int64_t done, std::int64_t count) {
                  indexes_[chunk].Load(skip, words.subspan(done, count));
                });
  }

 private:
  // Calls body(chunk, first key in it, first key of the range, count) for the parts of chunks that
  // make up the keys [begin, begin + size).
  template <typename Body>
  void ForEachPart(std::int64_t begin, std::int64_t size, const Body& body) const noexcept {
    // The last chunk that starts at or before `begin`; empty chunks share their start with the
    // next.
    auto chunk = static_cast<std::size_t>(
        std::upper_bound(starts_.begin(), starts_.end() - 1, begin) - starts_.begin() - 1);
    for (std::int64_t done = 0; done < size; ++chunk) {
      const std::int64_t skip = begin + done - starts_[chunk];
      const std::int64_t count = std::min(starts_[chunk + 1] - starts_[chunk] - skip, size - done);
      body(chunk, skip, done, count);
      done += count;
    }
  }

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
    const std::string_view format = ValueFormat(schema);
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
    const std::int64_t first = starts_.back();
    // The null type is what an empty list becomes.
    if (ValueFormat(schema) == "n" && array.length > 0) ThrowNull(name_, first);
    if (const std::int64_t null = FirstNull(array); null >= 0) ThrowNull(name_, first + null);
    if (schema.dictionary == nullptr) {
      strings_.emplace_back(array, schema.format);
    } else {
      const ArrowArray& dictionary = *array.dictionary;
      // Chunks often share one dictionary.
      const bool shared = dictionary_ != nullptr && SameBytes(*dictionary_, dictionary);
      if (!shared) first_word_ = word_views_.size();
      indexes_.emplace_back(array, schema, static_cast<std::int64_t>(first_word_));
      indexes_.back().Check(name_, first);
      dictionary_ = &dictionary;
      if (!shared) AddWords(dictionary, ValueFormat(schema));
    }
    starts_.push_back(first + array.length);
  }

  void AddWords(const ArrowArray& dictionary, std::string_view format) {
    word_views_.resize(first_word_ + static_cast<std::size_t>(dictionary.length));
    const Span<std::string_view> words(word_views_.data() + first_word_, dictionary.length);
    StringArray(dictionary, format).Views(0, words);
    if (FirstNull(dictionary) < 0) return;
    // What lies where a null word is means nothing, not even a size.
    for (std::int64_t i = 0; i < words.size(); ++i)
      if (IsNull(dictionary, i)) words[i] = {};
  }

  const char* name_;
  py::object capsules_;  // own the structures that an array or stream is read from
  std::vector<std::unique_ptr<Released<ArrowArray>>> arrays_;
  std::vector<StringArray> strings_;          // one per chunk, or
  std::vector<IndexArray> indexes_;           //   one per chunk, with
  std::vector<std::string_view> word_views_;  //   the words of all dictionaries,
  const ArrowArray* dictionary_ = nullptr;    //   the last chunk's
  std::size_t first_word_ = 0;                //   from here on,
  std::unique_ptr<mph::SpanKeys> words_;      //   as a source
  std::vector<std::int64_t> starts_ = {0};    // first key of each chunk, then the number of keys
};

}  // namespace

bool HasArrowInterface(const py::handle& object) {
  return py::hasattr(object, "__arrow_c_array__") || py::hasattr(object, "__arrow_c_stream__");
}

std::unique_ptr<mph::KeySource> MakeArrowKeySource(const py::object& keys, const char* name) {
  return std::make_unique<ArrowKeys>(keys, name);
}

}  // namespace feedfast::bindings
