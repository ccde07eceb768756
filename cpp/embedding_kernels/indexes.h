#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_INDEXES_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_INDEXES_H_

#include <cstdint>

#include "cpp/common/host_device.h"

namespace feedfast::embedding_kernels {

// int64 or int32 integers as plain data, for kernels.
struct Indexes {
  const void* data;
  bool is_int64;
};

// Static: kernel objects of different CPU targets include this file and must not share code.
FEEDFAST_HOST_DEVICE static inline std::int64_t At(const Indexes& indexes, std::int64_t i) {
  return indexes.is_int64 ? static_cast<const std::int64_t*>(indexes.data)[i]
                          : static_cast<const std::int32_t*>(indexes.data)[i];
}

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_INDEXES_H_
