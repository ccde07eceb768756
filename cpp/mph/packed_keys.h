#ifndef FEEDFAST_CPP_MPH_PACKED_KEYS_H_
#define FEEDFAST_CPP_MPH_PACKED_KEYS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace feedfast::mph {

// Keys one after the other: key i is bytes [offsets[i], offsets[i + 1]), 8 bytes per key above the
// keys themselves.
struct PackedKeys {
  std::string bytes;
  std::vector<std::int64_t> offsets = {0};

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(offsets.size()) - 1; }
};

struct Lines {
  PackedKeys keys;
  std::int64_t consumed = 0;  // bytes of the text that the keys were taken from
};

// The lines of `text`, one key each: up to '\n', without it and without one '\r' before it, as in
// tf.lookup.TextFileInitializer, which refuses empty lines; here such a line is the empty key. What
// follows the last '\n' is consumed only when the text `is_last`, and is then a line unless it is
// empty. Throws std::bad_alloc.
Lines SplitLines(std::string_view text, bool is_last);

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_PACKED_KEYS_H_
