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

// RoundToBf16 of precision.h.
inline Halves ToBf16(Vec v) {
  const IntVec bits = reinterpret_cast<IntVec>(v);
  const IntVec rounded = bits + 0x7fff + (bits >> 16 & 1);
  const IntVec nan = (bits & 0x7fffffff) > 0x7f800000;
  return __builtin_convertvector((nan ? bits | 0x400000 : rounded) >> 16, Halves);
}

inline void RoundRow(const float* x, std::int64_t size, std::uint16_t* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    *reinterpret_cast<UnalignedHalves*>(out + i) = ToBf16(Load(x + i));
  if (i == size) return;
  const Halves tail = ToBf16(LoadPart(x + i, size - i));
  for (int lane = 0; lane < kLanes; ++lane)
    if (i + lane < size) out[i + lane] = tail[lane];
}

// Lane by lane; NaN is passed over.
inline Vec Smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec Larger(Vec a, Vec b) { return a > b ? a : b; }

struct Range {
  Vec low;
  Vec high;
  IntVec largest;  // bits of |x|: NaN and infinity are the largest
};

inline void Extend(Range& range, Vec x) {
  range.low = Smaller(x, range.low);
  range.high = Larger(x, range.high);
  const IntVec size = reinterpret_cast<IntVec>(x) & 0x7fffffff;
  range.largest = size > range.largest ? size : range.largest;
}

inline Bytes Quantize(Vec x, Vec inverse, IntVec zero) {
  // 1.5 * 2^23: adding it rounds to an integer. |x * inverse| is at most 255.
  const Vec shift = Broadcast(12582912.0f);
  IntVec q = reinterpret_cast<IntVec>(x * inverse + shift) - reinterpret_cast<IntVec>(shift) + zero;
  q = q < 0 ? BroadcastInt(0) : q;
  q = q > 255 ? BroadcastInt(255) : q;
  return __builtin_convertvector(q, Bytes);
}

inline RowScale QuantizeRow(const float* x, std::int64_t size, std::uint8_t* out) {
  Range range{Broadcast(0.0f), Broadcast(0.0f), BroadcastInt(0)};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Extend(range, Load(x + i));
  const Vec tail = LoadPart(x + i, size - i);
  Extend(range, tail);
  float low = 0;
  float high = 0;
  std::int32_t largest = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    low = range.low[lane] < low ? range.low[lane] : low;
    high = range.high[lane] > high ? range.high[lane] : high;
    largest = range.largest[lane] > largest ? range.largest[lane] : largest;
  }
  const float width = high - low;
  const bool finite = largest < 0x7f800000 && width < 3e38f;
  if (!finite || width < 1e-30f) {  // 255 / width may overflow
    for (i = 0; i < size; ++i) out[i] = 0;
    return {finite ? 0.0f : __builtin_nanf(""), 0};
  }
  const float inverse = 255.0f / width;
  // Any zero point near -low / scale serves, so the rounding of ties does not matter.
  // NOLINTNEXTLINE(bugprone-incorrect-roundings)
  const RowScale row{width / 255.0f, static_cast<std::int32_t>(-low * inverse + 0.5f)};
  const Vec factor = Broadcast(inverse);
  const IntVec zero = BroadcastInt(row.zero);
  for (i = 0; i + kLanes <= size; i += kLanes)
    *reinterpret_cast<UnalignedBytes*>(out + i) = Quantize(Load(x + i), factor, zero);
  const Bytes last = Quantize(tail, factor, zero);
  for (int lane = 0; lane < kLanes; ++lane)
    if (i + lane < size) out[i + lane] = last[lane];
  return row;
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
  for (std::int64_t r = 0; r < args.num_rows; ++r) {
    auto* out = static_cast<std::uint8_t*>(args.words) + 4 * r * args.words_stride;
    args.rows[r] = QuantizeRow(args.x + r * args.x_stride, args.num_own, out);
    for (std::int64_t i = args.num_own; i % 4 != 0; ++i) out[i] = 0;
  }
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
