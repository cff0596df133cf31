// A lane with both of its sides in one process, and its words as a peer sees them that does what it
// likes.
#pragma once

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "shm/mapping.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_layout.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_ring.h"

namespace iob::test {

// The sections of one lane.
class Lane {
 public:
  explicit Lane(uint64_t capacity_bytes)
      : layout_(shm::LaneLayout::ForCapacity(capacity_bytes).value()),
        sections_(shm::CreateLaneSections(layout_).value()),
        lane_(shm::Mapping::Map(sections_.lane).value()),
        control_(shm::Mapping::Map(sections_.control).value()) {}

  const shm::LaneLayout& layout() const { return layout_; }
  const shm::LaneSections& sections() const { return sections_; }
  uint64_t capacity() const { return layout_.capacity_bytes(); }
  const shm::Mapping& lane_section() const { return lane_; }
  const shm::Mapping& control_section() const { return control_; }

  absl::StatusOr<shm::LaneProducer> TryProducer(const shm::LaneCheckpoint& start = {},
                                                bool stamps = false) const {
    return shm::LaneProducer::Map(layout_, sections_.lane, sections_.control, start,
                                  {.stamps = stamps});
  }
  shm::LaneProducer Producer(const shm::LaneCheckpoint& start = {}, bool stamps = false) const {
    return TryProducer(start, stamps).value();
  }
  absl::StatusOr<shm::LaneConsumer> TryConsumer(bool clears = false, uint32_t lane = 0) const {
    return shm::LaneConsumer::Map(layout_, sections_.lane, sections_.control,
                                  {.clears = clears, .lane = lane});
  }
  shm::LaneConsumer Consumer(bool clears = false, uint32_t lane = 0) const {
    return TryConsumer(clears, lane).value();
  }

  // An empty lane that starts at `position` of the position space instead of 0.
  shm::LaneCheckpoint StartAt(uint64_t position) const {
    const shm::LaneCheckpoint start{
        .position = position, .sequence = 0, .discards = 0, .payload_bytes = 0};
    lane_.Word<uint64_t>(shm::kLaneTailOffset).StoreRelease(position);
    control_.Word<uint64_t>(shm::kLaneHeadOffset).StoreRelease(position);
    shm::LaneSlots(control_.base() + shm::kLaneConsumedSlotsOffset).Store(start);
    return start;
  }

  uint64_t tail() const { return Get(lane_, shm::kLaneTailOffset); }
  uint64_t head() const { return Get(control_, shm::kLaneHeadOffset); }
  void SetTail(uint64_t value) { lane_.Word<uint64_t>(shm::kLaneTailOffset).StoreRelease(value); }
  void SetHead(uint64_t value) {
    control_.Word<uint64_t>(shm::kLaneHeadOffset).StoreRelease(value);
  }
  uint32_t waiting() const {
    return control_.Word<uint32_t>(shm::kLaneWaitingOffset).LoadRelaxed().ForHintOnly();
  }
  uint32_t want_room() const {
    return lane_.Word<uint32_t>(shm::kLaneWantRoomOffset).LoadRelaxed().ForHintOnly();
  }

 private:
  static uint64_t Get(const shm::Mapping& section, uint64_t offset) {
    return section.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
  }
  shm::LaneLayout layout_;
  shm::LaneSections sections_;
  shm::Mapping lane_;
  shm::Mapping control_;
};

inline void Fill(const shm::LaneReservation& reservation, const std::string& text) {
  IOB_CHECK(reservation.bytes().size() == text.size());
  if (!text.empty()) std::memcpy(reservation.bytes().data(), text.data(), text.size());
}

// Reserves, writes and submits one record.
inline shm::LaneReserveOutcome Produce(shm::LaneProducer& producer, const std::string& text,
                                       shm::LaneWake wake = shm::LaneWake::kDefault) {
  shm::LaneReservation reservation;
  const shm::LaneReserveOutcome outcome = producer.Reserve(text.size(), &reservation);
  if (outcome != shm::LaneReserveOutcome::kReserved) return outcome;
  Fill(reservation, text);
  producer.Submit(reservation, wake);
  return outcome;
}

inline std::string TextOf(const shm::SharedRecord& record) {
  std::string text(record.payload.size(), '\0');
  record.payload.CopyOut(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// Everything that is there, one after the other, released.
inline std::vector<std::string> Drain(shm::LaneConsumer& consumer) {
  std::vector<std::string> texts;
  shm::SharedRecord record;
  while (consumer.Next(&record) == shm::LaneReadOutcome::kRecord) texts.push_back(TextOf(record));
  consumer.Release();
  return texts;
}

// From here on this system call gets `action` of this process. For children only.
inline void Filter(uint32_t system_call, uint32_t action) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(code), .filter = code};
  IOB_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  IOB_CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

// From here on a futex call kills this process (SIGSYS). For children only.
inline void DenyFutex() { Filter(SYS_futex, SECCOMP_RET_KILL_PROCESS); }

// From here on membarrier fails with `error`. For children only.
inline void RefuseMembarrier(int error) {
  Filter(SYS_membarrier, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error));
}

}  // namespace iob::test
