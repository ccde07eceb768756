#include "cpp/mph/packed_keys.h"

#include <algorithm>

namespace feedfast::mph {

Lines SplitLines(std::string_view text, bool is_last) {
  Lines lines;
  const std::size_t end = is_last ? text.size() : text.rfind('\n') + 1;  // 0 without '\n'
  lines.consumed = static_cast<std::int64_t>(end);
  std::string& bytes = lines.keys.bytes;
  std::vector<std::int64_t>& offsets = lines.keys.offsets;
  const auto num_lines = std::count(text.begin(), text.begin() + lines.consumed, '\n');
  offsets.reserve(static_cast<std::size_t>(num_lines) + 2);
  bytes.reserve(end - static_cast<std::size_t>(num_lines));
  for (std::size_t begin = 0; begin < end;) {
    const std::size_t newline = std::min(text.find('\n', begin), end);
    std::size_t size = newline - begin;
    if (size > 0 && text[newline - 1] == '\r') --size;
    bytes.append(text, begin, size);
    offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    begin = newline + 1;
  }
  return lines;
}

}  // namespace feedfast::mph
