// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/mph/perfect_hash_seed_kernel.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace feedfast::mph::FEEDFAST_TARGET {
namespace {

constexpr std::uint32_t kNumShifts = 1U << kShiftBits;
constexpr std::uint32_t kNoSeed = ~std::uint32_t{0};

// The score of a group is (sum of slots at its smallest free shift) << kSeedBits | seed, or kNoSeed
// when no shift is free. Sums stay below kMaxBucketKeys * (kWindowSlots + kNumShifts) < 2^17.
constexpr int kSeedBits = 12;

// ScoreGroups writes the scores of kLanes groups from `first_group` on. For each group it gathers
// the occupied bits of the kNumShifts slots from the first slot of each key on; a shift is free
// when its bit is clear in all of them. Two keys that share a slot are not noticed here.
#if defined(__AVX512BW__)

constexpr int kLanes = 16;

// The window in registers, as half words: a permutation reads faster than a gather.
class Window {
 public:
  explicit Window(const std::uint8_t* bytes)
      : low_(_mm512_loadu_si512(bytes)),
        middle_(_mm512_loadu_si512(bytes + 64)),
        high_(_mm512_loadu_si512(bytes + 128)) {}

  // At least 17 bits from bit `first` of each lane on.
  __m512i Bits(__m512i first) const {
    const __m512i half_word = _mm512_srli_epi32(first, 4);
    const __m512i index = _mm512_add_epi32(
        _mm512_or_si512(half_word, _mm512_slli_epi32(half_word, 16)), _mm512_set1_epi32(1 << 16));
    const __m512i words = _mm512_mask_permutexvar_epi16(
        _mm512_permutex2var_epi16(low_, index, middle_),
        _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)), index, high_);
    return _mm512_srlv_epi32(words, _mm512_and_si512(first, _mm512_set1_epi32(15)));
  }

 private:
  __m512i low_;
  __m512i middle_;
  __m512i high_;
};

void ScoreGroups(const SeedQuery& query, const Window& window, int first_group,
                 std::uint32_t* scores) {
  const __m512i multipliers = _mm512_loadu_si512(query.multipliers + first_group);
  const __m512i shifts = _mm512_set1_epi32((1 << kNumShifts) - 1);
  const __m128i drop = _mm_cvtsi32_si128(32 - query.offset_bits);
  // Shift 0 of group 0 would be seed 0.
  __m512i taken = _mm512_maskz_set1_epi32(first_group == 0 ? 1 : 0, 1);
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < query.size; ++i) {
    const __m512i code = _mm512_set1_epi32(static_cast<int>(query.codes[i]));
    const __m512i first =
        _mm512_add_epi32(_mm512_srl_epi32(_mm512_mullo_epi32(code, multipliers), drop),
                         _mm512_set1_epi32(static_cast<int>(query.slices[i])));
    sum = _mm512_add_epi32(sum, first);
    taken = _mm512_or_si512(taken, window.Bits(first));
    // Later keys cannot help a group without a free shift.
    if ((i & 1) != 0 && i > 2 &&
        _mm512_test_epi32_mask(_mm512_andnot_si512(taken, shifts), shifts) == 0)
      break;
  }
  const __m512i free = _mm512_andnot_si512(taken, shifts);
  const __m512i lowest = _mm512_and_si512(free, _mm512_sub_epi32(_mm512_setzero_si512(), free));
  // The exponent of a power of two is the number of its bit.
  const __m512i shift =
      _mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(lowest)), 23),
                       _mm512_set1_epi32(127));
  sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(shift, _mm512_set1_epi32(query.size)));
  const __m512i group =
      _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                       _mm512_set1_epi32(first_group));
  const __m512i seed =
      _mm512_or_si512(_mm512_sll_epi32(shift, _mm_cvtsi32_si128(query.group_bits)), group);
  const __m512i score = _mm512_or_si512(_mm512_slli_epi32(sum, kSeedBits), seed);
  _mm512_storeu_si512(
      scores + first_group,
      _mm512_mask_mov_epi32(_mm512_set1_epi32(-1), _mm512_test_epi32_mask(free, free), score));
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;

class Window {
 public:
  explicit Window(const std::uint8_t* bytes) : bytes_(reinterpret_cast<const int*>(bytes)) {}

  __m256i Bits(__m256i first) const {
    const __m256i words = _mm256_i32gather_epi32(bytes_, _mm256_srli_epi32(first, 3), 1);
    return _mm256_srlv_epi32(words, _mm256_and_si256(first, _mm256_set1_epi32(7)));
  }

 private:
  const int* bytes_;
};

void ScoreGroups(const SeedQuery& query, const Window& window, int first_group,
                 std::uint32_t* scores) {
  const __m256i multipliers =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query.multipliers + first_group));
  const __m256i shifts = _mm256_set1_epi32((1 << kNumShifts) - 1);
  const __m128i drop = _mm_cvtsi32_si128(32 - query.offset_bits);
  // Shift 0 of group 0 would be seed 0.
  __m256i taken = _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0, first_group == 0 ? 1 : 0);
  __m256i sum = _mm256_setzero_si256();
  for (int i = 0; i < query.size; ++i) {
    const __m256i code = _mm256_set1_epi32(static_cast<int>(query.codes[i]));
    const __m256i first =
        _mm256_add_epi32(_mm256_srl_epi32(_mm256_mullo_epi32(code, multipliers), drop),
                         _mm256_set1_epi32(static_cast<int>(query.slices[i])));
    sum = _mm256_add_epi32(sum, first);
    taken = _mm256_or_si256(taken, window.Bits(first));
    // Later keys cannot help a group without a free shift.
    if ((i & 1) != 0 && i > 2 && _mm256_testc_si256(taken, shifts) != 0) break;
  }
  const __m256i free = _mm256_andnot_si256(taken, shifts);
  const __m256i lowest = _mm256_and_si256(free, _mm256_sub_epi32(_mm256_setzero_si256(), free));
  // The exponent of a power of two is the number of its bit.
  const __m256i shift =
      _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(lowest)), 23),
                       _mm256_set1_epi32(127));
  sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(shift, _mm256_set1_epi32(query.size)));
  const __m256i group =
      _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(first_group));
  const __m256i seed =
      _mm256_or_si256(_mm256_sll_epi32(shift, _mm_cvtsi32_si128(query.group_bits)), group);
  const __m256i none = _mm256_cmpeq_epi32(free, _mm256_setzero_si256());
  const __m256i score = _mm256_or_si256(_mm256_slli_epi32(sum, kSeedBits), seed);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(scores + first_group),
                      _mm256_or_si256(score, none));
}

#else

constexpr int kLanes = 1;

using Window = const std::uint8_t*;

void ScoreGroups(const SeedQuery& query, Window window, int first_group, std::uint32_t* scores) {
  const std::uint32_t multiplier = query.multipliers[first_group];
  const int drop = 32 - query.offset_bits;
  constexpr std::uint32_t kAll = (1U << kNumShifts) - 1;
  // Shift 0 of group 0 would be seed 0.
  std::uint32_t taken = first_group == 0 ? 1 : 0;
  std::uint32_t sum = 0;
  for (int i = 0; i < query.size && (taken & kAll) != kAll; ++i) {
    const std::uint32_t first = query.slices[i] + ((query.codes[i] * multiplier) >> drop);
    sum += first;
    std::uint32_t bits;
    std::memcpy(&bits, window + (first >> 3), sizeof(bits));
    taken |= bits >> (first & 7);
  }
  scores[first_group] = kNoSeed;
  if ((taken & kAll) == kAll) return;
  const auto shift = static_cast<std::uint32_t>(__builtin_ctz(~taken));
  sum += shift * static_cast<std::uint32_t>(query.size);
  scores[first_group] =
      sum << kSeedBits | shift << query.group_bits | static_cast<std::uint32_t>(first_group);
}

#endif

// Whether two keys of the bucket have one slot in the group.
bool Collides(const SeedQuery& query, std::uint32_t group) {
  const std::uint32_t multiplier = query.multipliers[group];
  const int drop = 32 - query.offset_bits;
  std::uint64_t seen[(kWindowSlots + 63) / 64] = {};
  for (int i = 0; i < query.size; ++i) {
    const std::uint32_t first = query.slices[i] + ((query.codes[i] * multiplier) >> drop);
    const std::uint64_t bit = std::uint64_t{1} << (first & 63);
    if ((seen[first >> 6] & bit) != 0) return true;
    seen[first >> 6] |= bit;
  }
  return false;
}

}  // namespace

std::uint32_t FindSeed(const SeedQuery& query) noexcept {
  alignas(64) std::uint32_t scores[kMaxSearchGroups];
  const Window window(query.window);
  const int num_groups = 1 << query.group_bits;
  for (int group = 0; group < num_groups; group += kLanes)
    ScoreGroups(query, window, group, scores);
  while (true) {
    std::uint32_t best = kNoSeed;
    for (int group = 0; group < num_groups; ++group)
      best = scores[group] < best ? scores[group] : best;
    if (best == kNoSeed) return 0;
    const std::uint32_t seed = best & ((1U << kSeedBits) - 1);
    const std::uint32_t group = seed & static_cast<std::uint32_t>(num_groups - 1);
    if (query.size == 1 || !Collides(query, group)) return seed;
    scores[group] = kNoSeed;
  }
}

}  // namespace feedfast::mph::FEEDFAST_TARGET
