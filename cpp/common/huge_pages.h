#ifndef FEEDFAST_CPP_COMMON_HUGE_PAGES_H_
#define FEEDFAST_CPP_COMMON_HUGE_PAGES_H_

#include <cstdint>

#include "cpp/common/span.h"

namespace feedfast {

inline constexpr std::int64_t kHugePageBytes = std::int64_t{2} << 20;

// Asks for huge pages under `bytes` (private memory, or a file where the kernel has them for its
// file system): random reads of big tables then need no page walk. Advice only: the content does
// not change, and it is not an error when the system has none to give.
void AdviseHugePages(Span<const std::uint8_t> bytes) noexcept;

// How many bytes of the mappings that `bytes` lies in are in huge pages now, at most bytes.size():
// 0 when none are, or when the system does not tell (/proc/self/smaps). For benchmarks and logs.
std::int64_t CountHugePageBytes(Span<const std::uint8_t> bytes);

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_HUGE_PAGES_H_
