#ifndef FEEDFAST_CPP_MPH_KEY_SOURCE_H_
#define FEEDFAST_CPP_MPH_KEY_SOURCE_H_

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"

namespace feedfast::mph {

// Keys are taken in blocks of this many, so that the memory reads of one block overlap.
inline constexpr std::int64_t kKeyBlock = 256;

// A sequence of byte strings that somebody else stores (Arrow buffers, numpy arrays, a list, a
// string tensor), read in blocks so that no view per key has to exist for the whole sequence.
// Implementations are safe to read from several threads at once.
class KeySource {
 public:
  KeySource() = default;
  KeySource(const KeySource&) = delete;
  KeySource& operator=(const KeySource&) = delete;
  virtual ~KeySource() = default;

  virtual std::int64_t size() const noexcept = 0;
  // views[i] = key begin + i. Requires 0 <= begin and begin + views.size() <= size(). The views
  // stay valid as long as the source. Does not read the keys' bytes.
  virtual void Views(std::int64_t begin, Span<std::string_view> views) const noexcept = 0;

  // The words that the keys repeat, where the source holds them apart (a dictionary-encoded Arrow
  // array), so that each needs to be looked up once only; nullptr elsewhere. They live as long as
  // the source, and not all of them need to occur.
  virtual const KeySource* words() const noexcept { return nullptr; }
  // indexes[i] = which of words() key begin + i is. Overridden together with words(); requires
  // words() != nullptr and the range of Views.
  virtual void WordIndexes(std::int64_t /*begin*/, Span<std::int64_t> /*indexes*/) const noexcept {
    assert(false);
  }
};

// Keys that already lie in memory as views.
class SpanKeys final : public KeySource {
 public:
  explicit SpanKeys(Span<const std::string_view> keys) noexcept : keys_(keys) {}

  std::int64_t size() const noexcept override { return keys_.size(); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    std::copy_n(keys_.data() + begin, views.size(), views.data());
  }

 private:
  Span<const std::string_view> keys_;
};

// Calls body(first, views) for each block of `keys` in [begin, end), ascending.
template <typename Body>
void ForEachKeyBlock(const KeySource& keys, std::int64_t begin, std::int64_t end,
                     const Body& body) {
  std::string_view buffer[kKeyBlock];
  for (std::int64_t first = begin; first < end; first += kKeyBlock) {
    const Span<std::string_view> views(buffer, std::min(kKeyBlock, end - first));
    keys.Views(first, views);
    body(first, Span<const std::string_view>(views));
  }
}

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_KEY_SOURCE_H_
