// One broadcast ring for fuzzers; what is in a record follows from its sequence number.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/broadcast_layout.h"
#include "shm/broadcast_writer.h"
#include "shm/wait_hint.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {

// The sections of a ring of one page, made once.
struct BroadcastRing {
  BroadcastRing()
      : layout(shm::BroadcastLayout::ForRegion(2 * shm::PageBytes()).value()),
        data(layout.data_section_bytes()),
        wait(layout.wait_section_bytes()) {}
  BroadcastRing& Fresh() {
    data.Clear();
    wait.Clear();
    return *this;
  }
  void GiveTo(Peer& peer) const {
    const uint64_t first = layout.page_bytes();
    peer.Owns(data.mapping,
              {shm::kBroadcastHead, shm::kBroadcastOldest, shm::kBroadcastNextSequence,
               shm::kBroadcastOverwrittenRecords, shm::kBroadcastStoredBytes,
               shm::kBroadcastOverwrittenBytes, first, first + 8});
    peer.Owns(wait.mapping, {shm::kWaitHintOffset});
    peer.Knows({layout.capacity_bytes() - 8, layout.capacity_bytes(), layout.capacity_bytes() + 8,
                layout.payload_bytes_max(), layout.payload_bytes_max() + 1});
  }

  static uint64_t TagOf(uint64_t sequence) { return sequence * 0x9e3779b97f4a7c15 + 1; }
  static uint64_t SizeOf(uint64_t sequence) { return TagOf(sequence) % 600; }
  static std::vector<std::byte> PayloadOf(uint64_t sequence) {
    std::vector<std::byte> payload(SizeOf(sequence));
    FillPattern(sequence, payload);
    return payload;
  }
  static bool IsPayloadOf(uint64_t sequence, std::span<const std::byte> payload) {
    return payload.size() == SizeOf(sequence) && HasPattern(sequence, payload);
  }

  shm::BroadcastLayout layout;
  Section data;
  Section wait;
};

}  // namespace iob::fuzz
