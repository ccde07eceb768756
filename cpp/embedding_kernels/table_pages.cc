#include "cpp/embedding_kernels/table_pages.h"

#include <sys/mman.h>

namespace feedfast::embedding_kernels {

bool MoveToHugePages(const void* data, std::int64_t bytes) noexcept {
  constexpr std::uintptr_t kPage = std::uintptr_t{2} << 20;
#if defined(MADV_COLLAPSE)
  constexpr int kCollapse = MADV_COLLAPSE;
#else
  constexpr int kCollapse = 25;  // of Linux 6.1, which the C library may not know
#endif
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (address + static_cast<std::uintptr_t>(bytes)) / kPage * kPage;
  if (begin >= end) return false;
  void* first = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr): aligned data
  ::madvise(first, end - begin, MADV_HUGEPAGE);
  return ::madvise(first, end - begin, kCollapse) == 0;
}

}  // namespace feedfast::embedding_kernels
