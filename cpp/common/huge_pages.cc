#include "cpp/common/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

namespace feedfast {

void AdviseHugePages(Span<const std::uint8_t> bytes) noexcept {
  if (bytes.empty()) return;
  // madvise wants the start of a page; the page in which `bytes` start is advised as a whole.
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t lead = reinterpret_cast<std::uintptr_t>(bytes.data()) % page;
  auto* start = const_cast<std::uint8_t*>(bytes.data()) - lead;
  ::madvise(start, static_cast<std::size_t>(bytes.size()) + lead, MADV_HUGEPAGE);
}

std::int64_t CountHugePageBytes(Span<const std::uint8_t> bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t end = begin + static_cast<std::uintptr_t>(bytes.size());
  std::ifstream maps("/proc/self/smaps");
  std::int64_t total = 0;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0;
    std::uintptr_t to = 0;
    std::int64_t kilobytes = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
      inside = from < end && begin < to;
    else if (inside && (line.compare(0, 14, "AnonHugePages:") == 0 ||
                        line.compare(0, 14, "FilePmdMapped:") == 0))
      total += std::sscanf(line.c_str() + 14, "%" SCNd64, &kilobytes) == 1 ? kilobytes * 1024 : 0;
  }
  return std::min(total, bytes.size());
}

}  // namespace feedfast
