// The mediated ring between two processes that sleep and wake each other: nothing lost, nothing
// torn, nobody left asleep. Every wait has a deadline, and reaching one is a failure.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "shm/futex.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

constexpr int64_t kPatienceNs = 20'000'000'000;

struct Sections {
  UniqueFd head;
  UniqueFd data;
};

std::string PayloadOf(uint64_t number) { return test::PatternText(number, number * 37 % 300); }

// A consumer with what a real one has: two descriptors, of which DATA's is read-only.
void Consume(const RingLayout& layout, Sections grants, uint64_t records, test::Turn& room_made) {
  ASSERT_OK_AND_ASSIGN(const SealedMemfd head_memfd,
                       SealedMemfd::Adopt(std::move(grants.head), layout.head_section_bytes(),
                                          /*writers_sealed=*/false));
  ASSERT_OK_AND_ASSIGN(const SealedMemfd data_memfd,
                       SealedMemfd::Adopt(std::move(grants.data), layout.data_section_bytes(),
                                          /*writers_sealed=*/true));
  ASSERT_OK_AND_ASSIGN(MediatedRingReader reader,
                       MediatedRingReader::Map(layout, head_memfd, data_memfd));
  uint64_t number = 0;
  while (number < records) {
    RecordView view;
    while (reader.Next(&view) == ReadOutcome::kRecord) {
      ASSERT_EQ(view.tag, number);
      ASSERT_EQ(test::TextOf(view.payload), PayloadOf(number));
      ++number;
      // Small batches now and then, so that the writer meets every degree of fullness.
      if (number % 7 == 0) break;
    }
    ASSERT_TRUE(reader.status().ok()) << reader.status();
    if (reader.Release()) room_made.Give();
    if (number < records && reader.PrepareToWait(kWaitingOnFutex)) {
      const FutexWord head = reader.HeadWord();
      ASSERT_EQ(FutexWaitAny({&head, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
          << "left asleep at record " << number;
    }
    reader.ClearWaiting();
  }
  EXPECT_FALSE(reader.HasRecords());
}

// Appends, waiting for room as a writer with the policy `block` does.
void AppendOrWait(test::CountingWriter& writer, uint64_t tag, const std::string& payload,
                  const test::Turn& room_made) {
  while (writer.ring().Append(tag, test::BytesOf(payload)) != AppendOutcome::kStored) {
    writer.Publish();
    writer.ring().WantRoom(RecordBytes(payload.size()));
    ASSERT_TRUE(writer.ring().RefreshTail());
    if (writer.ring().Append(tag, test::BytesOf(payload)) == AppendOutcome::kStored) break;
    pollfd poller = {.fd = room_made.fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&poller, 1, static_cast<int>(kPatienceNs / 1'000'000)), 1)
        << "nobody told of room for record " << tag;
    char bytes[64];
    ASSERT_GT(::read(room_made.fd(), bytes, sizeof(bytes)), 0);
  }
  writer.ring().WantRoom(0);
}

class MediatedRingProcesses : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Pages, MediatedRingProcesses, ::testing::Values(1, 3, 16));

TEST_P(MediatedRingProcesses, StreamsEveryRecordInOrderWithoutLosingAWake) {
  constexpr uint64_t kRecords = 100'000;
  test::CountingWriter writer(static_cast<uint64_t>(GetParam()) * PageBytes());
  const RingLayout layout = writer.ring().layout();
  ASSERT_OK_AND_ASSIGN(UniqueFd head, writer.ring().head_memfd().OpenGrant(FdMode::kReadWrite));
  ASSERT_OK_AND_ASSIGN(UniqueFd data, writer.ring().data_memfd().OpenGrant(FdMode::kReadOnly));
  Sections grants{.head = std::move(head), .data = std::move(data)};
  test::Turn room_made;
  test::Child consumer([&] { Consume(layout, std::move(grants), kRecords, room_made); });
  for (uint64_t number = 0; number < kRecords && !HasFatalFailure(); ++number) {
    AppendOrWait(writer, number, PayloadOf(number), room_made);
    if (number % 5 == 0) writer.Publish();
  }
  writer.Publish();
  ASSERT_EQ(consumer.Join(), 0);
  const RingOccupancy occupancy = writer.ring().Occupancy();
  EXPECT_EQ(occupancy.consumed_records, kRecords);
  EXPECT_EQ(occupancy.resident_records, 0u);
  EXPECT_EQ(occupancy.tail_violations, 0u);
}

TEST(MediatedRingProcesses, DoesNotGiveAForkedChildTheReadersMapping) {
  test::CountingWriter writer(PageBytes());
  MediatedRingReader reader = test::MakeReader(writer.ring());
  writer.Append(1, "a");
  writer.Publish();
  test::Child child([&reader] {
    RecordView view;
    reader.Next(&view);  // Faults: there is nothing mapped.
  });
  // A sanitizer turns the signal into an exit status of its own.
  EXPECT_NE(child.Join(), 0);
  RecordView view;
  EXPECT_EQ(reader.Next(&view), ReadOutcome::kRecord);
}

}  // namespace
}  // namespace iob::shm
