// One shared reserve ring for fuzzers, and what honest producers put into it.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "shm/reserve_shared_layout.h"
#include "shm/reserve_shared_producer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {

// The sections of a ring of one page, made once.
class SharedRing {
 public:
  SharedRing()
      : layout_(shm::SharedLayout::ForSize(shm::PageBytes()).value()),
        sections_(shm::SharedSections::Create(layout_).value()),
        ctl_(shm::Mapping::Map(sections_.ctl).value()),
        data_(shm::Mapping::Map(sections_.data).value()),
        cons_(shm::Mapping::Map(sections_.cons).value()) {}

  // An empty ring that begins at `position`, a multiple of the granule.
  void Begin(uint64_t position) {
    for (const shm::Mapping* section : {&ctl_, &data_, &cons_}) {
      std::memset(section->base(), 0, section->size_bytes());
    }
    ctl_.Word<uint64_t>(shm::kSharedTail).StoreRelease(position);
    cons_.Word<uint64_t>(shm::kSharedHead).StoreRelease(position);
  }

  const shm::SharedLayout& layout() const { return layout_; }
  const shm::SharedSections& sections() const { return sections_; }

  void GiveTo(Peer& peer, uint64_t start) const {
    const uint64_t slots = layout_.ControlOffset();
    const uint64_t first = slots + layout_.SlotOf(start) * sizeof(uint64_t);
    const uint64_t line = layout_.LedgerOffset(1);
    peer.Owns(ctl_, {shm::kSharedTail, first, shm::kSharedOwed, shm::kSharedWantRoom,
                     shm::kSharedWanted + 8, slots,
                     slots + (layout_.SlotOf(start) + 1) % layout_.slots() * sizeof(uint64_t),
                     line + shm::SharedLedgerLine::kIntent});
    peer.Owns(cons_, {shm::kSharedHead, shm::kSharedWait, shm::kSharedHow,
                      shm::kSharedConsumedRecords, shm::kSharedIntentHead});
    peer.Owns(data_, {});
    peer.Knows({layout_.size_bytes() - 64, layout_.size_bytes(), layout_.size_bytes() + 64,
                shm::SharedLayout::kPositionMax, start, start | 1});
  }

  static uint64_t DecodeSharedStart(Input& input, const shm::SharedLayout& layout) {
    return DecodeStart(input, layout.size_bytes(), shm::SharedLayout::kPositionMax) &
           ~(layout.granule_bytes() - 1);
  }

 private:
  shm::SharedLayout layout_;
  shm::SharedSections sections_;
  shm::Mapping ctl_;
  shm::Mapping data_;
  shm::Mapping cons_;
};

// What one producer holds, and what became of the rest. The payload of a record follows from its
// position.
class SharedJournal {
 public:
  struct Stored {
    uint64_t payload_bytes = 0;
  };

  void Reserved(uint32_t owner, const shm::SharedReservation& reservation) {
    FillPattern(reservation.position, reservation.bytes);
    open_.push_back({owner, reservation});
  }
  uint64_t open() const { return open_.size(); }
  uint64_t open_of(uint32_t owner) const {
    uint64_t count = 0;
    for (const auto& [holder, reservation] : open_) count += holder == owner ? 1 : 0;
    return count;
  }
  std::pair<uint32_t, shm::SharedReservation> TakeOpen(uint64_t index) {
    const auto taken = open_[index];
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(index));
    return taken;
  }
  void Forget(uint32_t owner) {
    std::erase_if(open_, [owner](const auto& held) { return held.first == owner; });
  }
  void NoteStored(const shm::SharedReservation& reservation) {
    stored_[reservation.position] = {.payload_bytes = reservation.bytes.size()};
  }
  uint64_t stored() const { return stored_.size(); }

  // Whether this is the first stored record from `from` on, and none that is open comes before it.
  bool IsNext(uint64_t from, uint64_t position, std::span<const std::byte> payload) const {
    for (const auto& [owner, reservation] : open_) {
      if (reservation.position >= from && reservation.position < position) return false;
    }
    const auto next = stored_.lower_bound(from);
    return next != stored_.end() && next->first == position &&
           next->second.payload_bytes == payload.size() && HasPattern(position, payload);
  }

 private:
  std::vector<std::pair<uint32_t, shm::SharedReservation>> open_;
  std::map<uint64_t, Stored> stored_;
};

}  // namespace iob::fuzz
