#ifndef FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_PAGES_H_
#define FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_PAGES_H_

#include <cstdint>

namespace feedfast::embedding_kernels {

// Puts the memory [data, data + bytes), which somebody else allocated and has written to, into
// 2 MiB pages where they fit entirely: random rows then miss the TLB less. Content and address
// stay. Copies the memory once, about half a second a gigabyte, where it lies in small pages, and
// changes nothing where it does not. Returns false when the system refuses (no transparent huge
// pages, Linux before 6.1, no memory left): the table works as before. Safe beside readers and
// writers.
bool MoveToHugePages(const void* data, std::int64_t bytes) noexcept;

}  // namespace feedfast::embedding_kernels

#endif  // FEEDFAST_CPP_EMBEDDING_KERNELS_TABLE_PAGES_H_
