// Window: every edge of ostd's IoMem, what a peer may do meanwhile, and rights.
//
// The region's bytes are looked at through a mapping of the test's own, which plays the peer.
#include "client/window.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/gone_memory.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using Bytes = std::vector<std::byte>;

constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;
constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
const uint64_t kPage = shm::PageBytes();

void ExpectInvalid(const absl::Status& status, const char* message = "") {
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, message));
  EXPECT_EQ(ReasonOf(status), "INVALID_ARGUMENT");
}
void ExpectDenied(const absl::Status& status, const char* message = "") {
  EXPECT_THAT(status, StatusIs(StatusCode::kPermissionDenied, message));
  EXPECT_EQ(ReasonOf(status), "ACCESS_DENIED");
}

// What is at byte `i` of the region before a test writes it.
std::byte Pattern(uint64_t i) { return static_cast<std::byte>(i * 7 + i / 256); }
Bytes PatternFrom(uint64_t offset, size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = Pattern(offset + i);
  return bytes;
}

class WindowTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 4;

  WindowTest() {
    for (uint64_t i = 0; i < size_; ++i) peer_.base()[i] = Pattern(i);
    endpoint_.emplace(AttachTo(&broker_, buffer_.Give()).value());
    window_ = endpoint_->OpenWindow(raw_).value();
  }

  Window SliceOf(const Window& window, uint64_t offset, uint64_t length) {
    return window.Slice(offset, length).value();
  }
  Bytes ReadFrom(const Window& window, uint64_t offset, size_t size) {
    Bytes bytes(size);
    EXPECT_THAT(window.Read(offset, bytes), IsOk());
    return bytes;
  }
  Bytes Memory(uint64_t offset, size_t size) {
    return Bytes(peer_.base() + offset, peer_.base() + offset + size);
  }
  void ExpectUntouched() { EXPECT_EQ(Memory(0, size_), PatternFrom(0, size_)); }

  uint64_t size_ = kPages * kPage;
  FakeBroker broker_;
  TestBuffer buffer_;
  uint32_t raw_ = buffer_.AddRaw(size_, 0x33);
  uint32_t read_only_ = buffer_.AddRaw(kPage, 0x31);
  uint32_t unmapped_ = buffer_.AddRaw(kPage, 0x38);
  uint32_t ring_ = buffer_.AddRing(16 << 10, 0x83);
  uint32_t ids_ = buffer_.AddIds(2, 0x81);
  uint32_t empty_ = buffer_.AddRaw(0, 0x33);
  shm::Mapping peer_ = shm::Mapping::Map(buffer_.raw(raw_)).value();
  std::optional<Endpoint> endpoint_;
  Window window_;
};

// --- Reading and writing ------------------------------------------------------------------------

TEST_F(WindowTest, IsAllOfTheRegion) {
  EXPECT_EQ(window_.size_bytes(), size_);
  EXPECT_EQ(window_.offset_bytes(), 0U);
  EXPECT_TRUE(window_.writable());
  EXPECT_EQ(ReadFrom(window_, 0, size_), PatternFrom(0, size_));
}

TEST_F(WindowTest, CopiesEveryLengthFromAndToEveryOffset) {
  constexpr size_t kWord = sizeof(uint64_t);
  for (const size_t size : {size_t{0}, size_t{1}, kWord - 1, kWord, kWord + 1, 2 * kWord + 3}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{2}, kPage - 3, size_ - size}) {
      for (const size_t skew : {0, 1, 2}) {
        Bytes bytes(size + skew + 1, std::byte{0xee});
        EXPECT_THAT(window_.Read(offset, std::span(bytes).subspan(skew, size)), IsOk());
        EXPECT_TRUE(std::equal(bytes.begin() + static_cast<ptrdiff_t>(skew), bytes.end() - 1,
                               PatternFrom(offset, size).begin()));
        EXPECT_EQ(bytes.back(), std::byte{0xee});
        const Bytes written(size, std::byte{0xdd});
        EXPECT_THAT(window_.Write(offset, written), IsOk());
        EXPECT_EQ(Memory(offset, size), written);
        EXPECT_THAT(window_.Write(offset, PatternFrom(offset, size)), IsOk());
        ExpectUntouched();
      }
    }
  }
}

TEST_F(WindowTest, WhatIsNotAllInsideDoesNothing) {
  struct Outside {
    uint64_t offset;
    size_t size;
  };
  for (const Outside& outside :
       {Outside{size_, 1}, Outside{size_ - 1, 2}, Outside{size_ + 1, 0}, Outside{kMax, 1},
        Outside{kMax, 0}, Outside{kMax - 7, 8}, Outside{kMax - 7, 16}, Outside{0, size_ + 1}}) {
    Bytes bytes(outside.size, std::byte{0xee});
    const Bytes before = bytes;
    ExpectInvalid(window_.Read(outside.offset, bytes), "leave the window");
    EXPECT_EQ(bytes, before);
    ExpectInvalid(window_.Write(outside.offset, bytes), "leave the window");
    const Moved read = window_.ReadFallible(outside.offset, bytes);
    ExpectInvalid(read.status);
    EXPECT_EQ(read.moved_bytes, 0U);
    EXPECT_EQ(bytes, before);
    const Moved written = window_.WriteFallible(outside.offset, bytes);
    ExpectInvalid(written.status);
    EXPECT_EQ(written.moved_bytes, 0U);
  }
  ExpectUntouched();
  // The end itself is fine for nothing.
  EXPECT_THAT(window_.Read(size_, {}), IsOk());
  EXPECT_THAT(window_.Write(size_, {}), IsOk());
  EXPECT_TRUE(window_.ReadFallible(size_, {}).ok());
  EXPECT_TRUE(window_.WriteFallible(size_, {}).ok());
}

// --- Single accesses ----------------------------------------------------------------------------

template <typename T>
class WindowOnceTest : public WindowTest {};
using Words = ::testing::Types<uint8_t, uint16_t, uint32_t, uint64_t, int16_t, double>;
TYPED_TEST_SUITE(WindowOnceTest, Words);

TYPED_TEST(WindowOnceTest, RoundTripsAndLeavesItsNeighbours) {
  const uint64_t offset = 64;
  ASSERT_THAT(this->window_.template WriteOnce<TypeParam>(offset, TypeParam{42}), IsOk());
  EXPECT_EQ(this->window_.template ReadOnce<TypeParam>(offset).value(), TypeParam{42});
  TypeParam in_memory{};
  std::memcpy(&in_memory, this->peer_.base() + offset, sizeof(in_memory));
  EXPECT_EQ(in_memory, TypeParam{42});
  EXPECT_EQ(this->Memory(0, offset), PatternFrom(0, offset));
  const uint64_t behind = offset + sizeof(TypeParam);
  EXPECT_EQ(this->Memory(behind, 64), PatternFrom(behind, 64));
}

TYPED_TEST(WindowOnceTest, ReachesTheLastPlaceAndNoFurther) {
  const uint64_t last = this->size_ - sizeof(TypeParam);
  EXPECT_THAT(this->window_.template ReadOnce<TypeParam>(last), IsOk());
  EXPECT_THAT(this->window_.template WriteOnce<TypeParam>(last, TypeParam{1}), IsOk());
  for (const uint64_t offset : {last + 1, this->size_, this->size_ + sizeof(TypeParam), kMax,
                                kMax - sizeof(TypeParam) + 1}) {
    // Range before alignment: last + 1 is wrong in both.
    ExpectInvalid(this->window_.template ReadOnce<TypeParam>(offset).status(), "leave the window");
    ExpectInvalid(this->window_.template WriteOnce<TypeParam>(offset, TypeParam{1}),
                  "leave the window");
  }
}

TEST_F(WindowTest, TheAbsoluteAddressIsAligned) {
  EXPECT_THAT(window_.ReadOnce<uint8_t>(1), IsOk());
  ExpectInvalid(window_.ReadOnce<uint16_t>(1).status(), "1 beyond a multiple of 2");
  ExpectInvalid(window_.ReadOnce<uint32_t>(6).status(), "2 beyond a multiple of 4");
  ExpectInvalid(window_.WriteOnce<uint64_t>(12, 1), "4 beyond a multiple of 8");
  // In a slice that starts at 5, offset 3 is byte 8 of the region, and offset 0 is not aligned.
  const Window slice = SliceOf(window_, 5, 100);
  ExpectInvalid(slice.ReadOnce<uint64_t>(0).status(), "5 beyond a multiple of 8");
  ExpectInvalid(slice.ReadOnce<uint64_t>(8).status());
  EXPECT_THAT(slice.WriteOnce<uint64_t>(3, 0x1122334455667788), IsOk());
  EXPECT_EQ(window_.ReadOnce<uint64_t>(8).value(), 0x1122334455667788U);
  const Bytes around = Memory(0, 24);
  EXPECT_TRUE(std::equal(around.begin(), around.begin() + 8, PatternFrom(0, 8).begin()));
  EXPECT_TRUE(std::equal(around.begin() + 16, around.end(), PatternFrom(16, 8).begin()));
}

// A peer publishes through memory: a number first, then a flag.
TEST_F(WindowTest, WhatWasWrittenBeforeAFlagIsSeenAfterIt) {
  constexpr uint64_t kRounds = 20'000;
  std::thread peer([&] {
    const Window theirs = window_;
    for (uint64_t round = 1; round <= kRounds; ++round) {
      const Bytes payload(64, static_cast<std::byte>(round));
      ASSERT_THAT(theirs.Write(kPage, payload), IsOk());
      ASSERT_THAT(theirs.WriteOnce<uint64_t>(0, round), IsOk());
      while (theirs.ReadOnce<uint64_t>(8).value() != round) std::this_thread::yield();
    }
  });
  ASSERT_THAT(window_.WriteOnce<uint64_t>(0, 0), IsOk());
  uint64_t wrong = 0;
  for (uint64_t round = 1; round <= kRounds; ++round) {
    while (window_.ReadOnce<uint64_t>(0).value() != round) std::this_thread::yield();
    if (ReadFrom(window_, kPage, 64) != Bytes(64, static_cast<std::byte>(round))) wrong += 1;
    ASSERT_THAT(window_.WriteOnce<uint64_t>(8, round), IsOk());
  }
  peer.join();
  EXPECT_EQ(wrong, 0U);
}

// Another process scribbles; nobody sees half of a number.
TEST_F(WindowTest, NumbersOfAnotherProcessDoNotTear) {
  std::fill_n(peer_.base(), kPage, std::byte{0});
  Turn stop;
  const Child scribbler([&] {
    ::fcntl(stop.fd(), F_SETFL, O_NONBLOCK);
    char byte = 0;
    while (::read(stop.fd(), &byte, 1) != 1) {
      for (int i = 0; i < 1000; ++i) {
        IOB_CHECK(window_.WriteOnce<uint64_t>(16, kMax).ok());
        IOB_CHECK(window_.WriteOnce<uint64_t>(16, 0).ok());
      }
    }
  });
  uint64_t zeros = 0;
  uint64_t ones = 0;
  uint64_t torn = 0;
  const Deadline deadline = After(std::chrono::seconds(20));
  while (zeros < 1000 || ones < 1000) {
    if ((zeros + ones) % 4096 == 0 && std::chrono::steady_clock::now() > deadline) break;
    const uint64_t value = window_.ReadOnce<uint64_t>(16).value();
    (value == 0 ? zeros : value == kMax ? ones : torn) += 1;
  }
  stop.Give();
  EXPECT_EQ(torn, 0U);
  EXPECT_GE(std::min(zeros, ones), 1000U);
}

// --- Slices -------------------------------------------------------------------------------------

// An ancestor of this design added the offset of a slice twice: slices read the wrong bytes, and
// were refused before their end.
TEST_F(WindowTest, SlicesReadTheRightBytesUpToTheLast) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{100}, kPage, size_ - 8}) {
    const uint64_t length = size_ - offset;
    const Window slice = SliceOf(window_, offset, length);
    EXPECT_EQ(slice.offset_bytes(), offset);
    EXPECT_EQ(slice.size_bytes(), length);
    EXPECT_EQ(ReadFrom(slice, 0, 8), ReadFrom(window_, offset, 8));
    EXPECT_EQ(ReadFrom(slice, length - 1, 1), ReadFrom(window_, size_ - 1, 1));
    EXPECT_EQ(slice.ReadOnce<uint8_t>(length - 1).value(),
              static_cast<uint8_t>(Pattern(size_ - 1)));
    ExpectInvalid(slice.ReadOnce<uint8_t>(length).status());
  }
}

TEST_F(WindowTest, SlicesOfSlicesAddUp) {
  Window slice = window_;
  uint64_t offset = 0;
  uint64_t length = size_;
  for (const uint64_t step : {uint64_t{1}, uint64_t{10}, kPage, uint64_t{255}}) {
    offset += step;
    length -= step + 3;
    slice = SliceOf(slice, step, length);
    EXPECT_EQ(slice.offset_bytes(), offset);
    EXPECT_EQ(ReadFrom(slice, 0, length), PatternFrom(offset, length));
    EXPECT_THAT(slice.Write(length - 1, Bytes(1, std::byte{0x99})), IsOk());
    EXPECT_EQ(Memory(offset + length - 1, 1).front(), std::byte{0x99});
    EXPECT_THAT(slice.Write(length - 1, PatternFrom(offset + length - 1, 1)), IsOk());
  }
  ExpectUntouched();
}

TEST_F(WindowTest, ASliceStaysInsideItsWindow) {
  const Window slice = SliceOf(window_, kPage, 100);
  ExpectInvalid(slice.Slice(0, 101).status(), "101 bytes at offset 0 leave the window of 100");
  ExpectInvalid(slice.Slice(100, 1).status());
  ExpectInvalid(slice.Slice(1, 100).status());
  ExpectInvalid(slice.Slice(kMax, 2).status());
  ExpectInvalid(slice.Slice(50, kMax).status());
  ExpectInvalid(slice.Slice(kMax - 10, 20).status());
  ExpectInvalid(slice.Slice(0, 0).status(), "no bytes");
  ExpectInvalid(slice.Slice(100, 0).status(), "no bytes");
  ExpectInvalid(Window().Slice(0, 1).status());
  EXPECT_THAT(slice.Slice(99, 1), IsOk());
}

TEST_F(WindowTest, SlicesAndCopiesAlias) {
  const Window slice = SliceOf(window_, 100, 50);
  const Window copy = slice;
  ASSERT_THAT(copy.WriteOnce<uint8_t>(0, 0x77), IsOk());
  EXPECT_EQ(slice.ReadOnce<uint8_t>(0).value(), 0x77);
  EXPECT_EQ(window_.ReadOnce<uint8_t>(100).value(), 0x77);
  EXPECT_EQ(slice.UnsafeData(), window_.UnsafeData() + 100);
  EXPECT_EQ(slice.UnsafeWritableData(), slice.UnsafeData());
}

// --- FillZeros ----------------------------------------------------------------------------------

TEST_F(WindowTest, FillZerosZeroesThatMuch) {
  const Moved filled = window_.FillZeros(kPage - 5, 10);
  EXPECT_THAT(filled.status, IsOk());
  EXPECT_EQ(filled.moved_bytes, 10U);
  EXPECT_EQ(Memory(kPage - 5, 10), Bytes(10));
  EXPECT_EQ(Memory(0, kPage - 5), PatternFrom(0, kPage - 5));
  EXPECT_EQ(Memory(kPage + 5, 100), PatternFrom(kPage + 5, 100));
}

TEST_F(WindowTest, FillZerosOfNothingIsFineAnywhere) {
  for (const uint64_t offset : {uint64_t{0}, size_ - 1, size_, size_ + 1, kMax}) {
    const Moved filled = window_.FillZeros(offset, 0);
    EXPECT_THAT(filled.status, IsOk()) << offset;
    EXPECT_EQ(filled.moved_bytes, 0U);
  }
  EXPECT_TRUE(Window().ReadOnly().size_bytes() == 0);
  ExpectUntouched();
}

TEST_F(WindowTest, FillZerosPastTheEndSaysHowMuchItDid) {
  const Window slice = SliceOf(window_, 100, 50);
  for (const uint64_t length : {uint64_t{31}, uint64_t{1000}, kMax, kMax - 19}) {
    ASSERT_THAT(window_.Write(100, PatternFrom(100, 50)), IsOk());
    const Moved filled = slice.FillZeros(20, length);
    ExpectInvalid(filled.status);
    EXPECT_EQ(filled.moved_bytes, 30U);
    EXPECT_EQ(Memory(120, 30), Bytes(30));
    EXPECT_EQ(Memory(100, 20), PatternFrom(100, 20));
    EXPECT_EQ(Memory(150, 100), PatternFrom(150, 100)) << "beyond the slice";
  }
  for (const uint64_t offset : {uint64_t{50}, uint64_t{51}, kMax}) {
    const Moved filled = slice.FillZeros(offset, 1);
    ExpectInvalid(filled.status);
    EXPECT_EQ(filled.moved_bytes, 0U);
  }
}

// --- Memory that goes ---------------------------------------------------------------------------

TEST_F(WindowTest, FallibleCopiesAreCopies) {
  Bytes bytes(2 * kPage);
  const Moved read = window_.ReadFallible(3, bytes);
  EXPECT_THAT(read.status, IsOk());
  EXPECT_EQ(read.moved_bytes, 2 * kPage);
  EXPECT_EQ(bytes, PatternFrom(3, 2 * kPage));
  const Moved written = window_.WriteFallible(4, bytes);
  EXPECT_THAT(written.status, IsOk());
  EXPECT_EQ(written.moved_bytes, 2 * kPage);
  EXPECT_EQ(Memory(4, 2 * kPage), bytes);
}

TEST_F(WindowTest, AFaultSaysHowMuchWasMoved) {
  // From its third page on the window's memory is a foreign one that has been truncated.
  const GoneMemory gone(2, 0, std::byte{0x5a});
  auto* const third = const_cast<std::byte*>(window_.UnsafeData()) + 2 * kPage;
  ASSERT_NE(::mmap(third, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, gone.fd(), 0),
            MAP_FAILED);
  Bytes bytes(size_ - 10, std::byte{0xee});
  const Moved read = window_.ReadFallible(10, bytes);
  EXPECT_THAT(read.status, StatusIs(StatusCode::kDataLoss, "the memory at offset 8192"));
  EXPECT_EQ(ReasonOf(read.status), kReasonFault);
  EXPECT_EQ(read.moved_bytes, 2 * kPage - 10);
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(2 * kPage - 10),
                         PatternFrom(10, 2 * kPage - 10).begin()));
  EXPECT_EQ(bytes[2 * kPage - 10], std::byte{0xee});

  const Window slice = SliceOf(window_, kPage, 2 * kPage);
  const Moved written = slice.WriteFallible(100, std::span(bytes).first(kPage));
  EXPECT_THAT(written.status, StatusIs(StatusCode::kDataLoss, "3996 of 4096 bytes were moved"));
  EXPECT_EQ(ReasonOf(written.status), kReasonFault);
  EXPECT_EQ(written.moved_bytes, kPage - 100);
  EXPECT_EQ(Memory(kPage + 100, kPage - 100), Bytes(bytes.begin(), bytes.begin() + 3996));
}

// --- Rights -------------------------------------------------------------------------------------

TEST_F(WindowTest, WithoutMapWriteNothingIsWritten) {
  const Window granted = endpoint_->OpenWindow(read_only_).value();
  const Window asked = endpoint_->OpenWindow(raw_, 0, kPage, Prot::kRead).value();
  const Window given_up = SliceOf(window_.ReadOnly(), 5, 100);
  for (const Window& window : {granted, asked, given_up}) {
    EXPECT_FALSE(window.writable());
    EXPECT_THAT(window.ReadOnce<uint8_t>(0), IsOk());
    // Before the range is looked at.
    for (const uint64_t offset : {uint64_t{0}, kMax}) {
      ExpectDenied(window.Write(offset, Bytes(1)), "for reading");
      ExpectDenied(window.WriteOnce<uint64_t>(offset, 1));
      const Moved written = window.WriteFallible(offset, Bytes(1));
      ExpectDenied(written.status);
      EXPECT_EQ(written.moved_bytes, 0U);
      const Moved filled = window.FillZeros(offset, 1);
      ExpectDenied(filled.status);
      EXPECT_EQ(filled.moved_bytes, 0U);
    }
    EXPECT_EQ(window.UnsafeWritableData(), nullptr);
    EXPECT_FALSE(SliceOf(window, 0, 10).writable());
  }
  ExpectUntouched();
}

TEST_F(WindowTest, NoRightNoWindow) {
  ExpectDenied(endpoint_->OpenWindow(unmapped_).status());
  ExpectDenied(endpoint_->OpenWindow(read_only_, 0, 1, kReadWrite).status());
  ExpectDenied(endpoint_->OpenWindow(raw_, 0, 1, Prot::kRead | Prot::kExecute).status());
  const absl::Status unknown = endpoint_->OpenWindow(99).status();
  EXPECT_THAT(unknown, StatusIs(StatusCode::kOutOfRange));
  const absl::Status ring = endpoint_->OpenWindow(ring_).status();
  EXPECT_EQ(ReasonOf(ring), "WRONG_DISCIPLINE");
  ExpectInvalid(endpoint_->OpenWindow(empty_).status(), "no bytes");
}

TEST_F(WindowTest, OpensAnyBytesOfARegion) {
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  for (const Range& range : {Range{1, 1}, Range{kPage - 1, 2}, Range{kPage, kPage},
                             Range{100, 2 * kPage}, Range{size_ - 1, 1}, Range{7, size_ - 7}}) {
    const absl::StatusOr<Window> window =
        endpoint_->OpenWindow(raw_, range.offset, range.length, kReadWrite);
    ASSERT_THAT(window, IsOk()) << range.offset;
    EXPECT_EQ(window->size_bytes(), range.length);
    EXPECT_EQ(window->offset_bytes(), range.offset);
    EXPECT_EQ(ReadFrom(*window, 0, range.length), PatternFrom(range.offset, range.length));
    ExpectInvalid(window->ReadOnce<uint8_t>(range.length).status());
  }
  for (const Range& range : {Range{size_ - 1, 2}, Range{size_, 1}, Range{kMax, 1}, Range{1, kMax},
                             Range{kMax - 5, kMax}, Range{kPage + 1, size_ - kPage}}) {
    const absl::Status refused =
        endpoint_->OpenWindow(raw_, range.offset, range.length, Prot::kRead).status();
    EXPECT_THAT(refused, StatusIs(StatusCode::kOutOfRange, "leave region 0 of 16384"));
    EXPECT_EQ(ReasonOf(refused), "OUT_OF_RANGE");
  }
  ExpectInvalid(endpoint_->OpenWindow(raw_, 5, 0, Prot::kRead).status(), "no bytes");
}

TEST_F(WindowTest, OtherDisciplinesAreSeenAsTheyLie) {
  EXPECT_THAT(endpoint_->OpenWindow(ring_, 0, 16, kReadWrite), IsOk());
  EXPECT_THAT(endpoint_->OpenWindow(ring_, kPage - 8, 16, Prot::kRead), IsOk());
  ExpectDenied(endpoint_->OpenWindow(ring_, kPage - 8, 16, kReadWrite).status(), "sealed");
  EXPECT_THAT(endpoint_->OpenWindow(ids_, 0, 16, Prot::kRead), IsOk());
}

// --- Life ---------------------------------------------------------------------------------------

TEST_F(WindowTest, KeepsItsMemoryWhenEverythingElseIsGone) {
  const Window slice = SliceOf(SliceOf(window_, 10, 1000), 10, 100);
  window_ = Window();
  endpoint_->Close();
  EXPECT_EQ(ReasonOf(endpoint_->OpenWindow(raw_).status()), kReasonDetached);
  endpoint_.reset();
  EXPECT_EQ(ReadFrom(slice, 0, 100), PatternFrom(20, 100));
  EXPECT_THAT(slice.Write(0, Bytes(1, std::byte{9})), IsOk());
  EXPECT_EQ(Memory(20, 1).front(), std::byte{9});
}

TEST_F(WindowTest, OfNoBytesIsHarmless) {
  const Window none;
  EXPECT_EQ(none.size_bytes(), 0U);
  EXPECT_THAT(none.Read(0, {}), IsOk());
  ExpectInvalid(none.ReadOnce<uint8_t>(0).status());
  ExpectDenied(none.FillZeros(0, 0).status);
  EXPECT_EQ(none.UnsafeData(), nullptr);
}

}  // namespace
}  // namespace iob::test
