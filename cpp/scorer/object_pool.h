#ifndef FEEDFAST_CPP_SCORER_OBJECT_POOL_H_
#define FEEDFAST_CPP_SCORER_OBJECT_POOL_H_

#include <array>
#include <atomic>
#include <memory>

namespace feedfast::scorer {

// Objects that wait to be used again. Any number of threads may call it at a time. Without a lock,
// so that a process that forks while another of its threads is in a call leaves the child a pool
// that works; the child lacks the objects that such threads had taken.
template <typename T>
class ObjectPool {
 public:
  ObjectPool() = default;
  ObjectPool(const ObjectPool&) = delete;
  ObjectPool& operator=(const ObjectPool&) = delete;
  ~ObjectPool() {
    while (Take() != nullptr) {
    }
  }

  // nullptr when none waits.
  std::unique_ptr<T> Take() noexcept {
    for (std::atomic<T*>& slot : slots_)
      if (slot.load(std::memory_order_relaxed) != nullptr)
        if (T* taken = slot.exchange(nullptr, std::memory_order_acquire); taken != nullptr)
          return std::unique_ptr<T>(taken);
    return nullptr;
  }

  // Keeps the object, or frees it when kSlots wait already.
  void Give(std::unique_ptr<T> object) noexcept {
    for (std::atomic<T*>& slot : slots_) {
      T* none = nullptr;
      if (slot.compare_exchange_strong(none, object.get(), std::memory_order_release,
                                       std::memory_order_relaxed)) {
        object.release();  // NOLINT(bugprone-unused-return-value): the slot owns it
        return;
      }
    }
  }

  static constexpr int kSlots = 64;

 private:
  std::array<std::atomic<T*>, kSlots> slots_{};
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_OBJECT_POOL_H_
