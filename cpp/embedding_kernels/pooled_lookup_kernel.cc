// Compiled once per CPU target: kernels only, everything but the entry points has internal linkage.
#include "cpp/embedding_kernels/pooled_lookup_kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "cpp/embedding_kernels/divisor.h"
#include "cpp/embedding_kernels/half.h"

namespace feedfast::embedding_kernels::FEEDFAST_TARGET {
namespace {

// kWidth floats in one register. `Lanes` names the first lanes of a vector: loads fill the others
// with zero and never touch memory beyond the named ones. Every lane is computed by the same
// instruction, whether its neighbours exist or not.
#if defined(__AVX512F__)

using Vector = __m512;
using Lanes = __mmask16;
constexpr std::int64_t kWidth = 16;

Lanes FirstLanes(std::int64_t count) { return static_cast<Lanes>((1u << count) - 1u); }
Vector Broadcast(float x) { return _mm512_set1_ps(x); }
Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
Vector LoadFloat32(const std::uint8_t* p, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
Vector LoadFloat16(const std::uint8_t* p, Lanes lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
}
Vector LoadBfloat16(const std::uint8_t* p, Lanes lanes) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
Vector LoadUint8(const std::uint8_t* p, Lanes lanes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, p)));
}
void Store(float* p, Vector x, Lanes lanes) { _mm512_mask_storeu_ps(p, lanes, x); }

#else

using Lanes = int;  // how many

Lanes FirstLanes(std::int64_t count) { return static_cast<Lanes>(count); }

#if defined(__AVX2__)

using Vector = __m256;
constexpr std::int64_t kWidth = 8;

Vector Broadcast(float x) { return _mm256_set1_ps(x); }
Vector MultiplyAdd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
Vector FullFloat32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
Vector FullFloat16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
Vector FullBfloat16(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
Vector FullUint8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

#else  // the platform's baseline, through the compiler's vector type

typedef float Vector __attribute__((vector_size(16)));
constexpr std::int64_t kWidth = 4;

Vector Broadcast(float x) { return Vector{x, x, x, x}; }
Vector MultiplyAdd(Vector a, Vector b, Vector c) { return a * b + c; }
Vector FullFloat32(const void* p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
Vector FullFloat16(const void* p) {
  std::uint16_t h[4];
  std::memcpy(h, p, sizeof h);
  return Vector{HalfToFloat(h[0]), HalfToFloat(h[1]), HalfToFloat(h[2]), HalfToFloat(h[3])};
}
Vector FullBfloat16(const void* p) {
  std::uint16_t h[4];
  std::memcpy(h, p, sizeof h);
  return Vector{Bfloat16ToFloat(h[0]), Bfloat16ToFloat(h[1]), Bfloat16ToFloat(h[2]),
                Bfloat16ToFloat(h[3])};
}
Vector FullUint8(const void* p) {
  std::uint8_t q[4];
  std::memcpy(q, p, sizeof q);
  return Vector{static_cast<float>(q[0]), static_cast<float>(q[1]), static_cast<float>(q[2]),
                static_cast<float>(q[3])};
}

#endif

// Copies the named elements of a partial vector beside zeros, then loads them like a full one.
template <int kElementBytes, typename Load>
Vector LoadLanes(const std::uint8_t* p, Lanes lanes, Load load) {
  if (lanes == kWidth) return load(p);
  std::uint8_t padded[kWidth * kElementBytes] = {};
  std::memcpy(padded, p, static_cast<std::size_t>(lanes) * kElementBytes);
  return load(padded);
}
Vector LoadFloat32(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<4>(p, lanes, FullFloat32);
}
Vector LoadFloat16(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<2>(p, lanes, FullFloat16);
}
Vector LoadBfloat16(const std::uint8_t* p, Lanes lanes) {
  return LoadLanes<2>(p, lanes, FullBfloat16);
}
Vector LoadUint8(const std::uint8_t* p, Lanes lanes) { return LoadLanes<1>(p, lanes, FullUint8); }
void Store(float* p, Vector x, Lanes lanes) {
  std::memcpy(p, &x, static_cast<std::size_t>(lanes) * sizeof(float));
}

#endif

// How the rows of one RowFormat are read. FoldHeader returns the factor of the codes of a row that
// enters with `weight` and adds the row's constant part to *constant.
struct Float32Rows {
  static constexpr std::int64_t kHeaderBytes = 0;
  static constexpr std::int64_t kElementBytes = 4;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadFloat32(p, lanes); }
  static float FoldHeader(const std::uint8_t*, float weight, float*) { return weight; }
};
struct Float16Rows {
  static constexpr std::int64_t kHeaderBytes = 0;
  static constexpr std::int64_t kElementBytes = 2;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadFloat16(p, lanes); }
  static float FoldHeader(const std::uint8_t*, float weight, float*) { return weight; }
};
struct Bfloat16Rows {
  static constexpr std::int64_t kHeaderBytes = 0;
  static constexpr std::int64_t kElementBytes = 2;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadBfloat16(p, lanes); }
  static float FoldHeader(const std::uint8_t*, float weight, float*) { return weight; }
};
struct Int8Rows {
  static constexpr std::int64_t kHeaderBytes = kInt8HeaderBytes;
  static constexpr std::int64_t kElementBytes = 1;
  static Vector Load(const std::uint8_t* p, Lanes lanes) { return LoadUint8(p, lanes); }
  static float FoldHeader(const std::uint8_t* row, float weight, float* constant) {
    std::uint16_t scale_and_bias[2];
    std::memcpy(scale_and_bias, row, sizeof scale_and_bias);
    *constant += weight * HalfToFloat(scale_and_bias[1]);
    return weight * HalfToFloat(scale_and_bias[0]);
  }
};

void PrefetchRow(const BagRange& in, std::int64_t i) {
  constexpr std::uintptr_t kLine = 64;
  const std::uint8_t* row = in.table + in.values[i] * in.row_bytes;
  const std::uint8_t* line = row - (reinterpret_cast<std::uintptr_t>(row) & (kLine - 1));
  for (; line < row + in.row_bytes; line += kLine) __builtin_prefetch(line);
}

// One pass over a bag for kVectors registers of columns from `column` on; `last` names the lanes of
// the last register. The pass at column 0 prefetches the rows of later ids.
template <typename Rows, int kVectors>
void PoolColumns(const PoolBagsArgs& args, std::int64_t bag, std::int64_t column, Lanes last,
                 float divisor) {
  const BagRange& in = args.in;
  const Lanes all = FirstLanes(kWidth);
  const std::int64_t end_value = in.offsets[in.end_bag];
  Vector sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = Broadcast(0.0f);
  float constant = 0.0f;
  for (std::int64_t i = in.offsets[bag]; i < in.offsets[bag + 1]; ++i) {
    if (column == 0 && i + in.prefetch_rows < end_value) PrefetchRow(in, i + in.prefetch_rows);
    const std::uint8_t* row = in.table + in.values[i] * in.row_bytes;
    const Vector factor =
        Broadcast(Rows::FoldHeader(row, in.weights == nullptr ? 1.0f : in.weights[i], &constant));
    const std::uint8_t* codes = row + Rows::kHeaderBytes + column * Rows::kElementBytes;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Vector x =
          Rows::Load(codes + v * kWidth * Rows::kElementBytes, v + 1 < kVectors ? all : last);
      sums[v] = MultiplyAdd(factor, x, sums[v]);
    }
  }
  float* out = args.out + bag * args.out_stride + column;
  const Vector constants = Broadcast(constant);
  const Vector divisors = Broadcast(divisor);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    Vector x = sums[v] + constants;
    if (divisor != 1.0f) x = divisor == 0.0f ? Broadcast(0.0f) : x / divisors;
    Store(out + v * kWidth, x, v + 1 < kVectors ? all : last);
  }
}

template <typename Rows>
void PoolRange(const PoolBagsArgs& args) {
  constexpr std::int64_t kMaxVectors = 8;
  const BagRange& in = args.in;
  const std::int64_t begin_value = in.offsets[in.begin_bag];
  const std::int64_t end_value = in.offsets[in.end_bag];
  for (std::int64_t i = begin_value; i < end_value && i < begin_value + in.prefetch_rows; ++i)
    PrefetchRow(in, i);
  for (std::int64_t bag = in.begin_bag; bag < in.end_bag; ++bag) {
    const float divisor =
        PoolingDivisor(in.pooling, in.weights, in.offsets[bag], in.offsets[bag + 1]);
    for (std::int64_t column = 0; column < in.dim; column += kMaxVectors * kWidth) {
      const std::int64_t columns =
          in.dim - column < kMaxVectors * kWidth ? in.dim - column : kMaxVectors * kWidth;
      const std::int64_t vectors = (columns + kWidth - 1) / kWidth;
      const Lanes last = FirstLanes(columns - (vectors - 1) * kWidth);
      switch (vectors) {
        case 1:
          PoolColumns<Rows, 1>(args, bag, column, last, divisor);
          break;
        case 2:
          PoolColumns<Rows, 2>(args, bag, column, last, divisor);
          break;
        case 3:
          PoolColumns<Rows, 3>(args, bag, column, last, divisor);
          break;
        case 4:
          PoolColumns<Rows, 4>(args, bag, column, last, divisor);
          break;
        case 5:
          PoolColumns<Rows, 5>(args, bag, column, last, divisor);
          break;
        case 6:
          PoolColumns<Rows, 6>(args, bag, column, last, divisor);
          break;
        case 7:
          PoolColumns<Rows, 7>(args, bag, column, last, divisor);
          break;
        default:
          PoolColumns<Rows, 8>(args, bag, column, last, divisor);
          break;
      }
    }
  }
}

template <typename Rows>
float Dot(const float* a, const std::uint8_t* row, std::int64_t dim) {
  Vector sums = Broadcast(0.0f);
  for (std::int64_t column = 0; column < dim; column += kWidth) {
    const Lanes lanes = FirstLanes(dim - column < kWidth ? dim - column : kWidth);
    const Vector x = LoadFloat32(reinterpret_cast<const std::uint8_t*>(a + column), lanes);
    sums = MultiplyAdd(x, Rows::Load(row + column * Rows::kElementBytes, lanes), sums);
  }
  float lanes[kWidth];
  Store(lanes, sums, FirstLanes(kWidth));
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <typename Rows>
void GradWeightsRange(const GradWeightsArgs& args) {
  const BagRange& in = args.in;
  for (std::int64_t bag = in.begin_bag; bag < in.end_bag; ++bag) {
    const std::int64_t begin = in.offsets[bag];
    const std::int64_t end = in.offsets[bag + 1];
    const float* grad = args.grad + bag * in.dim;
    const auto* pooled = reinterpret_cast<const std::uint8_t*>(args.pooled + bag * in.dim);
    const float divisor = PoolingDivisor(in.pooling, in.weights, begin, end);
    // out = sum w_i row_i / d(w):  grad . d out/d w_i = (grad . row_i - (grad . out) d'_i) / d
    // with d'_i = 0 (sum), 1 (mean), w_i / d (sqrtn).
    const float inverse = divisor == 0.0f ? 0.0f : 1.0f / divisor;
    const float centre =
        in.pooling == Pooling::kSum ? 0.0f : Dot<Float32Rows>(grad, pooled, in.dim);
    for (std::int64_t i = begin; i < end; ++i) {
      const float slope = in.pooling == Pooling::kSqrtN ? in.weights[i] * inverse : 1.0f;
      const float dot = Dot<Rows>(grad, in.table + in.values[i] * in.row_bytes, in.dim);
      args.grad_weights[i] = (dot - centre * slope) * inverse;
    }
  }
}

}  // namespace

void PoolBags(const PoolBagsArgs& args) noexcept {
  switch (args.in.format) {
    case RowFormat::kFloat32:
      return PoolRange<Float32Rows>(args);
    case RowFormat::kFloat16:
      return PoolRange<Float16Rows>(args);
    case RowFormat::kBfloat16:
      return PoolRange<Bfloat16Rows>(args);
    case RowFormat::kInt8Rowwise:
      return PoolRange<Int8Rows>(args);
  }
}

void GradWeights(const GradWeightsArgs& args) noexcept {
  switch (args.in.format) {
    case RowFormat::kFloat32:
      return GradWeightsRange<Float32Rows>(args);
    case RowFormat::kFloat16:
      return GradWeightsRange<Float16Rows>(args);
    case RowFormat::kBfloat16:
      return GradWeightsRange<Bfloat16Rows>(args);
    case RowFormat::kInt8Rowwise:
      return;  // not trainable
  }
}

}  // namespace feedfast::embedding_kernels::FEEDFAST_TARGET
