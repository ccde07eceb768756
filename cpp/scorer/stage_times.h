#ifndef FEEDFAST_CPP_SCORER_STAGE_TIMES_H_
#define FEEDFAST_CPP_SCORER_STAGE_TIMES_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace feedfast::scorer {

// Where the time of a request goes.
enum class Stage {
  kStrings,  // keys to rows
  kTrees,    // features to leaves
  kLookups,  // rows to pooled vectors
  kDense,    // towers, with the part that candidates share
  kRest,     // checks, normaliser, probabilities to utility, order
};
inline constexpr std::size_t kNumStages = 5;

// Nanoseconds spent by threads: those of threads that work side by side add up.
struct StageTimes {
  std::array<std::int64_t, kNumStages> nanoseconds{};

  std::int64_t& operator[](Stage stage) noexcept {
    return nanoseconds[static_cast<std::size_t>(stage)];
  }
  StageTimes& operator+=(const StageTimes& other) noexcept {
    for (std::size_t i = 0; i < kNumStages; ++i) nanoseconds[i] += other.nanoseconds[i];
    return *this;
  }
};

// Adds the time since it was made, or last asked, to a stage. Reads no clock when there is nothing
// to add to.
class StageClock {
 public:
  explicit StageClock(StageTimes* times) noexcept
      : times_(times), last_(times == nullptr ? 0 : Now()) {}

  void EndOf(Stage stage) noexcept {
    if (times_ == nullptr) return;
    const std::int64_t now = Now();
    (*times_)[stage] += now - last_;
    last_ = now;
  }
  // The time since then belongs to no stage.
  void Skip() noexcept {
    if (times_ != nullptr) last_ = Now();
  }

 private:
  static std::int64_t Now() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  StageTimes* times_;
  std::int64_t last_;
};

}  // namespace feedfast::scorer

#endif  // FEEDFAST_CPP_SCORER_STAGE_TIMES_H_
