// What a client does with the memory and the descriptors it was given: scribble over the words it
// may write, and try everything against those it may not.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/hostile/attach/attach_test.h"

namespace iob::test {
namespace {

const std::string kQuarter(1000, 'q');
constexpr uint64_t kQuarterBytes = 1016;

class MemoryTest : public AttachBothWays {
 protected:
  void SetUp() override {
    StartDaemon(GetParam());
    if (!daemon_) return;
    made_ = MakeRingAndMemory();
    consumer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(consumer_->Attach(made_.ep0_ticket), "");
    writer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(writer_->Attach(made_.ep1_ticket), "");
  }
  void TearDown() override {
    consumer_.reset();
    writer_.reset();
    AttachBothWays::TearDown();
  }

  uint32_t Stored(const std::vector<std::string>& records) {
    EXPECT_EQ(writer_->SendWrite(0, records), 0);
    last_ = writer_->ReceiveResult().value_or(v1::WriteResult());
    return last_.stored();
  }
  v1::LossCause FirstLoss() const {
    return last_.lost_size() == 0 ? v1::LOSS_CAUSE_UNSPECIFIED : last_.lost(0).cause();
  }

  MadeBuffer made_;
  std::unique_ptr<RawClient> consumer_;
  std::unique_ptr<RawClient> writer_;
  v1::WriteResult last_;
};

INSTANTIATE_TEST_SUITE_P(Daemon, MemoryTest,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(MemoryTest, ATailThatCannotBeIsRefusedCountedAndForgiven) {
  ASSERT_EQ(Stored(std::vector<std::string>(4, kQuarter)), 4u);
  consumer_->SetTail(0, kQuarterBytes);
  ASSERT_EQ(Stored({kQuarter}), 1u);
  const uint64_t head = 5 * kQuarterBytes;
  uint64_t violations = Stats(made_.koid).tail_violations();
  EXPECT_EQ(violations, 0u);
  uint64_t losses = 0;
  for (const uint64_t tail : {head + 8, uint64_t{0}, kQuarterBytes - 8, kQuarterBytes + 4, head + 1,
                              uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    consumer_->SetTail(0, tail);
    EXPECT_EQ(Stored({kQuarter}), 0u) << "tail " << tail;
    EXPECT_EQ(FirstLoss(), v1::LOSS_CAUSE_INTEGRITY) << "tail " << tail;
    const v1::RingStats stats = Stats(made_.koid);
    EXPECT_EQ(Rejected(stats, v1::LOSS_CAUSE_INTEGRITY), ++losses);
    EXPECT_GT(stats.tail_violations(), violations);
    violations = stats.tail_violations();
    // The last good one stays in force.
    EXPECT_EQ(stats.consumed_records(), 1u);
    ExpectBalanced(stats);
  }
  // A waiting batch is told as well, and does not wait.
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter}, 60'000), 0);
  EXPECT_EQ(writer_->ReceiveResult()->lost(0).cause(), v1::LOSS_CAUSE_INTEGRITY);
  consumer_->SetTail(0, head);
  EXPECT_EQ(Stored(std::vector<std::string>(4, kQuarter)), 4u);
  EXPECT_EQ(Stats(made_.koid).consumed_records(), 5u);
}

TEST_P(MemoryTest, ATailInsideARecordCountsWhatIsWholeBeforeIt) {
  ASSERT_EQ(Stored(std::vector<std::string>(4, kQuarter)), 4u);
  consumer_->SetTail(0, kQuarterBytes + 16);
  const v1::RingStats stats = Stats(made_.koid);
  EXPECT_EQ(stats.consumed_records(), 1u);
  EXPECT_EQ(stats.resident_records(), 3u);
  EXPECT_EQ(stats.tail_violations(), 0u);
  ExpectBalanced(stats);
}

TEST_P(MemoryTest, AScribbledHeadIsOnlyAMirror) {
  ASSERT_EQ(Stored({kQuarter}), 1u);
  for (const uint64_t head : {uint64_t{0}, uint64_t{7}, UINT64_MAX}) {
    consumer_->SetHead(0, head);
    const uint64_t before = Stats(made_.koid).stored_records();
    ASSERT_EQ(Stored({"x"}), 1u);
    EXPECT_EQ(consumer_->Head(0), kQuarterBytes + 24 * before);
  }
  ExpectBalanced(Stats(made_.koid));
}

TEST_P(MemoryTest, AllOfTheHeadPageScribbledStopsNobody) {
  std::memset(consumer_->SectionBytes(0, v1::SECTION_KIND_HEAD), 0xff, 4096);
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(writer_->SendWrite(0, {kQuarter}), 0);
    ASSERT_TRUE(writer_->ReceiveResult().has_value());
  }
  const v1::RingStats stats = Stats(made_.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 100u);
  EXPECT_EQ(stats.stored_records(), 4u);
  EXPECT_TRUE(daemon_->Healthy());
}

// Everything a holder can try on a section that only the broker writes, root though it is here.
void ExpectSealed(int fd, uint64_t size_bytes, uint8_t* mapped) {
  const uint8_t before = mapped[0];
  EXPECT_EQ(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  EXPECT_EQ(::mprotect(mapped, size_bytes, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_LT(::write(fd, "x", 1), 0);
  const shm::UniqueFd reopened(
      ::open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(reopened.valid()) << "root can reopen; what follows would prove nothing";
  const int again = reopened.get();
  EXPECT_EQ(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_LT(::pwrite(again, "x", 1, 0), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_LT(::fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(mapped[0], before);
}

// Nobody changes the size of anything, or the rules for the others.
void ExpectFixed(int fd, uint64_t size_bytes) {
  const shm::UniqueFd reopened(
      ::open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDWR | O_CLOEXEC));
  for (const int attempt : {fd, reopened.get()}) {
    for (const uint64_t size : {uint64_t{0}, size_bytes - 4096, size_bytes + 4096}) {
      EXPECT_LT(::ftruncate(attempt, static_cast<off_t>(size)), 0) << size;
    }
    EXPECT_LT(::fallocate(attempt, 0, 0, static_cast<off_t>(size_bytes + 4096)), 0);
    for (const int seal : {F_SEAL_SEAL, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE}) {
      EXPECT_LT(::fcntl(attempt, F_ADD_SEALS, seal), 0) << "seal " << seal;
      EXPECT_EQ(errno, EPERM);
    }
  }
  EXPECT_EQ(::lseek(fd, 0, SEEK_END), static_cast<off_t>(size_bytes));
}

TEST_P(MemoryTest, WhatOnlyTheBrokerWritesCannotBeWrittenByAnybody) {
  ASSERT_EQ(Stored({kQuarter}), 1u);
  ExpectSealed(consumer_->SectionFd(0, v1::SECTION_KIND_DATA), 2 * 4096,
               consumer_->SectionBytes(0, v1::SECTION_KIND_DATA));
  const uint32_t signal = consumer_->grants().signal().fd_index();
  void* const page =
      ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, consumer_->fds()[signal].get(), 0);
  ASSERT_NE(page, MAP_FAILED);
  ExpectSealed(consumer_->fds()[signal].get(), 4096, static_cast<uint8_t*>(page));
  ::munmap(page, 4096);
  // The broker itself still writes.
  EXPECT_EQ(Stored({kQuarter}), 1u);
}

// A peer with a writable descriptor added F_SEAL_FUTURE_WRITE to plain memory, and the other
// endpoint could not map for writing any more what it had every right to.
TEST_P(MemoryTest, NobodyResizesASectionOrSealsItForOthers) {
  ASSERT_EQ(consumer_->fds().size(), 4u);
  ExpectFixed(consumer_->SectionFd(0, v1::SECTION_KIND_HEAD), 4096);
  ExpectFixed(consumer_->SectionFd(0, v1::SECTION_KIND_DATA), 2 * 4096);
  ExpectFixed(consumer_->SectionFd(1, v1::SECTION_KIND_DATA), 1 << 20);
  ExpectFixed(consumer_->fds()[consumer_->grants().signal().fd_index()].get(), 4096);
  const MadeBuffer made = MakeRingAndMemory();
  RawClient first(attach_path());
  ASSERT_EQ(first.Attach(made.ep0_ticket), "");
  ::fcntl(first.SectionFd(1, v1::SECTION_KIND_DATA), F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
  RawClient second(attach_path());
  EXPECT_EQ(second.Attach(made.ep1_ticket), "");
}

TEST_P(MemoryTest, AHoleInTheHeadPageIsOnlyAnotherScribble) {
  ASSERT_EQ(Stored({kQuarter}), 1u);
  ASSERT_EQ(::fallocate(consumer_->SectionFd(0, v1::SECTION_KIND_HEAD),
                        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
            0);
  EXPECT_EQ(consumer_->Head(0), 0u);
  EXPECT_EQ(Stored({kQuarter}), 1u);
  EXPECT_EQ(consumer_->Head(0), 2 * kQuarterBytes);
  ExpectBalanced(Stats(made_.koid));
}

// A packet's parsed records are memory of the daemon that no quota sees: kept for reuse, the
// largest of each place would add up to hundreds of megabytes for one connection.
TEST(MemoryOfPackets, IsNotKeptFromOnePacketToTheNext) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps freed memory in quarantine";
#endif
  auto daemon = TestDaemon::Start(DaemonKind::kChild);
  ASSERT_NE(daemon, nullptr);
  const auto resident_bytes = [&] {
    std::ifstream file(absl::StrCat("/proc/", daemon->pid(), "/statm"));
    uint64_t size_pages = 0;
    uint64_t resident_pages = 0;
    file >> size_pages >> resident_pages;
    return resident_pages * 4096;
  };
  v1::CreateBufferRequest request = RingRequest(kSmallRing);
  request.add_attach(v1::ENDPOINT_ID_EP1);
  v1::CreateBufferResponse made;
  ASSERT_TRUE(Call(daemon->stub(), &Service::CreateBuffer, request, &made).ok());
  RawClient writer(daemon->attach_path());
  ASSERT_EQ(writer.Attach(made.tickets(0).ticket()), "");
  const uint64_t before = resident_bytes();
  ASSERT_GT(before, 0u);
  for (size_t i = 0; i < 2000; ++i) {
    std::vector<std::string> records(i, "");
    records.push_back(std::string(60'000, 'm'));
    ASSERT_EQ(writer.SendWrite(0, records), 0);
    ASSERT_TRUE(writer.ReceiveResult().has_value());
  }
  const uint64_t after = resident_bytes();
  EXPECT_LT(after, before + (uint64_t{24} << 20)) << "resident bytes " << before << " -> " << after;
  EXPECT_EQ(daemon->Stop(), "");
}

}  // namespace
}  // namespace iob::test
