#include "cpp/embedding_kernels/pooled_lookup_cuda.h"

namespace feedfast::embedding_kernels {
namespace {

template <RowFormat format>
__global__ void __launch_bounds__(kCudaLanes* kCudaBagsPerBlock)
    PoolBagsKernel(const PooledLookupCudaArgs args) {
  PooledLookupBody<format>(args, blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x),
                           static_cast<int>(threadIdx.y));
}

}  // namespace

cudaError_t PooledLookupCuda(const PooledLookupCudaArgs& args, cudaStream_t stream) noexcept {
  if (args.num_bags == 0) return cudaSuccess;
  constexpr std::int64_t kMaxBlocks = 1 << 20;  // a grid beyond that walks over its bags
  const std::int64_t blocks = (args.num_bags + kCudaBagsPerBlock - 1) / kCudaBagsPerBlock;
  const dim3 grid(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  const dim3 threads(kCudaLanes, kCudaBagsPerBlock);
  switch (args.format) {
    case RowFormat::kFloat32:
      PoolBagsKernel<RowFormat::kFloat32><<<grid, threads, 0, stream>>>(args);
      break;
    case RowFormat::kFloat16:
      PoolBagsKernel<RowFormat::kFloat16><<<grid, threads, 0, stream>>>(args);
      break;
    case RowFormat::kBfloat16:
      PoolBagsKernel<RowFormat::kBfloat16><<<grid, threads, 0, stream>>>(args);
      break;
    case RowFormat::kInt8Rowwise:
      PoolBagsKernel<RowFormat::kInt8Rowwise><<<grid, threads, 0, stream>>>(args);
      break;
    case RowFormat::kInt4Rowwise:
      PoolBagsKernel<RowFormat::kInt4Rowwise><<<grid, threads, 0, stream>>>(args);
      break;
  }
  return cudaGetLastError();
}

}  // namespace feedfast::embedding_kernels
