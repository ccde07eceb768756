#ifndef FEEDFAST_CPP_COMMON_HOST_DEVICE_H_
#define FEEDFAST_CPP_COMMON_HOST_DEVICE_H_

// Marks a function that a CUDA kernel and the host share: nvcc compiles it for both, a C++ compiler
// sees an ordinary function, so that its index logic is tested where there is no GPU.
#if defined(__CUDACC__)
#define FEEDFAST_HOST_DEVICE __host__ __device__
#else
#define FEEDFAST_HOST_DEVICE
#endif

#endif  // FEEDFAST_CPP_COMMON_HOST_DEVICE_H_
