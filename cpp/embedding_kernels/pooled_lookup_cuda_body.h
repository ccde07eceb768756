#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_BODY_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_BODY_H_

#include <math.h>

#include <cstdint>
#include <cstring>

#include "cpp/common/half.h"
#include "cpp/common/host_device.h"
#include "cpp/embedding_kernels/divisor.h"
#include "cpp/embedding_kernels/indexes.h"
#include "cpp/embedding_kernels/table.h"

// What one thread of the CUDA kernel does, as an ordinary function of its indices: the host test
// runs it for every thread of a grid, one after the other, because threads do not communicate.
namespace feedfast::embedding_kernels {

// Device pointers on a device, host pointers in the host test; see pooled_lookup_cuda.h.
struct PooledLookupCudaArgs {
  const std::uint8_t* table;
  std::int64_t dim;
  RowFormat format;
  Indexes values;
  Indexes offsets;
  const float* weights;  // nullptr: all 1
  Pooling pooling;
  std::int64_t num_bags;
  float* out;
  std::int64_t out_stride;
};

// A block is kCudaLanes x kCudaBagsPerBlock threads: one bag per row of threads, whose lanes take
// the columns in turn, so that neighbours read neighbouring elements of a table row.
inline constexpr int kCudaLanes = 32;
inline constexpr int kCudaBagsPerBlock = 8;

// Element `column` of a row, without the constant part of a quantized row.
template <RowFormat format>
FEEDFAST_HOST_DEVICE inline float LoadElement(const std::uint8_t* row, std::int64_t column) {
  if constexpr (format == RowFormat::kInt8Rowwise) {
    return static_cast<float>(row[kInt8HeaderBytes + column]);
  } else if constexpr (format == RowFormat::kInt4Rowwise) {
    return static_cast<float>(row[kInt8HeaderBytes + column / 2] >> (4 * (column % 2)) & 15);
  } else if constexpr (format == RowFormat::kFloat32) {
    float x;
    std::memcpy(&x, row + 4 * column, sizeof x);
    return x;
  } else {
    std::uint16_t bits;
    std::memcpy(&bits, row + 2 * column, sizeof bits);
    return format == RowFormat::kFloat16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
  }
}

// Thread (lane, bag_in_block) of block `block` in a grid of `num_blocks` blocks. Accumulates as the
// CPU kernels do: fused multiply-add, ascending i, the biases of a quantized table apart, one
// division.
template <RowFormat format>
FEEDFAST_HOST_DEVICE inline void PooledLookupBody(const PooledLookupCudaArgs& args,
                                                  std::int64_t block, std::int64_t num_blocks,
                                                  int lane, int bag_in_block) {
  const std::int64_t row_bytes = RowBytes(format, args.dim);
  for (std::int64_t bag = block * kCudaBagsPerBlock + bag_in_block; bag < args.num_bags;
       bag += num_blocks * kCudaBagsPerBlock) {
    const std::int64_t begin = At(args.offsets, bag);
    const std::int64_t end = At(args.offsets, bag + 1);
    const float divisor = PoolingDivisor(args.pooling, args.weights, begin, end);
    for (std::int64_t column = lane; column < args.dim; column += kCudaLanes) {
      float sum = 0.0f;
      float constant = 0.0f;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::uint8_t* row = args.table + At(args.values, i) * row_bytes;
        float factor = args.weights == nullptr ? 1.0f : args.weights[i];
        if constexpr (IsQuantized(format)) {
          std::uint16_t header[2];
          std::memcpy(header, row, sizeof header);
          constant = ::fmaf(factor, HalfToFloat(header[1]), constant);
          factor *= HalfToFloat(header[0]);
        }
        sum = ::fmaf(factor, LoadElement<format>(row, column), sum);
      }
      sum += constant;
      args.out[bag * args.out_stride + column] = divisor == 0.0f ? 0.0f : sum / divisor;
    }
  }
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_BODY_H_
