// Kernels only; compiled once per CPU target.
#include "cpp/gated_mlp/formats.h"

namespace feedfast::gated_mlp::FEEDFAST_TARGET {
namespace {

// More than the units' latency times their number on current cores; with 16 registers a weight and
// an input of two vectors each have to fit beside them.
#if defined(__AVX512F__)
constexpr int kChains = 16;
#else
constexpr int kChains = 10;
#endif

// Independent chains of Format::Add. The compiler cannot see that every factor is the same word.
template <class Format>
inline std::int64_t RunChains(std::int64_t steps, Word weight_word, Word input_word,
                              int products_per_word) {
  constexpr int kRepeats = 64;
  typename Format::Sum sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = typename Format::Sum{};
  Word weights[kLanes];
  for (int i = 0; i < kLanes; ++i) weights[i] = weight_word;
  for (std::int64_t step = 0; step < steps; ++step) {
    asm volatile("" : : "r"(weights), "r"(&input_word) : "memory");
    const typename Format::Weights w = Format::LoadWeights(weights);
    const typename Format::Input x = Format::LoadInput(&input_word);
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma GCC unroll 16
      for (int i = 0; i < kChains; ++i) sums[i] = Format::Add(sums[i], x, w);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) asm volatile("" : "+x"(sums[i]));
  }
  return steps * kRepeats * kChains * kLanes * 2 * products_per_word;
}

}  // namespace

// The products are 2^-20, so that sums stay numbers of an ordinary size; integers may wrap.
std::int64_t PeakFp32(std::int64_t steps) noexcept {
  return RunChains<Fp32>(steps, 0x3a800000, 0x3a800000, 1);
}
std::int64_t PeakBf16(std::int64_t steps) noexcept {
  return RunChains<Bf16>(steps, 0x3a803a80, 0x3a803a80, 2);
}
std::int64_t PeakInt8(std::int64_t steps) noexcept {
  return RunChains<Int8>(steps, 0x01010101, 0x01010101, 4);
}

}  // namespace feedfast::gated_mlp::FEEDFAST_TARGET
