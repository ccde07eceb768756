#include "cpp/allreduce/fusion_kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpp/common/half.h"

namespace feedfast::allreduce {
namespace FEEDFAST_TARGET {
namespace {

// Nothing overlaps; one rounding per element, so vector width cannot show.
template <typename T>
void Add(const T* __restrict x, std::int64_t size, T* __restrict sum) {
  for (std::int64_t i = 0; i < size; ++i) sum[i] += x[i];
}

template <typename T>
void Scale(const T* __restrict x, T scale, std::int64_t size, T* __restrict out) {
  for (std::int64_t i = 0; i < size; ++i) out[i] = scale * x[i];
}

// Compilers do not find the instructions for binary16: whole vectors of it are written out, and the
// elements behind the last one go through functions with the same bits. kWidth elements a vector.
#if defined(__AVX512F__)

constexpr std::int64_t kWidth = 16;
using Vector = __m512;
inline Vector Load(const float* p) { return _mm512_loadu_ps(p); }
inline Vector LoadHalf(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vector Sum(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector Product(float a, Vector b) { return _mm512_mul_ps(_mm512_set1_ps(a), b); }
inline void Store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
inline void StoreHalf(std::uint16_t* p, Vector x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(__AVX2__)

constexpr std::int64_t kWidth = 8;
using Vector = __m256;
inline Vector Load(const float* p) { return _mm256_loadu_ps(p); }
inline Vector LoadHalf(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vector Sum(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector Product(float a, Vector b) { return _mm256_mul_ps(_mm256_set1_ps(a), b); }
inline void Store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
inline void StoreHalf(std::uint16_t* p, Vector x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#else

constexpr std::int64_t kWidth = 1;
using Vector = float;
inline Vector Load(const float* p) { return *p; }
inline Vector LoadHalf(const std::uint16_t* p) { return HalfToFloat(*p); }
inline Vector Sum(Vector a, Vector b) { return a + b; }
inline Vector Product(float a, Vector b) { return a * b; }
inline void Store(float* p, Vector x) { *p = x; }
inline void StoreHalf(std::uint16_t* p, Vector x) { *p = FloatToHalf(x); }

#endif

// Elements of whole vectors.
inline std::int64_t InVectors(std::int64_t size) { return size / kWidth * kWidth; }

}  // namespace

void AddFloat(const float* x, std::int64_t size, float* sum) noexcept { Add(x, size, sum); }
void AddDouble(const double* x, std::int64_t size, double* sum) noexcept { Add(x, size, sum); }
void ScaleFloat(const float* x, float scale, std::int64_t size, float* out) noexcept {
  Scale(x, scale, size, out);
}
void ScaleDouble(const double* x, double scale, std::int64_t size, double* out) noexcept {
  Scale(x, scale, size, out);
}

void AddFloat16(const std::uint16_t* x, std::int64_t size, float* sum) noexcept {
  std::int64_t i = 0;
  for (; i < InVectors(size); i += kWidth) Store(sum + i, Sum(Load(sum + i), LoadHalf(x + i)));
  for (; i < size; ++i) sum[i] += HalfToFloat(x[i]);
}
void AddBfloat16(const std::uint16_t* __restrict x, std::int64_t size,
                 float* __restrict sum) noexcept {
  for (std::int64_t i = 0; i < size; ++i) sum[i] += Bfloat16ToFloat(x[i]);
}

void WidenFloat16(const std::uint16_t* x, std::int64_t size, float* out) noexcept {
  std::int64_t i = 0;
  for (; i < InVectors(size); i += kWidth) Store(out + i, LoadHalf(x + i));
  for (; i < size; ++i) out[i] = HalfToFloat(x[i]);
}
void WidenBfloat16(const std::uint16_t* __restrict x, std::int64_t size,
                   float* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) out[i] = Bfloat16ToFloat(x[i]);
}

void ScaleToFloat16(const float* x, float scale, std::int64_t size, std::uint16_t* out) noexcept {
  std::int64_t i = 0;
  for (; i < InVectors(size); i += kWidth) StoreHalf(out + i, Product(scale, Load(x + i)));
  for (; i < size; ++i) out[i] = FloatToHalf(scale * x[i]);
}
void ScaleToBfloat16(const float* __restrict x, float scale, std::int64_t size,
                     std::uint16_t* __restrict out) noexcept {
  for (std::int64_t i = 0; i < size; ++i) out[i] = FloatToBfloat16(scale * x[i]);
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
