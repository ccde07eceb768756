#ifndef FEEDFAST_CPP_GATED_MLP_VECTOR_H_
#define FEEDFAST_CPP_GATED_MLP_VECTOR_H_

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// The float vector of the CPU target that the including kernel file is compiled for. Everything
// has internal linkage, so that no wide instruction leaks into other objects.
namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));
using IntVec = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));
using UnalignedVec =
    float __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

#if defined(__AVX512F__)
inline Vec Broadcast(float s) { return _mm512_set1_ps(s); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
inline Vec Broadcast(float s) { return _mm256_set1_ps(s); }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
#else
inline Vec Broadcast(float s) { return Vec{s, s, s, s}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }
#endif

inline Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

}  // namespace
}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET

#endif  // FEEDFAST_CPP_GATED_MLP_VECTOR_H_
