#ifndef FEEDFAST_CPP_COMMON_PARALLEL_FOR_H_
#define FEEDFAST_CPP_COMMON_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>

namespace feedfast {

// Calls body(begin, end) on disjoint ranges that cover [0, size), each at most `grain` long, on up
// to `threads` threads, the caller's among them; returns when all are done. Where the system grants
// fewer threads, those share the ranges. Ranges start at multiples of `grain` whatever the thread
// count, so work that depends on its own range alone gives the same bits for any `threads`.
// Requires size >= 0, grain >= 1, threads >= 1. Once a body throws, no more ranges are begun; the
// first exception is thrown here when those under way have ended.
void ParallelFor(std::int64_t size, std::int64_t grain, int threads,
                 const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace feedfast

#endif  // FEEDFAST_CPP_COMMON_PARALLEL_FOR_H_
