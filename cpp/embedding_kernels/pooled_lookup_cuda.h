#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_H_

#include <cuda_runtime_api.h>

#include "cpp/embedding_kernels/pooled_lookup_cuda_body.h"

namespace feedfast::embedding_kernels {

// PooledLookup of pooled_lookup.h on a CUDA device: the same formula, shapes and rules for empty
// bags. Enqueues one kernel on `stream`; never synchronises, never allocates. Returns the error of
// the launch; errors of the run surface at the next synchronisation of the stream.
// Requires: every pointer of `args` is device memory that stays valid until the kernel has run, and
// ValidateBags held for the host copies of the arrays: the kernel checks no id.
// Numerics: as on the CPU targets with FMA, bit for bit.
cudaError_t PooledLookupCuda(const PooledLookupCudaArgs& args, cudaStream_t stream) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_POOLED_LOOKUP_CUDA_H_
