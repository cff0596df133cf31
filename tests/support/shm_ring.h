// A mediated ring with both of its sides in one process, and the account that the broker keeps of
// it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <utility>

#include "shm/mapping.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"
#include "shm/ring_layout.h"

namespace iob::test {

inline shm::SealedMemfd MakeMemfd(uint64_t size_bytes) {
  return shm::Memfd::Create("iob-test").value().SealSize(size_bytes).value();
}

inline std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text));
}

inline std::string TextOf(std::span<const std::byte> bytes) {
  std::string text(bytes.size(), '\0');
  if (!text.empty()) std::memcpy(text.data(), bytes.data(), bytes.size());
  return text;
}

// Bytes that differ between records and between places in a record.
inline std::string PatternText(uint64_t seed, size_t size) {
  std::string text(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (char& byte : text) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<char>(state >> 56);
  }
  return text;
}

inline shm::MediatedRingWriter MakeWriter(uint64_t capacity_bytes) {
  const auto layout = shm::RingLayout::ForRegion(capacity_bytes + shm::PageBytes()).value();
  return shm::MediatedRingWriter::Create(layout).value();
}

inline shm::MediatedRingReader MakeReader(const shm::MediatedRingWriter& writer) {
  return shm::MediatedRingReader::Map(writer.layout(), writer.head_memfd(), writer.data_memfd())
      .value();
}

// attempted = stored + rejected, by records and by bytes.
inline void ExpectLedgerAddsUp(const shm::Ledger& ledger) {
  EXPECT_EQ(ledger.attempted_records,
            std::accumulate(ledger.rejected_records.begin(), ledger.rejected_records.end(),
                            ledger.stored_records));
  EXPECT_EQ(ledger.attempted_bytes,
            std::accumulate(ledger.rejected_bytes.begin(), ledger.rejected_bytes.end(),
                            ledger.stored_bytes));
}

// The writer with its ledger, as the mediator uses the two.
class CountingWriter {
 public:
  explicit CountingWriter(uint64_t capacity_bytes) : writer_(MakeWriter(capacity_bytes)) {}

  shm::MediatedRingWriter& ring() { return writer_; }
  const shm::Ledger& ledger() const { return ledger_; }

  shm::AppendOutcome Append(uint64_t tag, std::span<const std::byte> payload) {
    const shm::AppendOutcome outcome = writer_.Append(tag, payload);
    switch (outcome) {
      case shm::AppendOutcome::kStored:
        ledger_.CountStored(payload.size());
        break;
      case shm::AppendOutcome::kFull:
        ledger_.CountRejected(shm::LossCause::kFull, payload.size());
        break;
      case shm::AppendOutcome::kIntegrity:
        ledger_.CountRejected(shm::LossCause::kIntegrity, payload.size());
        break;
      case shm::AppendOutcome::kBudget:
        ledger_.CountRejected(shm::LossCause::kBudget, payload.size());
        break;
      case shm::AppendOutcome::kTooLarge:
        ledger_.CountRejected(shm::LossCause::kTooLarge, payload.size());
        break;
    }
    return outcome;
  }
  shm::AppendOutcome Append(uint64_t tag, const std::string& payload) {
    return Append(tag, BytesOf(payload));
  }

  bool Publish() { return writer_.Publish(ledger_); }

  // All identities of the ring and its ledger, now.
  void ExpectAddsUp() {
    ExpectLedgerAddsUp(ledger_);
    const shm::RingOccupancy occupancy = writer_.Occupancy();
    EXPECT_EQ(ledger_.stored_records, occupancy.consumed_records + occupancy.resident_records);
    EXPECT_LE(occupancy.resident_bytes, occupancy.capacity_bytes);
    EXPECT_LE(occupancy.resident_bytes, occupancy.high_water_bytes);
    EXPECT_LE(occupancy.high_water_bytes, occupancy.capacity_bytes);
    EXPECT_EQ(occupancy.resident_bytes % shm::kRecordAlignBytes, 0u);
  }

 private:
  shm::MediatedRingWriter writer_;
  shm::Ledger ledger_;
};

// The HEAD page as a consumer sees it that does what it likes.
class RogueConsumer {
 public:
  explicit RogueConsumer(const shm::MediatedRingWriter& writer)
      : head_section_(shm::Mapping::Map(writer.head_memfd()).value()) {}

  uint64_t head() const { return Load(shm::kHeadOffset); }
  uint64_t tail() const { return Load(shm::kTailOffset); }
  void SetHead(uint64_t value) { Store(shm::kHeadOffset, value); }
  void SetTail(uint64_t value) { Store(shm::kTailOffset, value); }
  void SetWaiting(uint32_t value) {
    head_section_.Word<uint32_t>(shm::kWaitingOffset).StoreRelaxed(value);
  }
  uint32_t waiting() const {
    return head_section_.Word<uint32_t>(shm::kWaitingOffset).LoadRelaxed().ForHintOnly();
  }

 private:
  uint64_t Load(uint64_t offset) const {
    return head_section_.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
  }
  void Store(uint64_t offset, uint64_t value) {
    head_section_.Word<uint64_t>(offset).StoreRelease(value);
  }
  shm::Mapping head_section_;
};

}  // namespace iob::test
