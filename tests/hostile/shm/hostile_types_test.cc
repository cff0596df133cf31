// What must not compile: the types of hostile.h as rules for the compiler. And what they do.
#include <gtest/gtest.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "shm/hostile.h"

namespace iob::shm {
namespace {

// H5: what may be a word in shared memory.
static_assert(SharedWord<uint32_t> && SharedWord<uint64_t>);
static_assert(!SharedWord<bool>, "a byte of 2 would be undefined behaviour");
static_assert(!SharedWord<void*> && !SharedWord<const char*> && !SharedWord<uint64_t*>);
static_assert(!SharedWord<int32_t> && !SharedWord<int64_t>, "no overflow to be undefined");
static_assert(!SharedWord<uint8_t> && !SharedWord<uint16_t>);
static_assert(!SharedWord<float> && !SharedWord<double> && !SharedWord<std::byte>);
enum class SomeEnum : uint32_t {};
static_assert(!SharedWord<SomeEnum>);

// H2: an untrusted value has no way out but a check, and a check consumes it.
template <typename T>
concept HasBetweenOnLvalue = requires(T value) {
  value.Between(0, 1);
};
template <typename T>
concept HasBetweenOnRvalue = requires(T value) {
  std::move(value).Between(0, 1);
};
template <typename T>
concept HasHintOnLvalue = requires(T value) {
  value.ForHintOnly();
};
template <typename T>
concept Adds = requires(T a) {
  a + 1;
}
|| requires(T a) { a - a; }
|| requires(T a) { ++a; };
template <typename T>
concept Indexes = requires(T a, int* array) {
  array[a];
};
template <typename T>
concept ComparesWithNumbers = requires(T a) {
  a == 0;
}
|| requires(T a) { a < 1; };

template <typename T>
constexpr bool kHoldsOntoItsValue =
    !std::is_convertible_v<Untrusted<T>, T> && !std::is_convertible_v<Untrusted<T>, bool> &&
    !std::is_constructible_v<T, Untrusted<T>> && !std::is_constructible_v<bool, Untrusted<T>> &&
    !std::equality_comparable<Untrusted<T>> && !std::totally_ordered<Untrusted<T>> &&
    !std::equality_comparable_with<Untrusted<T>, T> && !ComparesWithNumbers<Untrusted<T>> &&
    !Adds<Untrusted<T>> && !Indexes<Untrusted<T>> && !HasBetweenOnLvalue<Untrusted<T>> &&
    !HasHintOnLvalue<Untrusted<T>> && HasBetweenOnRvalue<Untrusted<T>> &&
    !std::is_copy_constructible_v<Untrusted<T>> && !std::is_copy_assignable_v<Untrusted<T>> &&
    !std::is_move_constructible_v<Untrusted<T>> && !std::is_convertible_v<T, Untrusted<T>>;
static_assert(kHoldsOntoItsValue<uint32_t> && kHoldsOntoItsValue<uint64_t>);
// The probes themselves can say yes.
static_assert(Adds<int> && Indexes<int> && ComparesWithNumbers<int>);

// H1: the one way to fetch gives an Untrusted; the word is neither copied nor read by accident.
static_assert(std::same_as<decltype(std::declval<const SharedAtomic<uint64_t>&>().LoadAcquire()),
                           Untrusted<uint64_t>>);
static_assert(std::same_as<decltype(std::declval<const SharedAtomic<uint32_t>&>().LoadRelaxed()),
                           Untrusted<uint32_t>>);
static_assert(!std::is_copy_constructible_v<SharedAtomic<uint64_t>>);
static_assert(!std::is_convertible_v<SharedAtomic<uint64_t>, uint64_t>);
static_assert(sizeof(SharedAtomic<uint32_t>) == 4 && sizeof(SharedAtomic<uint64_t>) == 8);
static_assert(std::is_standard_layout_v<SharedAtomic<uint64_t>>);

TEST(Untrusted, GivesItselfUpOnlyInsideTheBounds) {
  using Word = Untrusted<uint64_t>;
  EXPECT_EQ(Word(5).Between(5, 5), 5u);
  EXPECT_EQ(Word(4).Between(5, 5), std::nullopt);
  EXPECT_EQ(Word(6).Between(5, 5), std::nullopt);
  EXPECT_EQ(Word(5).Between(6, 4), std::nullopt) << "an empty range holds nothing";
  EXPECT_EQ(Word(UINT64_MAX).Between(0, UINT64_MAX), UINT64_MAX);
}

TEST(Untrusted, ChecksAlignmentToo) {
  using Word = Untrusted<uint64_t>;
  EXPECT_EQ(Word(16).AlignedBetween(8, 24, 8), 16u);
  for (uint64_t low = 1; low < 8; ++low)
    EXPECT_EQ(Word(16 + low).AlignedBetween(0, 99, 8), std::nullopt);
  EXPECT_EQ(Word(32).AlignedBetween(8, 24, 8), std::nullopt);
  EXPECT_EQ(Word(17).AlignedBetween(8, 24, 1), 17u);
}

TEST(SharedBytes, CopiesExactlyTheRange) {
  std::array<std::byte, 64> memory;
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i);
  SharedBytes bytes(memory.data(), memory.size());
  for (size_t offset = 0; offset <= memory.size(); ++offset) {
    for (size_t size = 0; size <= memory.size() - offset; ++size) {
      std::vector<std::byte> target(size + 1, std::byte{0xee});
      bytes.CopyOut(offset, std::span(target).first(size));
      ASSERT_TRUE(size == 0 || std::memcmp(target.data(), &memory[offset], size) == 0);
      ASSERT_EQ(target[size], std::byte{0xee});
    }
  }
  bytes.CopyIn(62, std::array{std::byte{1}, std::byte{2}});
  EXPECT_EQ(memory[61], std::byte{61});
  EXPECT_EQ(memory[62], std::byte{1});
  EXPECT_EQ(memory[63], std::byte{2});
}

TEST(SharedBytesDeathTest, AbortsOnARangeOfOursThatIsOutside) {
  std::array<std::byte, 64> memory = {};
  SharedBytes bytes(memory.data(), memory.size());
  std::array<std::byte, 16> block = {};
  EXPECT_DEATH(bytes.CopyOut(49, block), "broken");
  EXPECT_DEATH(bytes.CopyOut(SIZE_MAX - 7, block), "broken");
  EXPECT_DEATH(bytes.CopyIn(65, std::span(block).first(0)), "broken");
  EXPECT_DEATH(bytes.CopyIn(SIZE_MAX, block), "broken");
}

TEST(Hooks, RunBeforeEverySharedLoadOfTheirThreadOnly) {
  SharedAtomic<uint64_t> word;
  word.StoreRelaxed(1);
  int runs = 0;
  before_shared_load_context = &runs;
  before_shared_load = [](void* context) { ++*static_cast<int*>(context); };
  (void)word.LoadAcquire().ForHintOnly();
  (void)word.LoadRelaxed().ForHintOnly();
  std::thread([&word] { (void)word.LoadAcquire().ForHintOnly(); }).join();
  before_shared_load = nullptr;
  (void)word.LoadAcquire().ForHintOnly();
  EXPECT_EQ(runs, 2);
}

}  // namespace
}  // namespace iob::shm
