// A broadcast ring and a slot with their sections, and records that can be checked byte by byte.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_layout.h"
#include "shm/broadcast_writer.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/slot_layout.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/support/shm_ring.h"

namespace iob::test {

// The sections of a broadcast ring.
struct Broadcast {
  explicit Broadcast(uint64_t capacity_bytes)
      : layout(shm::BroadcastLayout::ForRegion(capacity_bytes + shm::PageBytes()).value()),
        data(MakeMemfd(layout.data_section_bytes())),
        wait(MakeMemfd(layout.wait_section_bytes())) {}

  shm::BroadcastWriter Writer() const {
    return shm::BroadcastWriter::Map(layout, data, wait).value();
  }
  shm::BroadcastFollower Follower(
      shm::BroadcastFollower::From from = shm::BroadcastFollower::From::kOldest) const {
    return shm::BroadcastFollower::Map(layout, data, wait, from).value();
  }

  shm::BroadcastLayout layout;
  shm::SealedMemfd data;
  shm::SealedMemfd wait;
};

// The record of a sequence number: its tag and every byte follow from it.
inline uint64_t TagOf(uint64_t sequence) { return sequence * 0x9e3779b97f4a7c15 + 1; }
inline std::string PayloadOf(uint64_t sequence, uint64_t payload_bytes_max) {
  return PatternText(sequence, TagOf(sequence) % (payload_bytes_max + 1));
}
inline bool AppendNext(shm::BroadcastWriter& writer, uint64_t payload_bytes_max) {
  const uint64_t sequence = writer.next_sequence();
  return writer.Append(TagOf(sequence), BytesOf(PayloadOf(sequence, payload_bytes_max)));
}

// A follower with a buffer, which checks whatever it gets and keeps its own account (F2).
class CheckingFollower {
 public:
  CheckingFollower(shm::BroadcastFollower follower, uint64_t payload_bytes_max,
                   uint64_t buffer_bytes)
      : follower_(std::move(follower)),
        payload_bytes_max_(payload_bytes_max),
        buffer_(buffer_bytes) {}

  shm::BroadcastFollower& ring() { return follower_; }
  uint64_t received() const { return received_; }
  uint64_t lost() const { return lost_; }

  shm::FollowOutcome Next() {
    shm::Followed followed;
    const uint64_t expected = follower_.next_sequence();
    const shm::FollowOutcome outcome = follower_.Next(buffer_, &followed);
    if (outcome == shm::FollowOutcome::kRecord) {
      ++received_;
      EXPECT_TRUE(followed.sequence == expected || received_ == 1) << "out of order";
      EXPECT_EQ(followed.tag, TagOf(followed.sequence)) << "torn";
      const auto payload = std::span(buffer_).first(followed.payload_bytes);
      EXPECT_EQ(TextOf(payload), PayloadOf(followed.sequence, payload_bytes_max_)) << "torn";
    } else if (outcome == shm::FollowOutcome::kLost) {
      EXPECT_GT(followed.lost_records, 0u);
      EXPECT_EQ(followed.sequence, expected);
      lost_ += followed.lost_records;
    }
    EXPECT_EQ(received_, follower_.received_records());
    EXPECT_EQ(lost_, follower_.lost_records());
    EXPECT_EQ(received_ + lost_, follower_.next_sequence() - follower_.first_sequence());
    return outcome;
  }

  // Until there is nothing more.
  void Drain() {
    shm::FollowOutcome outcome;
    do {
      outcome = Next();
    } while (outcome == shm::FollowOutcome::kRecord || outcome == shm::FollowOutcome::kLost);
    EXPECT_EQ(outcome, shm::FollowOutcome::kEmpty) << follower_.status();
  }

 private:
  shm::BroadcastFollower follower_;
  uint64_t payload_bytes_max_;
  std::vector<std::byte> buffer_;
  uint64_t received_ = 0;
  uint64_t lost_ = 0;
};

// The sections of a slot.
struct Slot {
  explicit Slot(uint64_t value_bytes)
      : layout(shm::SlotLayout::ForValue(value_bytes).value()),
        slot(MakeMemfd(layout.section_bytes())),
        wait(MakeMemfd(layout.wait_section_bytes())) {}

  shm::SlotWriter Writer() const { return shm::SlotWriter::Map(layout, slot, wait).value(); }
  shm::SlotReader Reader() const { return shm::SlotReader::Map(layout, slot, wait).value(); }

  shm::SlotLayout layout;
  shm::SealedMemfd slot;
  shm::SealedMemfd wait;
};

}  // namespace iob::test
