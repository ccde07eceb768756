#include "cpp/allreduce/fusion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "cpp/allreduce/reference.h"
#include "tests/cpp/testing.h"

namespace feedfast::allreduce {
namespace {

using ::feedfast::testing::ForEachCpuTarget;
using Shapes = std::vector<std::vector<std::int64_t>>;

constexpr unsigned kSeed = 20'240'605;

template <typename T>
using Gradients = std::vector<std::vector<T>>;  // [gradients][elements]

template <typename T>
FusionPlan Plan(const Shapes& shapes) {
  return FusionPlan::Create(shapes, sizeof(T)).value();
}

template <typename T>
Gradients<T> RandomGradients(std::mt19937& rng, const FusionPlan& plan) {
  std::normal_distribution<double> normal;
  Gradients<T> gradients;
  for (const FusionSlot& slot : plan.slots()) {
    gradients.emplace_back(static_cast<std::size_t>(slot.size));
    for (T& element : gradients.back()) element = static_cast<T>(normal(rng));
  }
  return gradients;
}

template <typename T>
std::vector<const void*> Pointers(const Gradients<T>& gradients) {
  std::vector<const void*> pointers;
  for (const auto& gradient : gradients) pointers.push_back(gradient.data());
  return pointers;
}

template <typename T>
Gradients<T> Unpacked(const FusionArena<T>& arena, T scale, int threads) {
  Gradients<T> gradients;
  std::vector<void*> pointers;
  for (const FusionSlot& slot : arena.plan().slots())
    gradients.emplace_back(static_cast<std::size_t>(slot.size), T{-1});
  for (auto& gradient : gradients) pointers.push_back(gradient.data());
  arena.Unpack(scale, Span<void* const>(pointers.data(), arena.plan().slots().size()), threads);
  return gradients;
}

template <typename T>
void Accumulate(FusionArena<T>& arena, const Gradients<T>& gradients, int threads) {
  const std::vector<const void*> pointers = Pointers(gradients);
  arena.Accumulate({pointers.data(), static_cast<std::int64_t>(pointers.size())}, threads);
}

template <typename T>
class FusionTest : public ::testing::Test {};
using ItemTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FusionTest, ItemTypes);

TYPED_TEST(FusionTest, AWindowIsTheScaledSumOfItsMicroBatches) {
  using T = TypeParam;
  std::mt19937 rng(kSeed);
  const FusionPlan plan = Plan<T>({{7, 9}, {}, {0}, {64}, {65}, {100'003}, {3, 1}});
  ForEachCpuTarget([&] {
    for (const int threads : {1, 3}) {
      FusionArena<T> arena(plan);
      for (const int window : {1, 2, 5}) {  // the second window must not see the first
        arena.StartWindow();
        std::vector<Gradients<T>> micro_batches;
        for (int k = 0; k < window; ++k) {
          micro_batches.push_back(RandomGradients<T>(rng, plan));
          Accumulate(arena, micro_batches.back(), threads);
        }
        EXPECT_EQ(arena.num_accumulated(), window);
        const double scale = 1.0 / (window * 3);
        const Gradients<T> got = Unpacked(arena, static_cast<T>(scale), threads);
        for (std::size_t i = 0; i < got.size(); ++i) {
          std::vector<std::vector<T>> of_gradient;
          of_gradient.reserve(micro_batches.size());
          for (const auto& micro_batch : micro_batches) of_gradient.push_back(micro_batch[i]);
          const std::vector<double> want = reference::WindowSum(of_gradient, scale);
          // Five roundings of sums below 16 in float32.
          for (std::size_t j = 0; j < want.size(); ++j) ASSERT_NEAR(got[i][j], want[j], 5e-6);
        }
      }
    }
  });
}

TYPED_TEST(FusionTest, EveryTargetAndThreadCountGivesTheSameBits) {
  using T = TypeParam;
  std::mt19937 rng(kSeed);
  const FusionPlan plan = Plan<T>({{33}, {200'001}, {5}});
  const Gradients<T> first = RandomGradients<T>(rng, plan);
  const Gradients<T> second = RandomGradients<T>(rng, plan);
  Gradients<T> want;
  ForEachCpuTarget([&] {
    for (const int threads : {1, 2, 4}) {
      FusionArena<T> arena(plan);
      Accumulate(arena, first, threads);
      Accumulate(arena, second, threads);
      const Gradients<T> got = Unpacked(arena, static_cast<T>(0.3), threads);
      if (want.empty()) want = got;
      EXPECT_EQ(got, want);
    }
  });
}

TYPED_TEST(FusionTest, ElementsBetweenGradientsAreZero) {
  using T = TypeParam;
  std::mt19937 rng(kSeed);
  const FusionPlan plan = Plan<T>({{3}, {}, {17}});
  const Gradients<T> gradients = RandomGradients<T>(rng, plan);
  const std::vector<const void*> pointers = Pointers(gradients);
  const std::int64_t size = plan.num_elements();
  std::vector<T> want(static_cast<std::size_t>(size), T{0});
  for (std::int64_t i = 0; i < 3; ++i)
    std::copy(gradients[static_cast<std::size_t>(i)].begin(),
              gradients[static_cast<std::size_t>(i)].end(), want.begin() + plan.slots()[i].offset);
  // In any pieces, over an array that was never cleared.
  for (std::int64_t piece = 1; piece <= size; ++piece) {
    std::vector<T> fused(static_cast<std::size_t>(size), T{-1});
    for (std::int64_t begin = 0; begin < size; begin += piece)
      StoreGradients(plan, Span<const void* const>(pointers.data(), 3), begin,
                     std::min(size, begin + piece), fused.data());
    EXPECT_EQ(fused, want);
  }
}

TYPED_TEST(FusionTest, TheArrayIsAlignedAndStaysWhereItIs) {
  using T = TypeParam;
  FusionArena<T> arena(Plan<T>({{5}, {70}}));
  const T* const before = arena.fused().data();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(before) % 64, 0U);
  for (const T element : arena.fused()) EXPECT_EQ(element, T{0});
  FusionArena<T> moved = std::move(arena);
  EXPECT_EQ(moved.fused().data(), before);
}

TYPED_TEST(FusionTest, NoGradientsAndEmptyGradientsAreFine) {
  using T = TypeParam;
  FusionArena<T> none(Plan<T>({}));
  none.Accumulate({}, 2);
  none.Unpack(T{1}, {}, 2);
  FusionArena<T> empty(Plan<T>({{0}, {4, 0}}));
  Accumulate(empty, Gradients<T>(2), 2);
  EXPECT_EQ(Unpacked(empty, T{1}, 2), Gradients<T>(2));
}

// Gradients of 16 bits: what a test needs of them, by gradient.
using Items = std::vector<std::vector<std::uint16_t>>;

// One vector of ordinary numbers, the last with sums beyond 16 bits, subnormals, infinities, NaN.
Items RandomItems(std::mt19937& rng, const FusionPlan& plan) {
  std::normal_distribution<double> normal;
  Items items;
  for (const FusionSlot& slot : plan.slots()) {
    items.emplace_back(static_cast<std::size_t>(slot.size));
    const bool any = &slot == plan.slots().end() - 1;
    for (std::uint16_t& item : items.back())
      item = any ? static_cast<std::uint16_t>(rng())
                 : reference::NearestBits(normal(rng), slot.format);
  }
  return items;
}

class NarrowFusionTest : public ::testing::TestWithParam<ItemFormat> {};

// The sums are those of float32 in the order of the micro-batches, each rounded once to 16 bits at
// the end: to the bit, on every target, for any threads.
TEST_P(NarrowFusionTest, AWindowIsSummedInFloat32AndRoundedOnce) {
  const ItemFormat format = GetParam();
  const Shapes shapes = {{7, 9}, {}, {0}, {64}, {65}, {100'003}, {70'001}};
  const std::vector<ItemFormat> formats(shapes.size(), format);
  const FusionPlan plan = FusionPlan::Create(shapes, sizeof(float), formats).value();
  std::mt19937 rng(kSeed);
  std::vector<Items> micro_batches;
  for (int k = 0; k < 3; ++k) micro_batches.push_back(RandomItems(rng, plan));
  ForEachCpuTarget([&] {
    for (const int threads : {1, 3}) {
      FusionArena<float> arena(plan);
      for (const int window : {1, 3}) {
        arena.StartWindow();
        for (int k = 0; k < window; ++k) {
          const auto pointers = Pointers<std::uint16_t>(micro_batches[static_cast<std::size_t>(k)]);
          arena.Accumulate({pointers.data(), static_cast<std::int64_t>(pointers.size())}, threads);
        }
        const float scale = 1.0F / static_cast<float>(window);
        Items got = micro_batches[0];
        std::vector<void*> outputs;
        for (auto& gradient : got) outputs.push_back(gradient.data());
        arena.Unpack(scale, {outputs.data(), static_cast<std::int64_t>(outputs.size())}, threads);
        std::int64_t wrong = 0;
        for (std::size_t i = 0; i < got.size(); ++i)
          for (std::size_t j = 0; j < got[i].size(); ++j) {
            auto sum = static_cast<float>(reference::NumberOf(micro_batches[0][i][j], format));
            for (int k = 1; k < window; ++k)
              sum += static_cast<float>(
                  reference::NumberOf(micro_batches[static_cast<std::size_t>(k)][i][j], format));
            const float mean = scale * sum;
            const bool same = std::isnan(mean) ? std::isnan(reference::NumberOf(got[i][j], format))
                                               : got[i][j] == reference::NearestBits(mean, format);
            if (!same) ++wrong;
          }
        EXPECT_EQ(wrong, 0) << "of a window of " << window;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Formats, NarrowFusionTest,
                         ::testing::Values(ItemFormat::kFloat16, ItemFormat::kBfloat16));

TEST(MixedFusionTest, FormatsLieSideBySideInPiecesOfAnySize) {
  std::mt19937 rng(kSeed);
  const Shapes shapes = {{5}, {33}, {2, 3}, {17}};
  const std::vector<ItemFormat> formats = {ItemFormat::kFloat16, ItemFormat::kFused,
                                           ItemFormat::kBfloat16, ItemFormat::kFloat16};
  const FusionPlan plan = FusionPlan::Create(shapes, sizeof(float), formats).value();
  const Items narrow = RandomItems(rng, plan);
  const Gradients<float> whole = RandomGradients<float>(rng, plan);
  std::vector<float> want(static_cast<std::size_t>(plan.num_elements()), 0.0F);
  std::vector<const void*> pointers;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const bool is_whole = formats[i] == ItemFormat::kFused;
    pointers.push_back(is_whole ? static_cast<const void*>(whole[i].data()) : narrow[i].data());
    const FusionSlot& slot = plan.slots()[static_cast<std::int64_t>(i)];
    for (std::size_t j = 0; j < whole[i].size(); ++j)
      want[static_cast<std::size_t>(slot.offset) + j] =
          is_whole ? whole[i][j]
                   : static_cast<float>(reference::NumberOf(narrow[i][j] & 0x3fff, formats[i]));
  }
  // Without its two upper bits every item is a number.
  Items numbers = narrow;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    for (std::uint16_t& item : numbers[i]) item &= 0x3fff;
    if (formats[i] != ItemFormat::kFused) pointers[i] = numbers[i].data();
  }
  const Span<const void* const> gradients(pointers.data(), 4);
  ForEachCpuTarget([&] {
    for (std::int64_t piece = 1; piece <= plan.num_elements(); piece += 7) {
      std::vector<float> fused(want.size(), -1.0F);
      for (const bool first : {true, false})
        for (std::int64_t begin = 0; begin < plan.num_elements(); begin += piece) {
          const std::int64_t end = std::min(plan.num_elements(), begin + piece);
          if (first) {
            StoreGradients(plan, gradients, begin, end, fused.data());
          } else {
            AddGradients(plan, gradients, begin, end, fused.data());
          }
        }
      for (std::size_t j = 0; j < want.size(); ++j) ASSERT_EQ(fused[j], 2 * want[j]) << j;
    }
  });
}

}  // namespace
}  // namespace feedfast::allreduce
