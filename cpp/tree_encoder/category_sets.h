#ifndef FEEDFAST_CPP_TREE_ENCODER_CATEGORY_SETS_H_
#define FEEDFAST_CPP_TREE_ENCODER_CATEGORY_SETS_H_

#include <cstdint>

namespace feedfast::tree_encoder {

// Categories are whole numbers below this, which float32 holds exactly.
inline constexpr std::int32_t kMaxCategories = std::int32_t{1} << 24;

// Sets of categories as bits: category c of set s is bit c % 32 of words[offsets[s] + c / 32]. A
// set's last word is not 0.
struct CategorySets {
  const std::uint32_t* words;
  const std::int32_t* offsets;  // [sets + 1]
};

// Whether the category `value`, its fraction cut off, is in the set. Values below zero, NaN and
// values from kMaxCategories on are in no set.
static inline bool SetHas(const CategorySets& sets, std::int64_t set, float value) {
  if (!(value >= 0.0F && value < static_cast<float>(kMaxCategories))) return false;
  const auto category = static_cast<std::int32_t>(value);
  const std::int32_t word = sets.offsets[set] + category / 32;
  return word < sets.offsets[set + 1] && (sets.words[word] >> (category % 32) & 1U) != 0;
}

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_CATEGORY_SETS_H_
