// Kernels only; compiled once per CPU target. Every step is exact or rounds once, so that all
// targets write the same words.
#include "cpp/gated_mlp/gated_mlp_kernel.h"
#include "cpp/gated_mlp/vector.h"

namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

using Halves = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));
using UnalignedHalves = std::uint16_t
    __attribute__((vector_size(kLanes * sizeof(std::uint16_t)), aligned(1), may_alias));
using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));
using UnalignedBytes = std::uint8_t __attribute__((vector_size(kLanes), aligned(1), may_alias));

// RoundToBf16 of precision.h; where the products read subnormal numbers as zero, so does this.
#if defined(__AVX512BF16__)
inline Halves ToBf16(Vec v) { return reinterpret_cast<Halves>(_mm512_cvtneps_pbh(v)); }
#else
inline Halves ToBf16(Vec v) {
  const IntVec bits = reinterpret_cast<IntVec>(v);
  const IntVec rounded = bits + 0x7fff + (bits >> 16 & 1);
  const IntVec nan = (bits & 0x7fffffff) > 0x7f800000;
  return __builtin_convertvector((nan ? bits | 0x400000 : rounded) >> 16, Halves);
}
#endif

inline void RoundRow(const float* x, std::int64_t size, std::uint16_t* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    *reinterpret_cast<UnalignedHalves*>(out + i) = ToBf16(Load(x + i));
  if (i == size) return;
  const Halves tail = ToBf16(LoadPart(x + i, size - i));
  for (int lane = 0; lane < kLanes; ++lane)
    if (i + lane < size) out[i + lane] = tail[lane];
}

using UintVec = std::uint32_t __attribute__((vector_size(kLanes * sizeof(float))));

// The bits of the largest and of the smallest x with 0 among them: as signed integers those of the
// largest are the largest, as unsigned ones those of the smallest, if it is negative. NaN and
// infinity are beyond both. Two of each, so that a row does not wait for one chain.
struct Range {
  IntVec high[2];
  UintVec low[2];
};

inline void Extend(Range& range, int chain, Vec x) {
  const auto high = reinterpret_cast<IntVec>(x);
  const auto low = reinterpret_cast<UintVec>(x);
  range.high[chain] = high > range.high[chain] ? high : range.high[chain];
  range.low[chain] = low > range.low[chain] ? low : range.low[chain];
}

// x * inverse rounded, ties to even, plus zero. |x * inverse| is at most 255.
inline IntVec Step(Vec x, Vec inverse, IntVec zero) {
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_cvtps_epi32(x * inverse)) + zero;
#else
  const Vec shift = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return reinterpret_cast<IntVec>(x * inverse + shift) - reinterpret_cast<IntVec>(shift) + zero;
#endif
}

inline Bytes Quantize(Vec x, Vec inverse, IntVec zero) {
  IntVec q = Step(x, inverse, zero);
  q = q < 0 ? BroadcastInt(0) : q;
  q = q > 255 ? BroadcastInt(255) : q;
  return __builtin_convertvector(q, Bytes);
}

#if defined(__AVX512BW__)
// Quantize of 4 vectors: both packs saturate and work within 128 bits, the permutation puts the
// words in order.
inline void QuantizeFour(const float* x, Vec inverse, IntVec zero, std::uint8_t* out) {
  const auto step = [&](int i) {
    return reinterpret_cast<__m512i>(Step(Load(x + i * kLanes), inverse, zero));
  };
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(step(0), step(1)),
                                            _mm512_packs_epi32(step(2), step(3)));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, bytes));
}
#endif

constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::int32_t kInfinity = 0x7f800000;

inline float FloatOf(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// How a row is quantised; an inverse of 0 makes every byte zero.
struct RowSteps {
  RowScale row;
  float inverse;
};

inline RowSteps StepsOf(const float* x, std::int64_t size) {
  Range range{};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
    Extend(range, 0, Load(x + i));
    Extend(range, 1, Load(x + i + kLanes));
  }
  for (; i < size; i += kLanes) Extend(range, 0, LoadPart(x + i, size - i));
#if defined(__AVX512F__)
  const std::int32_t high_bits = _mm512_reduce_max_epi32(_mm512_max_epi32(
      reinterpret_cast<__m512i>(range.high[0]), reinterpret_cast<__m512i>(range.high[1])));
  const std::uint32_t low_bits = _mm512_reduce_max_epu32(_mm512_max_epu32(
      reinterpret_cast<__m512i>(range.low[0]), reinterpret_cast<__m512i>(range.low[1])));
#else
  std::int32_t high_bits = 0;
  std::uint32_t low_bits = 0;
  for (int chain = 0; chain < 2; ++chain)
    for (int lane = 0; lane < kLanes; ++lane) {
      if (range.high[chain][lane] > high_bits) high_bits = range.high[chain][lane];
      if (range.low[chain][lane] > low_bits) low_bits = range.low[chain][lane];
    }
#endif
  const float high = FloatOf(static_cast<std::uint32_t>(high_bits));
  const float low = low_bits > kSign ? FloatOf(low_bits) : 0.0f;
  const float width = high - low;
  const bool finite = high_bits < kInfinity && low_bits < (kSign | kInfinity) && width < 3e38f;
  // 255 / width may overflow.
  if (!finite || width < 1e-30f) return {{finite ? 0.0f : __builtin_nanf(""), 0}, 0.0f};
  const float inverse = 255.0f / width;
  // Any zero point near -low / scale serves, so the rounding of ties does not matter.
  // NOLINTNEXTLINE(bugprone-incorrect-roundings)
  return {{width / 255.0f, static_cast<std::int32_t>(-low * inverse + 0.5f)}, inverse};
}

inline void QuantizeRow(const float* x, std::int64_t size, const RowSteps& steps,
                        std::uint8_t* out) {
  if (steps.inverse == 0.0f) {  // inputs may be NaN
    for (std::int64_t i = 0; i < size; ++i) out[i] = 0;
    return;
  }
  const Vec inverse = Broadcast(steps.inverse);
  const IntVec zero = BroadcastInt(steps.row.zero);
  std::int64_t i = 0;
#if defined(__AVX512BW__)
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) QuantizeFour(x + i, inverse, zero, out + i);
#endif
  for (; i + kLanes <= size; i += kLanes)
    *reinterpret_cast<UnalignedBytes*>(out + i) = Quantize(Load(x + i), inverse, zero);
  if (i == size) return;
  const Bytes last = Quantize(LoadPart(x + i, size - i), inverse, zero);
  for (int lane = 0; lane < kLanes; ++lane)
    if (i + lane < size) out[i + lane] = last[lane];
}

}  // namespace

void ConvertBf16(const ConvertArgs& args) noexcept {
  const std::int64_t size = args.num_lead + args.num_own;
  for (std::int64_t r = 0; r < args.num_rows; ++r) {
    auto* out = static_cast<std::uint16_t*>(args.words) + 2 * r * args.words_stride;
    RoundRow(args.lead, args.num_lead, out);
    RoundRow(args.x + r * args.x_stride, args.num_own, out + args.num_lead);
    if (size % 2 != 0) out[size] = 0;
  }
}

void ConvertInt8(const ConvertArgs& args) noexcept {
  if (args.num_rows == 0) return;
  // The range of the next row is looked for while this one's steps are divided out.
  RowSteps next = StepsOf(args.x, args.num_own);
  for (std::int64_t r = 0; r < args.num_rows; ++r) {
    const RowSteps steps = next;
    const float* x = args.x + r * args.x_stride;
    if (r + 1 < args.num_rows) next = StepsOf(x + args.x_stride, args.num_own);
    args.rows[r] = steps.row;
    auto* out = static_cast<std::uint8_t*>(args.words) + 4 * r * args.words_stride;
    QuantizeRow(x, args.num_own, steps, out);
    for (std::int64_t i = args.num_own; i % 4 != 0; ++i) out[i] = 0;
  }
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
