#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_UPDATE_VECTORS_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_UPDATE_VECTORS_H_

// What kernels that write table rows need beside row_vectors.h, on the same terms: random numbers,
// rounding, stores. Only included by *_kernel.cc files.

#include <math.h>

#include <cstdint>
#include <cstring>

#include "cpp/embedding_kernels/row_vectors.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

// kWidth 32-bit numbers.
typedef std::uint32_t Bits __attribute__((vector_size(kWidth * 4)));
typedef std::int32_t SignedBits __attribute__((vector_size(kWidth * 4)));

inline Bits BroadcastBits(std::uint32_t x) { return Bits{} + x; }
inline Bits Select(Bits condition, Bits a, Bits b) { return (condition & a) | (~condition & b); }

inline Vector SquareRoot(Vector x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  return Vector{::sqrtf(x[0]), ::sqrtf(x[1]), ::sqrtf(x[2]), ::sqrtf(x[3])};
#endif
}

inline Vector LoadFloats(const float* p, Lanes lanes) {
  return LoadFloat32(reinterpret_cast<const std::uint8_t*>(p), lanes);
}

// Calls body(column, lanes) for the vectors of a row: kAllLanes, a constant in the inlined body,
// but for the last vector of a row that does not fill it.
template <typename Body>
__attribute__((always_inline)) inline void ForEachVector(std::int64_t dim, const Body& body) {
  std::int64_t column = 0;
  for (; column + kWidth <= dim; column += kWidth) body(column, kAllLanes);
  if (column < dim) body(column, FirstLanes(dim - column));
}

// The sum of the elements, halves first.
inline float HorizontalSum(Vector x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(x);
#else
  float sums[kWidth];
  std::memcpy(sums, &x, sizeof sums);
  for (std::int64_t half = kWidth / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
#endif
}

// 64 well-mixed bits of x: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
inline std::uint64_t MixBits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Random numbers for the columns [column, column + kWidth) of a row with the key `key`: a function
// of key and column alone. Two rounds of multiply and xor-shift with the constants of lowbias32
// (C. Wellons, "Prospecting for hash functions", 2018), each keyed with half of the key.
inline Bits RandomBits(std::uint64_t key, std::int64_t column) {
  Bits x;
  for (int i = 0; i < kWidth; ++i) x[i] = static_cast<std::uint32_t>(i);
  x += static_cast<std::uint32_t>(column) + static_cast<std::uint32_t>(key);
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x += static_cast<std::uint32_t>(key >> 32);
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// Rounds x to bfloat16. `random` has 16 random bits per element; without them, to nearest even.
// Infinities and NaN stay what they are.
template <bool kStochastic>
inline Bits RoundToBfloat16(Vector x, Bits random) {
  const Bits bits = (Bits)x;
  const Bits added = kStochastic ? random & 0xffffu : ((bits >> 16) & 1u) + 0x7fffu;
  const Bits special = (Bits)((bits & 0x7f800000u) == 0x7f800000u);
  const Bits is_nan = (Bits)((bits & 0x7fffffffu) > 0x7f800000u);
  return ((bits + (added & ~special)) >> 16) | (is_nan & 0x40u);
}

// Rounds x to binary16 in the same two ways. What is beyond the largest half, infinities included,
// becomes the largest half; NaN stays NaN.
template <bool kStochastic>
inline Bits RoundToHalf(Vector x, Bits random) {
  const Bits sign = ((Bits)x >> 16) & 0x8000u;
  const Bits absolute = (Bits)x & 0x7fffffffu;
  const Bits is_nan = (Bits)(absolute > 0x7f800000u);
  const Bits largest = BroadcastBits(0x477fe000u);
  const Bits magnitude = Select((Bits)(absolute > largest), largest, absolute);
  const Bits added = kStochastic ? random & 0x1fffu : ((magnitude >> 13) & 1u) + 0xfffu;
  // Rounding up from the largest half gives it again: its dropped bits are 0.
  const Bits normal = (magnitude + added - (112u << 23)) >> 13;
  // Below 2^-14 a half counts units of 2^-24, here in fixed point with 16 more bits.
  const Bits is_small = (Bits)(magnitude < 0x38800000u);
  const Vector small = (Vector)(magnitude & is_small) * 0x1p40f;
  const Bits fixed = (Bits) __builtin_convertvector(small, SignedBits);
  const Bits fixed_added = kStochastic ? random & 0xffffu : ((fixed >> 16) & 1u) + 0x7fffu;
  const Bits subnormal = (fixed + fixed_added) >> 16;
  return Select(is_nan, BroadcastBits(0x7e00u), Select(is_small, subnormal, normal)) | sign;
}

// Writes the low half of each number.
inline void Store16Bit(std::uint8_t* p, Bits x, Lanes lanes) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_cvtepi32_epi16((__m512i)x);
  if (lanes == kAllLanes) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  _mm256_mask_storeu_epi16(p, lanes, halves);
#else
  std::uint16_t halves[kWidth];
  for (int i = 0; i < kWidth; ++i) halves[i] = static_cast<std::uint16_t>(x[i]);
  std::memcpy(p, halves, static_cast<std::size_t>(lanes) * 2);
#endif
}

// How rows of one format are written, where the columns from `column` on are x: 16-bit rows round
// to nearest even, or with the random numbers of the row's key.
struct Float32Update : Float32Rows {
  template <bool kStochastic>
  static void Write(std::uint8_t* p, Vector x, Lanes lanes, std::uint64_t, std::int64_t) {
    Store(reinterpret_cast<float*>(p), x, lanes);
  }
};
struct Float16Update : Float16Rows {
  template <bool kStochastic>
  static void Write(std::uint8_t* p, Vector x, Lanes lanes, std::uint64_t key,
                    std::int64_t column) {
    Store16Bit(p, RoundToHalf<kStochastic>(x, kStochastic ? RandomBits(key, column) : Bits{}),
               lanes);
  }
};
struct Bfloat16Update : Bfloat16Rows {
  template <bool kStochastic>
  static void Write(std::uint8_t* p, Vector x, Lanes lanes, std::uint64_t key,
                    std::int64_t column) {
    Store16Bit(p, RoundToBfloat16<kStochastic>(x, kStochastic ? RandomBits(key, column) : Bits{}),
               lanes);
  }
};

}  // namespace
}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_UPDATE_VECTORS_H_
