#ifndef FEEDFAST_CPP_ALLREDUCE_ADD_KERNEL_H_
#define FEEDFAST_CPP_ALLREDUCE_ADD_KERNEL_H_

#include <type_traits>

#include "cpp/allreduce/fusion_kernel.h"

namespace feedfast::allreduce {

// The kernel of the selected CPU target that adds arrays of T, float or double.
template <typename T>
auto AddKernel() {
  if constexpr (std::is_same_v<T, float>) {
    static constexpr KernelTable<decltype(&scalar::AddFloat)> kTable =
        FEEDFAST_KERNEL_TABLE(AddFloat);
    return kTable.Get();
  } else {
    static constexpr KernelTable<decltype(&scalar::AddDouble)> kTable =
        FEEDFAST_KERNEL_TABLE(AddDouble);
    return kTable.Get();
  }
}

}  // namespace feedfast::allreduce

#endif  // FEEDFAST_CPP_ALLREDUCE_ADD_KERNEL_H_
