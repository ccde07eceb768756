#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_VECTORS_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_VECTORS_H_

// Table rows as vectors of floats, for kernels that are compiled once per CPU target. Only included
// by *_kernel.cc files: everything has internal linkage, so that objects of different targets share
// no code.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "cpp/common/half.h"
#include "cpp/embedding_kernels/table.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

// kWidth floats in one register. `Lanes` names the first lanes of a vector: loads fill the others
// with zero and never touch memory beyond the named ones. Every lane is computed by the same
// instruction, whether its neighbours exist or not. LoadUint4 takes a byte a lane: the code in its
// low bits goes to `low`, that in its high bits to `high`. Interleave gives low[0], high[0],
// low[1], high[1], ... as two vectors.
#if defined(__AVX512F__)

using Vector = __m512;
using Lanes = __mmask16;
inline constexpr std::int64_t kWidth = 16;
inline constexpr Lanes kAllLanes = 0xffff;

inline Lanes FirstLanes(std::int64_t count) { return static_cast<Lanes>((1u << count) - 1u); }
inline Vector Broadcast(float x) { return _mm512_set1_ps(x); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector LoadFloat32(const std::uint8_t* p, Lanes lanes) {
  return lanes == kAllLanes ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes, p);
}
inline __m256i Load16Bit(const std::uint8_t* p, Lanes lanes) {
  return lanes == kAllLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                            : _mm256_maskz_loadu_epi16(lanes, p);
}
inline Vector LoadFloat16(const std::uint8_t* p, Lanes lanes) {
  return _mm512_cvtph_ps(Load16Bit(p, lanes));
}
inline Vector LoadBfloat16(const std::uint8_t* p, Lanes lanes) {
  const __m512i wide = _mm512_cvtepu16_epi32(Load16Bit(p, lanes));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Vector LoadUint8(const std::uint8_t* p, Lanes lanes) {
  const __m128i codes = lanes == kAllLanes ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                           : _mm_maskz_loadu_epi8(lanes, p);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
}
inline void LoadUint4(const std::uint8_t* p, Lanes lanes, Vector* low, Vector* high) {
  const __m512i codes =
      _mm512_cvtepu8_epi32(lanes == kAllLanes ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                              : _mm_maskz_loadu_epi8(lanes, p));
  // The permutation turns the low four bits of a lane into a number.
  const Vector numbers = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  *low = _mm512_permutexvar_ps(codes, numbers);
  *high = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), numbers);
}
inline void Interleave(Vector low, Vector high, Vector* first, Vector* second) {
  const __m512i places = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  *first = _mm512_permutex2var_ps(low, places, high);
  *second = _mm512_permutex2var_ps(low, _mm512_add_epi32(places, _mm512_set1_epi32(8)), high);
}
inline void Store(float* p, Vector x, Lanes lanes) {
  if (lanes == kAllLanes) return _mm512_storeu_ps(p, x);
  _mm512_mask_storeu_ps(p, lanes, x);
}

#else

using Lanes = int;  // how many

inline Lanes FirstLanes(std::int64_t count) { return static_cast<Lanes>(count); }

#if defined(__AVX2__)

using Vector = __m256;
inline constexpr std::int64_t kWidth = 8;

inline Vector Broadcast(float x) { return _mm256_set1_ps(x); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector FullFloat32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
inline Vector FullFloat16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline Vector FullBfloat16(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Vector FullUint8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline void FullUint4(const void* p, Vector* low, Vector* high) {
  const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  *low = _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
  *high = _mm256_cvtepi32_ps(_mm256_srli_epi32(codes, 4));
}
inline void Interleave(Vector low, Vector high, Vector* first, Vector* second) {
  const Vector left = _mm256_unpacklo_ps(low, high);
  const Vector right = _mm256_unpackhi_ps(low, high);
  *first = _mm256_permute2f128_ps(left, right, 0x20);
  *second = _mm256_permute2f128_ps(left, right, 0x31);
}

#else  // the platform's baseline, through the compiler's vector type

typedef float Vector __attribute__((vector_size(16)));
inline constexpr std::int64_t kWidth = 4;

inline Vector Broadcast(float x) { return Vector{x, x, x, x}; }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector FullFloat32(const void* p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Vector FullFloat16(const void* p) {
  std::uint16_t h[4];
  std::memcpy(h, p, sizeof h);
  return Vector{HalfToFloat(h[0]), HalfToFloat(h[1]), HalfToFloat(h[2]), HalfToFloat(h[3])};
}
inline Vector FullBfloat16(const void* p) {
  std::uint16_t h[4];
  std::memcpy(h, p, sizeof h);
  return Vector{Bfloat16ToFloat(h[0]), Bfloat16ToFloat(h[1]), Bfloat16ToFloat(h[2]),
                Bfloat16ToFloat(h[3])};
}
inline Vector FullUint8(const void* p) {
  std::uint8_t q[4];
  std::memcpy(q, p, sizeof q);
  return Vector{static_cast<float>(q[0]), static_cast<float>(q[1]), static_cast<float>(q[2]),
                static_cast<float>(q[3])};
}
inline void FullUint4(const void* p, Vector* low, Vector* high) {
  std::uint8_t q[4];
  std::memcpy(q, p, sizeof q);
  *low = Vector{static_cast<float>(q[0] & 15), static_cast<float>(q[1] & 15),
                static_cast<float>(q[2] & 15), static_cast<float>(q[3] & 15)};
  *high = Vector{static_cast<float>(q[0] >> 4), static_cast<float>(q[1] >> 4),
                 static_cast<float>(q[2] >> 4), static_cast<float>(q[3] >> 4)};
}
inline void Interleave(Vector low, Vector high, Vector* first, Vector* second) {
  *first = Vector{low[0], high[0], low[1], high[1]};
  *second = Vector{low[2], high[2], low[3], high[3]};
}

#endif

inline constexpr Lanes kAllLanes = static_cast<Lanes>(kWidth);

// Copies the named elements of a partial vector, kElementBits each, beside zeros, then loads them
// like a full one.
template <int kElementBits, typename Load>
inline Vector LoadLanes(const std::uint8_t* p, Lanes lanes, Load load) {
  if (lanes == kAllLanes) return load(p);
  std::uint8_t padded[kWidth * kElementBits / 8] = {};
  std::memcpy(padded, p, static_cast<std::size_t>(lanes * kElementBits / 8));
  return load(padded);
}
inline Vector LoadFloat32(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<32>(p, lanes, FullFloat32);
}
inline Vector LoadFloat16(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<16>(p, lanes, FullFloat16);
}
inline Vector LoadBfloat16(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<16>(p, lanes, FullBfloat16);
}
inline Vector LoadUint8(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<8>(p, lanes, FullUint8);
}
inline void LoadUint4(const std::uint8_t* p, Lanes lanes, Vector* low, Vector* high) {
  if (lanes == kAllLanes) return FullUint4(p, low, high);
  std::uint8_t padded[kWidth] = {};
  std::memcpy(padded, p, static_cast<std::size_t>(lanes));
  FullUint4(padded, low, high);
}
inline void Store(float* p, Vector x, Lanes lanes) {
  std::memcpy(p, &x, static_cast<std::size_t>(lanes) * sizeof(float));
}

#endif

// How the rows of one RowFormat are read; those of Int4Rows through LoadUint4. `Constant` collects
// what the rows of a bag add to every column; Fold(row, weight, &constant) adds the part of one
// row, which enters with `weight`, and returns the factor of its codes in every lane.
// Total(constant) is the sum in every lane.
struct PlainRows {
  static constexpr std::int64_t kHeaderBytes = 0;
  struct Constant {};
  static Vector Fold(const std::uint8_t*, float weight, Constant*) { return Broadcast(weight); }
  static Vector Total(Constant) { return Broadcast(0.0f); }
};
struct Float32Rows : PlainRows {
  static constexpr std::int64_t kElementBits = 32;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadFloat32(p, lanes); }
};
struct Float16Rows : PlainRows {
  static constexpr std::int64_t kElementBits = 16;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadFloat16(p, lanes); }
};
struct Bfloat16Rows : PlainRows {
  static constexpr std::int64_t kElementBits = 16;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadBfloat16(p, lanes); }
};
struct CodedRows {
  static constexpr std::int64_t kHeaderBytes = kInt8HeaderBytes;
#if defined(__AVX2__)
  // One conversion gives scale and bias; the second lane of the constant sums up the biases.
  struct Constant {
    __m128 sums = _mm_setzero_ps();
  };
  static Vector Fold(const std::uint8_t* row, float weight, Constant* constant) {
    std::int32_t bits;
    std::memcpy(&bits, row, sizeof bits);
    const __m128 header = _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
    const __m128 weights = _mm_set1_ps(weight);
    constant->sums = _mm_fmadd_ps(weights, header, constant->sums);
    const __m128 factor = _mm_mul_ps(weights, header);
#if defined(__AVX512F__)
    return _mm512_broadcastss_ps(factor);
#else
    return _mm256_broadcastss_ps(factor);
#endif
  }
  static Vector Total(Constant constant) {
    const __m128 second = _mm_movehdup_ps(constant.sums);
#if defined(__AVX512F__)
    return _mm512_broadcastss_ps(second);
#else
    return _mm256_broadcastss_ps(second);
#endif
  }
#else
  struct Constant {
    float sum = 0.0f;
  };
  static Vector Fold(const std::uint8_t* row, float weight, Constant* constant) {
    std::uint16_t header[2];
    std::memcpy(header, row, sizeof header);
    constant->sum += weight * HalfToFloat(header[1]);
    return Broadcast(weight * HalfToFloat(header[0]));
  }
  static Vector Total(Constant constant) { return Broadcast(constant.sum); }
#endif
};
struct Int8Rows : CodedRows {
  static constexpr std::int64_t kElementBits = 8;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadUint8(p, lanes); }
};
struct Int4Rows : CodedRows {
  static constexpr std::int64_t kElementBits = 4;
};

}  // namespace
}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_ROW_VECTORS_H_
