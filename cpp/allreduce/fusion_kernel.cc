#include "cpp/allreduce/fusion_kernel.h"

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

}  // namespace

void AddFloat(const float* x, std::int64_t size, float* sum) noexcept { Add(x, size, sum); }
void AddDouble(const double* x, std::int64_t size, double* sum) noexcept { Add(x, size, sum); }
void ScaleFloat(const float* x, float scale, std::int64_t size, float* out) noexcept {
  Scale(x, scale, size, out);
}
void ScaleDouble(const double* x, double scale, std::int64_t size, double* out) noexcept {
  Scale(x, scale, size, out);
}

}  // namespace FEEDFAST_TARGET
}  // namespace feedfast::allreduce
