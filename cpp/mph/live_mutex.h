#ifndef FEEDFAST_CPP_MPH_LIVE_MUTEX_H_
#define FEEDFAST_CPP_MPH_LIVE_MUTEX_H_

#include <atomic>
#include <mutex>
#include <shared_mutex>

namespace feedfast::mph {

// A shared mutex whose writers are not starved: readers that come while one waits let it go first.
// std::shared_mutex of glibc prefers readers, and lookups of a busy server overlap without end.
class LiveMutex {
 public:
  void lock() {
    const std::lock_guard<std::mutex> gate(gate_);
    writer_waits_.store(true, std::memory_order_relaxed);
    state_.lock();
    writer_waits_.store(false, std::memory_order_relaxed);
  }
  void unlock() { state_.unlock(); }

  void lock_shared() {
    if (writer_waits_.load(std::memory_order_relaxed)) {
      const std::lock_guard<std::mutex> behind_writer(gate_);
    }
    state_.lock_shared();
  }
  void unlock_shared() { state_.unlock_shared(); }

 private:
  std::mutex gate_;  // held by a writer until it has the state
  std::atomic<bool> writer_waits_{false};
  std::shared_mutex state_;
};

}  // namespace feedfast::mph

#endif  // FEEDFAST_CPP_MPH_LIVE_MUTEX_H_
