// MediatedRingReader: the consumer's side of a mediated ring.
//
// Records are read in place: DATA is sealed, so nobody but the broker can change them, and the
// broker does not touch what was not released. Records come out in the order of the ring; memory
// goes back to the writer only at Release, so views stay valid until then.
//
//   C1  tail <= next <= head; our positions are private, the shared tail is a copy of ours.
//   C2  A head that moved back, is not 8-aligned or is more than a ring ahead of the tail, and a
//   record
//       that does not fit below head, poison the reader: every later call answers DATA_LOSS.
//   C3  Nothing is dereferenced before its length was checked against C1.
//
// One consumer per ring. Thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// One record, in the ring. Valid until the reader releases it.
struct RecordView {
  uint64_t tag = 0;  // Who wrote it, as the broker stamped it.
  std::span<const std::byte> payload;
};

enum class ReadOutcome { kRecord, kEmpty, kPoisoned };

class MediatedRingReader {
 public:
  // Maps HEAD (for writing) and DATA (for reading) as the consumer and resumes at the shared tail,
  // or at the last tail that the broker accepted if the shared one cannot be.
  static absl::StatusOr<MediatedRingReader> Map(const RingLayout& layout,
                                                const SealedMemfd& head_memfd,
                                                const SealedMemfd& data_memfd);

  // The next record, if there is one.
  ReadOutcome Next(RecordView* ret_record) {
    if (next_ == head_ && !RefreshHead()) [[unlikely]] {
      return poisoned_ ? ReadOutcome::kPoisoned : ReadOutcome::kEmpty;
    }
    const std::byte* const record = records_ + offset_;
    std::array<uint64_t, 2> header;
    std::memcpy(header.data(), record, sizeof(header));
    const uint64_t payload_bytes = header[1];
    if (payload_bytes > kRecordPayloadBytesMax || RecordBytes(payload_bytes) > head_ - next_)
        [[unlikely]] {
      poisoned_ = true;
      return ReadOutcome::kPoisoned;
    }
    *ret_record = {.tag = header[0], .payload = {record + kRecordHeaderBytes, payload_bytes}};
    const uint64_t record_bytes = RecordBytes(payload_bytes);
    next_ += record_bytes;
    offset_ += record_bytes;
    if (offset_ >= capacity_) offset_ -= capacity_;
    return ReadOutcome::kRecord;
  }

  // Gives everything that Next returned back to the writer; views die. Returns true when a writer
  // waits for room and there is enough of it now: then the broker must be told
  // (ClientPacket.room_made).
  bool Release();

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

  // Records may be there: one look, without taking anything.
  bool HasRecords();

  // Before sleeping: says how to be woken (kWaitingOnFutex, kWaitingOnSocket), then looks once
  // more. True when nothing is there, so that sleeping is right; the flags stay until ClearWaiting.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The word to sleep on: the low half of head as last seen.
  FutexWord HeadWord() const;

  // What the broker counted, as of its last publish.
  struct LedgerMirror {
    uint64_t stored_records = 0;
    uint64_t stored_bytes = 0;
    uint64_t rejected_records = 0;
    uint64_t rejected_bytes = 0;
  };
  LedgerMirror ledger() const;

 private:
  MediatedRingReader(AddressRange range, uint64_t page_bytes, uint64_t capacity_bytes,
                     uint64_t tail);

  bool RefreshHead();
  SharedAtomic<uint64_t>& HeadPageWord(uint64_t offset_bytes) const;
  template <SharedWord T>
  const SharedAtomic<T>& LedgerWord(uint64_t offset_bytes) const;

  // [HEAD page, writable][records][records again][ledger page]
  AddressRange range_;
  const std::byte* records_;
  const std::byte* ledger_page_;
  uint64_t capacity_;
  uint64_t tail_;    // Released.
  uint64_t next_;    // Next to return.
  uint64_t offset_;  // next_ % capacity_.
  uint64_t head_;    // As last seen and checked.
  bool poisoned_ = false;
};

}  // namespace iob::shm
