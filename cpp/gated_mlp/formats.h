#ifndef FEEDFAST_CPP_GATED_MLP_FORMATS_H_
#define FEEDFAST_CPP_GATED_MLP_FORMATS_H_

#include "cpp/gated_mlp/vector.h"

// How the words of each precision (gated_mlp_kernel.h) are multiplied on the CPU target that the
// including kernel file is compiled for. A format has
//   Sum                     the accumulator of kLanes columns
//   Weights, Input          kLanes words of W; one word of x in all lanes
//   Add(sum, x, w)          sum + the products of a group, k ascending
//   kFetchForOneRow         whether weights that meet one row are asked for ahead: a loop as short
//                           as that leaves wide words to the hardware (by 3 to 6%), bytes not (10%)
// Internal linkage throughout, as in vector.h.
namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

struct Fp32 {
  static constexpr bool kFetchForOneRow = false;
  using Sum = Vec;
  using Weights = Vec;
  using Input = Vec;
  static Weights LoadWeights(const Word* p) { return reinterpret_cast<Vec>(LoadWords(p)); }
  static Input LoadInput(const Word* p) { return reinterpret_cast<Vec>(BroadcastWord(p)); }
  static Sum Add(Sum sum, Input x, Weights w) { return MulAdd(x, w, sum); }
};

#if defined(__AVX512BF16__)
// vdpbf16ps: both products of a pair, subnormal inputs and results read as zero.
struct Bf16 {
  static constexpr bool kFetchForOneRow = false;
  using Sum = Vec;
  using Weights = __m512bh;
  using Input = __m512bh;
  static Weights LoadWeights(const Word* p) { return reinterpret_cast<__m512bh>(LoadWords(p)); }
  static Input LoadInput(const Word* p) { return reinterpret_cast<__m512bh>(BroadcastWord(p)); }
  static Sum Add(Sum sum, Input x, Weights w) { return _mm512_dpbf16_ps(sum, x, w); }
};
#else
// The product of two bfloat16 is exact in float32: only the two sums round.
struct Bf16 {
  static constexpr bool kFetchForOneRow = false;
  struct Pair {
    Vec even;
    Vec odd;
  };
  using Sum = Vec;
  using Weights = Pair;
  using Input = Pair;
  static Pair Widen(IntVec words) {
    const IntVec upper = BroadcastInt(static_cast<std::int32_t>(0xffff0000U));
    return {reinterpret_cast<Vec>(words << 16), reinterpret_cast<Vec>(words & upper)};
  }
  static Weights LoadWeights(const Word* p) { return Widen(LoadWords(p)); }
  static Input LoadInput(const Word* p) { return Widen(BroadcastWord(p)); }
  static Sum Add(Sum sum, const Input& x, const Weights& w) {
    return MulAdd(x.odd, w.odd, MulAdd(x.even, w.even, sum));
  }
};
#endif

#if defined(__AVX512VNNI__)
struct Int8 {
  static constexpr bool kFetchForOneRow = true;
  using Sum = IntVec;
  using Weights = IntVec;
  using Input = IntVec;
  static Weights LoadWeights(const Word* p) { return LoadWords(p); }
  static Input LoadInput(const Word* p) { return BroadcastWord(p); }
  static Sum Add(Sum sum, Input x, Weights w) {
    return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                        reinterpret_cast<__m512i>(x),
                                                        reinterpret_cast<__m512i>(w)));
  }
};
#else
// Bytes 0 and 2, and bytes 1 and 3, of each word as 16-bit integers: their products are added in 32
// bits, so nothing saturates (vpmaddubsw would, at 255 * 127 * 2).
struct Int8 {
  static constexpr bool kFetchForOneRow = true;
  struct Pair {
    ShortVec even;
    ShortVec odd;
  };
  using Sum = IntVec;
  using Weights = Pair;
  using Input = Pair;
  static Weights LoadWeights(const Word* p) {
    const auto words = reinterpret_cast<ShortVec>(LoadWords(p));
    return {reinterpret_cast<ShortVec>(words << 8) >> 8, words >> 8};
  }
  static Input LoadInput(const Word* p) {
    const IntVec words = BroadcastWord(p);
    const IntVec low = BroadcastInt(0x00ff00ff);
    return {reinterpret_cast<ShortVec>(words & low), reinterpret_cast<ShortVec>(words >> 8 & low)};
  }
  static Sum Add(Sum sum, const Input& x, const Weights& w) {
    return sum + (MulAddPairs(x.even, w.even) + MulAddPairs(x.odd, w.odd));
  }
};
#endif

}  // namespace
}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET

#endif  // FEEDFAST_CPP_GATED_MLP_FORMATS_H_
