#include "cpp/scorer/object_pool.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace feedfast::scorer {
namespace {

struct Counted {
  explicit Counted(std::atomic<int>& alive) : alive_(alive) { ++alive_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --alive_; }

  std::atomic<int>& alive_;
  int users = 0;  // not atomic: two users at a time are a race
};

TEST(ObjectPoolTest, KeepsNoMoreThanItHasSlots) {
  std::atomic<int> alive{0};
  {
    ObjectPool<Counted> pool;
    EXPECT_EQ(pool.Take(), nullptr);
    for (int i = 0; i < ObjectPool<Counted>::kSlots + 3; ++i)
      pool.Give(std::make_unique<Counted>(alive));
    EXPECT_EQ(alive, ObjectPool<Counted>::kSlots);
    EXPECT_NE(pool.Take(), nullptr);  // and frees it
    EXPECT_EQ(alive, ObjectPool<Counted>::kSlots - 1);
  }
  EXPECT_EQ(alive, 0);
}

TEST(ObjectPoolTest, OneThreadAtATimeHasAnObject) {
  std::atomic<int> alive{0};
  {
    ObjectPool<Counted> pool;
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          std::unique_ptr<Counted> object = pool.Take();
          if (object == nullptr) object = std::make_unique<Counted>(alive);
          ++object->users;
          pool.Give(std::move(object));
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(alive, 4);
    int users = 0;
    while (const std::unique_ptr<Counted> object = pool.Take()) users += object->users;
    EXPECT_EQ(users, 8000);
  }
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace feedfast::scorer
