#ifndef FEEDFAST_CPP_GATED_MLP_VECTOR_H_
#define FEEDFAST_CPP_GATED_MLP_VECTOR_H_

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// The float vector of the CPU target that the including kernel file is compiled for. Everything
// has internal linkage, so that no wide instruction leaks into other objects.
namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

#if defined(__AVX512F__)
inline constexpr std::int64_t kLanes = 16;
#elif defined(__AVX2__)
inline constexpr std::int64_t kLanes = 8;
#else
inline constexpr std::int64_t kLanes = 4;
#endif
using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));
using IntVec = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));
using ShortVec = std::int16_t __attribute__((vector_size(kLanes * sizeof(float))));
using UnalignedVec =
    float __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));
// A group of gated_mlp_kernel.h, whatever it holds.
using Word = std::int32_t __attribute__((may_alias));
using UnalignedWords = std::int32_t
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

#if defined(__AVX512F__)
inline IntVec BroadcastInt(std::int32_t i) {
  return reinterpret_cast<IntVec>(_mm512_set1_epi32(i));
}
inline Vec Broadcast(float s) { return _mm512_set1_ps(s); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
inline IntVec BroadcastInt(std::int32_t i) {
  return reinterpret_cast<IntVec>(_mm256_set1_epi32(i));
}
inline Vec Broadcast(float s) { return _mm256_set1_ps(s); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#else
inline IntVec BroadcastInt(std::int32_t i) { return IntVec{i, i, i, i}; }
inline Vec Broadcast(float s) { return Vec{s, s, s, s}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }
#endif

// Lane by lane a > b ? a : b, so b where either is NaN.
#if defined(__AVX512F__)
inline Vec Larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }
#elif defined(__AVX2__)
inline Vec Larger(Vec a, Vec b) { return _mm256_max_ps(a, b); }
#elif defined(__SSE2__)
inline Vec Larger(Vec a, Vec b) { return _mm_max_ps(a, b); }
#else
inline Vec Larger(Vec a, Vec b) { return a > b ? a : b; }
#endif

// Lane by lane the sum of the two products of neighbours: pmaddwd.
#if defined(__AVX512F__)
// Not needed: this target multiplies bytes.
#elif defined(__AVX2__)
inline IntVec MulAddPairs(ShortVec a, ShortVec b) {
  return reinterpret_cast<IntVec>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#elif defined(__SSE2__)
inline IntVec MulAddPairs(ShortVec a, ShortVec b) {
  return reinterpret_cast<IntVec>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#else
inline IntVec MulAddPairs(ShortVec a, ShortVec b) {
  IntVec sum;
  for (int i = 0; i < kLanes; ++i)
    sum[i] = std::int32_t{a[2 * i]} * b[2 * i] + std::int32_t{a[2 * i + 1]} * b[2 * i + 1];
  return sum;
}
#endif

inline IntVec LoadWords(const Word* p) { return *reinterpret_cast<const UnalignedWords*>(p); }
inline IntVec BroadcastWord(const Word* p) { return BroadcastInt(*p); }
inline Vec ToFloat(IntVec v) { return __builtin_convertvector(v, Vec); }
inline Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
// p[0, count) and zeros, and its inverse. Any count; from kLanes on it is a whole vector.
#if defined(__AVX512F__)
inline __mmask16 FirstLanes(std::int64_t count) {
  if (count <= 0) return 0;
  return static_cast<__mmask16>(count < kLanes ? (1U << count) - 1 : 0xffffU);
}
inline Vec LoadPart(const float* p, std::int64_t count) {
  return _mm512_maskz_loadu_ps(FirstLanes(count), p);
}
inline void StorePart(float* p, Vec v, std::int64_t count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), v);
}
#else
inline Vec LoadPart(const float* p, std::int64_t count) {
  Vec v = Broadcast(0.0f);
  for (int i = 0; i < kLanes; ++i)
    if (i < count) v[i] = p[i];
  return v;
}
inline void StorePart(float* p, Vec v, std::int64_t count) {
  for (int i = 0; i < kLanes; ++i)
    if (i < count) p[i] = v[i];
}
#endif

}  // namespace
}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET

#endif  // FEEDFAST_CPP_GATED_MLP_VECTOR_H_
