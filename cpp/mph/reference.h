#ifndef FEEDFAST_CPP_MPH_REFERENCE_H_
#define FEEDFAST_CPP_MPH_REFERENCE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cpp/common/span.h"

namespace feedfast::mph::reference {

// The map that a vocabulary stands for, with the keys kept: the oracle of every lookup.
class ExactVocabulary {
 public:
  ExactVocabulary(Span<const std::string_view> keys, Span<const std::int64_t> rows) {
    for (std::int64_t i = 0; i < keys.size(); ++i) rows_.emplace(keys[i], rows[i]);
  }
  // The row of a key, 0 when it is unknown.
  std::int64_t Lookup(std::string_view key) const {
    const auto found = rows_.find(std::string(key));
    return found == rows_.end() ? 0 : found->second;
  }

 private:
  std::unordered_map<std::string, std::int64_t> rows_;
};

// Whether `values` are the integers 1..values.size() in some order.
inline bool IsPermutation(Span<const std::int64_t> values) {
  std::vector<bool> seen(static_cast<std::size_t>(values.size()));
  for (const std::int64_t value : values) {
    if (value < 1 || value > values.size() || seen[static_cast<std::size_t>(value - 1)])
      return false;
    seen[static_cast<std::size_t>(value - 1)] = true;
  }
  return true;
}

}  // namespace feedfast::mph::reference

#endif  // FEEDFAST_CPP_MPH_REFERENCE_H_
