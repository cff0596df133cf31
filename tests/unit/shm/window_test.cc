// WindowBytes: bounds that do not overflow, slices that are added up once, and single accesses of
// every size that do not tear. What a user meets is in tests/unit/client/window_test.cc.
#include "shm/window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include "tests/support/gone_memory.h"
#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

constexpr uint64_t kSize = 64;
constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

static_assert(WindowWord<uint8_t> && WindowWord<int64_t> && WindowWord<float> &&
              WindowWord<double> && WindowWord<char>);
static_assert(!WindowWord<bool> && !WindowWord<long double> && !WindowWord<void*>);

class WindowBytesTest : public ::testing::Test {
 protected:
  WindowBytesTest() {
    for (size_t i = 0; i < memory_.size(); ++i) memory_[i] = static_cast<std::byte>(i);
  }
  alignas(64) std::array<std::byte, 3 * kSize> memory_;
  // In the middle: what is outside must stay as it is.
  WindowBytes window_{memory_.data() + kSize, kSize};
};

TEST_F(WindowBytesTest, ContainsWhatLiesInside) {
  EXPECT_TRUE(window_.Contains(0, kSize));
  EXPECT_TRUE(window_.Contains(kSize - 1, 1));
  EXPECT_TRUE(window_.Contains(kSize, 0));
  EXPECT_TRUE(window_.Contains(0, 0));
  EXPECT_FALSE(window_.Contains(0, kSize + 1));
  EXPECT_FALSE(window_.Contains(kSize, 1));
  EXPECT_FALSE(window_.Contains(kSize + 1, 0));
  // Sums that overflow to something inside.
  EXPECT_FALSE(window_.Contains(kMax, 2));
  EXPECT_FALSE(window_.Contains(1, kMax));
  EXPECT_FALSE(window_.Contains(kMax, kMax));
  EXPECT_FALSE(window_.Contains(kMax, 0));
  EXPECT_TRUE(WindowBytes().Contains(0, 0));
  EXPECT_FALSE(WindowBytes().Contains(0, 1));
}

TEST_F(WindowBytesTest, SlicesOfSlicesReadTheRightBytes) {
  WindowBytes slice = window_;
  for (uint64_t depth = 1; depth <= 5; ++depth) {
    slice = slice.Slice(7, slice.size_bytes() - 9);
    EXPECT_EQ(slice.size_bytes(), kSize - 9 * depth);
    std::byte first{};
    std::byte last{};
    slice.CopyOut(0, {&first, 1});
    slice.CopyOut(slice.size_bytes() - 1, {&last, 1});
    EXPECT_EQ(first, static_cast<std::byte>(kSize + 7 * depth));
    EXPECT_EQ(last, static_cast<std::byte>(2 * kSize - 2 * depth - 1));
  }
}

template <typename T>
class WordTest : public WindowBytesTest {};
using Words = ::testing::Types<uint8_t, uint16_t, uint32_t, uint64_t, int32_t, float, double>;
TYPED_TEST_SUITE(WordTest, Words);

TYPED_TEST(WordTest, IsStoredAndLoadedAtEveryAlignedPlace) {
  for (uint64_t offset = 0; offset < kSize; ++offset) {
    const auto before = this->memory_;
    const auto value = static_cast<TypeParam>(offset + 100);
    const bool fits = offset % sizeof(TypeParam) == 0;
    ASSERT_EQ(this->window_.HasWord(offset, sizeof(TypeParam)), fits) << offset;
    ASSERT_EQ(this->window_.HasAlignedWord(offset, sizeof(TypeParam)), fits) << offset;
    if (!fits) continue;
    this->window_.template StoreOnce<TypeParam>(offset, value);
    EXPECT_EQ(this->window_.template LoadOnce<TypeParam>(offset), value);
    // Nothing beside it.
    for (size_t i = 0; i < before.size(); ++i) {
      if (i >= kSize + offset && i < kSize + offset + sizeof(TypeParam)) continue;
      ASSERT_EQ(this->memory_[i], before[i]) << "byte " << i << " by a store at " << offset;
    }
  }
}

TYPED_TEST(WordTest, IsNotThereOutsideNorOffItsAlignment) {
  constexpr uint64_t kWord = sizeof(TypeParam);
  for (const uint64_t offset : {kSize, kSize + 8, kMax, kMax - 7, kMax - kSize + 1, kMax - 63}) {
    EXPECT_FALSE(this->window_.HasWord(offset, kWord)) << offset;
    EXPECT_FALSE(this->window_.HasAlignedWord(offset, kWord)) << offset;
  }
  // It is the address that counts, so in an odd slice the odd offsets are right. The short answer
  // is never yes where the long one is no.
  for (uint64_t begin = 0; begin <= 16; ++begin) {
    for (uint64_t size = 0; size <= 33; ++size) {
      const WindowBytes slice = this->window_.Slice(begin, size);
      for (uint64_t offset = 0; offset <= size + 8; ++offset) {
        const bool fits = (begin + offset) % kWord == 0 && offset + kWord <= size;
        EXPECT_EQ(slice.HasWord(offset, kWord), fits) << begin << ' ' << size << ' ' << offset;
        const bool short_fits = fits && begin % 8 == 0 && offset < size / 8 * 8;
        EXPECT_EQ(slice.HasAlignedWord(offset, kWord), short_fits)
            << begin << ' ' << size << ' ' << offset;
      }
    }
  }
}

// A peer that writes all of the bits of a word, back and forth: no half of it is ever seen.
template <typename T>
void ExpectNoTearing() {
  const test::GoneMemory memory(1, 1, std::byte{0});
  const WindowBytes window(memory.base(), memory.size_bytes());
  std::atomic<bool> done = false;
  std::thread peer([&] {
    while (!done) {
      window.StoreOnce(8, static_cast<T>(~T{0}));
      window.StoreOnce(8, T{0});
    }
  });
  int64_t ones = 0;
  int64_t zeros = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (ones < 10'000 || zeros < 10'000) {
    if ((ones + zeros) % 4096 == 0 && std::chrono::steady_clock::now() > deadline) break;
    const T value = window.LoadOnce<T>(8);
    if (value == T{0}) {
      zeros += 1;
    } else if (value == static_cast<T>(~T{0})) {
      ones += 1;
    } else {
      ADD_FAILURE() << "a torn word: " << uint64_t{value};
      break;
    }
  }
  done = true;
  peer.join();
  EXPECT_GE(ones, 10'000);
  EXPECT_GE(zeros, 10'000);
}
TEST(WindowWords, DoNotTear) {
  ExpectNoTearing<uint16_t>();
  ExpectNoTearing<uint32_t>();
  ExpectNoTearing<uint64_t>();
}

TEST_F(WindowBytesTest, FillsZerosOnlyWhereItIsTold) {
  window_.FillZeros(3, 5);
  window_.FillZeros(kSize, 0);
  for (size_t i = 0; i < memory_.size(); ++i) {
    const bool zeroed = i >= kSize + 3 && i < kSize + 8;
    EXPECT_EQ(memory_[i], zeroed ? std::byte{0} : static_cast<std::byte>(i)) << i;
  }
}

TEST(FallibleWindow, SaysHowFarItGot) {
  const test::GoneMemory memory(2, 1, std::byte{0x5a});
  const WindowBytes window =
      WindowBytes(memory.base(), memory.size_bytes()).Slice(10, memory.size_bytes() - 20);
  std::vector<std::byte> target(PageBytes());
  EXPECT_EQ(window.CopyOutFallible(100, target).copied_bytes, PageBytes() - 110);
  EXPECT_EQ(window.CopyInFallible(100, target).copied_bytes, PageBytes() - 110);
}

using WindowBytesDeathTest = WindowBytesTest;
TEST_F(WindowBytesDeathTest, WhoDidNotCheckItsOffsetHasABug) {
  std::array<std::byte, 2> two = {};
  EXPECT_DEATH(window_.Slice(kSize, 1), "Contains");
  EXPECT_DEATH(window_.CopyOut(kSize - 1, two), "");
  EXPECT_DEATH(window_.CopyIn(kMax, two), "");
  EXPECT_DEATH(window_.CopyOutFallible(kSize - 1, two), "Contains");
  EXPECT_DEATH(window_.CopyInFallible(kMax, two), "Contains");
  EXPECT_DEATH(window_.FillZeros(1, kSize), "Contains");
}

}  // namespace
}  // namespace iob::shm
