// A shared reserve ring with all of its sides in one process.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shm/mapping.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_layout.h"
#include "shm/reserve_shared_producer.h"
#include "shm/reserve_shared_recovery.h"

namespace iob::test {

template <int kLapBits = shm::kSharedLapBits>
class SharedRing {
 public:
  using Producer = shm::BasicSharedProducer<kLapBits>;
  using Consumer = shm::BasicSharedConsumer<kLapBits>;
  using Recovery = shm::BasicSharedRecovery<kLapBits>;

  explicit SharedRing(uint64_t size_bytes, uint64_t granule_bytes = 64)
      : layout_(shm::SharedLayout::ForSize(size_bytes, granule_bytes).value()),
        sections_(shm::SharedSections::Create(layout_).value()),
        broker_(Recovery::Map(layout_, sections_).value()) {}

  const shm::SharedLayout& layout() const { return layout_; }
  const shm::SharedSections& sections() const { return sections_; }
  Recovery& broker() { return broker_; }
  Producer MakeProducer(uint32_t owner, shm::SharedProducerOptions options = {}) const {
    return Producer::Map(layout_, sections_, owner, options).value();
  }
  Consumer MakeConsumer() const { return Consumer::Map(layout_, sections_).value(); }

  // All identities, when nobody is at work and every dead owner is recovered.
  void ExpectAddsUp(uint64_t reserved_records) const {
    const shm::SharedLedger total = broker_.TotalLedger();
    const shm::SharedOccupancy occupancy = broker_.Occupancy();
    EXPECT_TRUE(occupancy.consistent);
    EXPECT_EQ(total.stored_records, occupancy.consumed_records + occupancy.resident_records);
    EXPECT_EQ(total.stored_bytes, occupancy.consumed_bytes + occupancy.resident_bytes);
    EXPECT_EQ(total.stored_records + total.discarded_records + total.recovered_records +
                  total.lost_records + occupancy.busy_records,
              reserved_records);
    EXPECT_LE(occupancy.ring_bytes, layout_.size_bytes());
  }

 private:
  shm::SharedLayout layout_;
  shm::SharedSections sections_;
  Recovery broker_;
};

inline std::string TextOf(const shm::SharedRecord& record) {
  std::string text(record.payload.size(), '\0');
  record.payload.CopyOut(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// Reserves room for `text` and writes it there.
template <typename Producer>
std::optional<shm::SharedReservation> Fill(Producer& producer, const std::string& text) {
  shm::SharedReservation reservation;
  if (producer.Reserve(text.size(), &reservation) != shm::SharedReserveOutcome::kReserved) {
    return std::nullopt;
  }
  if (!text.empty()) std::memcpy(reservation.bytes.data(), text.data(), text.size());
  return reservation;
}

// Stores one record; false when it was refused.
template <typename Producer>
bool Put(Producer& producer, const std::string& text) {
  const auto reservation = Fill(producer, text);
  return reservation && producer.Submit(*reservation).done;
}

// All that is there now, without releasing it.
template <typename Consumer>
std::vector<std::string> Drain(Consumer& consumer) {
  std::vector<std::string> texts;
  shm::SharedRecord record;
  while (consumer.Next(&record) == shm::SharedReadOutcome::kRecord) texts.push_back(TextOf(record));
  return texts;
}

}  // namespace iob::test
