#include "cpp/common/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace feedfast {

void ParallelFor(std::int64_t size, std::int64_t grain, int threads,
                 const std::function<void(std::int64_t, std::int64_t)>& body) {
  assert(size >= 0 && grain >= 1 && threads >= 1);
  const std::int64_t num_ranges = size / grain + (size % grain != 0 ? 1 : 0);
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr thrown;
  const auto work = [&]() noexcept {
    try {
      for (std::int64_t range = next.fetch_add(1); range < num_ranges; range = next.fetch_add(1))
        body(range * grain, std::min(size, (range + 1) * grain));
    } catch (...) {
      next = num_ranges;
      const std::lock_guard<std::mutex> lock(mutex);
      if (thrown == nullptr) thrown = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  const std::int64_t num_helpers = std::min<std::int64_t>(threads, num_ranges) - 1;
  try {
    if (num_helpers > 0) helpers.reserve(static_cast<std::size_t>(num_helpers));
    for (std::int64_t i = 0; i < num_helpers; ++i) helpers.emplace_back(work);
  } catch (const std::exception&) {
    // The system has no more threads or no memory for one: those that run share the ranges.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace feedfast
