#ifndef FEEDFAST_CPP_MPH_KEY_CODES_H_
#define FEEDFAST_CPP_MPH_KEY_CODES_H_

#include <cstdint>
#include <string_view>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/key_source.h"
#include "cpp/mph/vocabulary.h"

namespace feedfast::mph {

// Work on the codes of keys that are not at hand, such as those of another process.

// Codes as keys of a build: each stands for its 8 bytes, out of which ReadCodes, the hash function
// of that build, takes it again.
class CodeKeys final : public KeySource {
 public:
  explicit CodeKeys(Span<const KeyCode> codes) noexcept : codes_(codes) {}

  std::int64_t size() const noexcept override { return codes_.size(); }
  void Views(std::int64_t begin, Span<std::string_view> views) const noexcept override {
    for (std::int64_t i = 0; i < views.size(); ++i)
      views[i] = {reinterpret_cast<const char*>(codes_.data() + begin + i), sizeof(KeyCode)};
  }

 private:
  Span<const KeyCode> codes_;
};

// codes[i] = the code that keys[i] of CodeKeys stands for, whatever the seed.
void ReadCodes(Span<const std::string_view> keys, std::uint64_t seed, KeyCode* codes) noexcept;

// codes[i] = HashKeys of key i with `seed`, on up to `threads` threads; each word of a dictionary
// is hashed once. Requires codes.size() == keys.size(), threads >= 1. Throws std::bad_alloc.
void HashAll(const KeySource& keys, std::uint64_t seed, int threads, Span<KeyCode> codes);

// The image that Vocabulary::Build makes of the keys with these codes under options.seed, in any
// order. InvalidArgument: two codes are equal, or as Build. Internal: no hash function was found;
// Build would take another seed then, under which the keys have other codes. Throws std::bad_alloc.
StatusOr<Vocabulary> BuildOfCodes(Span<const KeyCode> codes, const BuildOptions& options);

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_KEY_CODES_H_
