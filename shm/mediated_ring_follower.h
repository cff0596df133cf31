// MediatedRingFollower: reads a mediated ring by copying, so that the writer need not wait for it.
//
// Any number of followers go through the same ring, each with a position of its own that nobody
// else knows. A follower holds nothing back: what it is too slow for is lost to it, and it says
// exactly how much. The same class is the consumer of a ring that overwrites; that one also tells
// the broker its position.
//
//     oldest                  next                         head
//       |  whole, passed by us  |  whole, still to be read  |        oldest <= next: a record
//       next      oldest                                   head
//       |   gone    |              whole                    |        next < oldest: kLost
//
//   F1  received + lost = next - first, in records and in payload bytes, at every step.
//   F2  Copy, then fence, then look at oldest: a copy counts only if oldest had not passed its
//       beginning by then. Until that look, every word of it is garbage that may be anything.
//   F3  Lengths are checked against head and capacity before anything is copied (record_unit.h).
//   F4  Words come from the sealed DATA section alone: no consumer, no other follower can make this
//       one misread. They can keep it asleep until its deadline, no longer.
//   F5  A word of the broker's that cannot be (a head or an oldest that goes back, a record that
//       does not fit below head) poisons for good, like a MediatedRingReader.
//   F6  Every loop is bounded: by kAttemptsMax, or by the records that a ring can hold.
//
// Thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/mediated_ring_reader.h"
#include "shm/memfd.h"
#include "shm/record_unit.h"
#include "shm/ring_layout.h"

namespace iob::shm {

enum class RingFollowOutcome : uint8_t {
  kRecord,
  kEmpty,
  kLost,  // Records were written over before they were read; the next one is there or to come.
  kPoisoned,
};

class MediatedRingFollower {
 public:
  // A follower of a ring made for followers. Maps DATA for reading and FOLLOW for writing, begins
  // with the oldest record that is whole. FAILED_PRECONDITION when options or sizes do not fit.
  static absl::StatusOr<MediatedRingFollower> Follow(const RingLayout& layout,
                                                     const RingOptions& options,
                                                     const SealedMemfd& data_memfd,
                                                     const SealedMemfd& follow_memfd);

  // The consumer of a ring that overwrites. Maps HEAD for writing and DATA for reading; resumes at
  // the shared tail, or at the last one that the broker accepted if that cannot be, or at the
  // oldest record if both are behind it.
  static absl::StatusOr<MediatedRingFollower> Consume(const RingLayout& layout,
                                                      const RingOptions& options,
                                                      const SealedMemfd& head_memfd,
                                                      const SealedMemfd& data_memfd);

  // kRecord: the next record in `ret_record`, with its number even if the ring is not stamped. Its
  // payload is a copy of ours, valid until the next call. kLost: in `ret_record->gap`, what was
  // lost since the last record; once per loss.
  RingFollowOutcome Next(RecordView* ret_record);

  // Consumers only: tells the broker that everything that Next went past has been read.
  void Release();

  struct Account {
    uint64_t received_records = 0;
    uint64_t received_bytes = 0;
    uint64_t lost_records = 0;
    uint64_t lost_bytes = 0;
  };
  const Account& account() const { return account_; }
  // Numbers of the first record that this follower could have read, and of the next one.
  uint64_t first_record() const { return first_record_; }
  uint64_t next_record() const { return next_record_; }

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

  bool HasRecords();

  // Before sleeping: says so, then looks once more. True when nothing is there. A consumer chooses
  // how it is woken (kWaitingOn...); a follower always sleeps on the futex.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The word to sleep on: the low half of head as last seen.
  FutexWord HeadWord() const;

 private:
  static constexpr int kAttemptsMax = 64;

  // A whole unit's position, with what was stored before it.
  struct Window {
    uint64_t position = 0;
    uint64_t records = 0;
    uint64_t bytes = 0;
  };

  MediatedRingFollower(AddressRange range, const RingLayout& layout, const RingOptions& options,
                       bool consuming);
  static absl::StatusOr<MediatedRingFollower> Map(const RingLayout& layout,
                                                  const RingOptions& options,
                                                  const SealedMemfd& own_memfd,
                                                  const SealedMemfd& data_memfd, bool consuming);
  absl::Status Begin();
  absl::Status ResumeAtTail();

  bool RefreshHead();
  std::optional<Window> LoadOldest();
  bool IsStillWhole() const;
  RingFollowOutcome SkipToOldest(RecordLoss* ret_loss);
  void MovePast(const RecordUnit& unit);
  RingFollowOutcome Poison();

  template <SharedWord T>
  SharedAtomic<T>& OwnWord(uint64_t offset_bytes) const {
    return SharedWordAt<T>(own_page_ + offset_bytes);
  }
  const SharedAtomic<uint64_t>& LedgerWord(uint64_t offset_bytes) const {
    return SharedWordAt<uint64_t>(ledger_page_ + offset_bytes);
  }

  // [HEAD or FOLLOW page, writable][records][records again][ledger page]
  AddressRange range_;
  RingOptions options_;
  bool consuming_;
  std::byte* own_page_;
  std::byte* records_;
  const std::byte* ledger_page_;
  uint64_t capacity_;
  std::vector<std::byte> copy_;  // Of the last payload.
  uint64_t next_ = 0;            // Position of the next unit.
  uint64_t next_record_ = 0;     // Its number,
  uint64_t next_bytes_ = 0;      // and the payload bytes that were stored before it.
  uint64_t head_ = 0;            // As last seen and checked.
  uint64_t tail_ = 0;            // Released, by a consumer.
  uint64_t first_record_ = 0;
  Account account_;
  bool poisoned_ = false;
};

}  // namespace iob::shm
