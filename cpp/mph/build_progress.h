#ifndef FEEDFAST_CPP_MPH_BUILD_PROGRESS_H_
#define FEEDFAST_CPP_MPH_BUILD_PROGRESS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "cpp/common/status.h"

namespace feedfast::mph {

// The parts of a build, in this order; kRead is met by external builds alone, which hash while they
// read and sort while they place.
enum class BuildPhase {
  kRead,
  kHash,
  kSort,
  kPlace,
  kWrite,
};

struct BuildProgress {
  BuildPhase phase = BuildPhase::kRead;
  std::int64_t done = 0;   // keys
  std::int64_t total = 0;  // keys; -1 while nobody knows
};

// Returning false asks the build to stop soon. Called now and then, on the thread that builds.
using ProgressFunction = std::function<bool(const BuildProgress&)>;

// Counts the keys of a phase on all threads of a build and reports them from one.
class BuildMonitor {
 public:
  BuildMonitor() = default;  // never cancelled
  // An empty function is not called.
  explicit BuildMonitor(ProgressFunction report)
      : report_(std::move(report)), owner_(std::this_thread::get_id()) {}

  // By the building thread, between phases.
  void Start(BuildPhase phase, std::int64_t total) {
    phase_ = phase;
    total_ = total;
    done_ = 0;
    Report();
  }
  // By any thread.
  void Add(std::int64_t keys) {
    done_ += keys;
    if (report_ == nullptr || std::this_thread::get_id() != owner_) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_report_ < std::chrono::milliseconds(20)) return;
    last_report_ = now;
    Report();
  }
  bool cancelled() const noexcept { return cancelled_; }
  Status Check() const {
    return cancelled_ ? FailedPrecondition("vocabulary: the build was cancelled") : OkStatus();
  }

 private:
  void Report() {
    if (report_ != nullptr && !cancelled_) cancelled_ = !report_({phase_, done_, total_});
  }

  ProgressFunction report_;
  std::thread::id owner_;
  std::chrono::steady_clock::time_point last_report_;
  BuildPhase phase_ = BuildPhase::kRead;
  std::int64_t total_ = 0;
  std::atomic<std::int64_t> done_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_BUILD_PROGRESS_H_
