// The shared reserve ring's layout: one control word per granule, outside of the payload.
//
//   CTL section: producers and broker write, consumer reads
//     0      64     128         192       256          page               +2 pages (64 x 128 bytes)
//     +------+------+-----------+---------+------------+------------------+---------------------+
//     | tail | owed | want_room | retired | wanted[64] | ledger line [64] | u64 control[size/g.]|
//     +------+------+-----------+---------+------------+------------------+---------------------+
//     u64 tail       where the next claim is tried; swung by whoever sees the claim at it
//     u32 owed       a wake that Wake::kNone left to the next submit
//     u64 want_room  one bit per owner that waits for room; wanted[owner], u32, says how much
//     u32 retired    the broker has made new sections for this ring: see SharedSalvage
//   DATA section: producers write, consumer and broker read; `size` bytes, mapped twice in a row
//   CONS section, one page: consumer writes, producers and broker read
//     0       64       128     192                        256
//     +-------+--------+-------+--------------------------+
//     | head  | wait   | how   | consumed, and its intent |
//     +-------+--------+-------+--------------------------+
//     u64 wait   awaited position | kSharedWaits while the consumer sleeps, and kFenceForMe
//                (light_fence.h); u32 how: kWaitingOnFutex | Socket
//
//   control word of the granule at which a record starts
//     63      54 53            32 31                2 1     0
//     +---------+----------------+-------------------+-------+
//     | owner   | payload bytes  | lap               | state |
//     +---------+----------------+-------------------+-------+
//                                 \__ the futexed half ____/
//
//         claim, by CAS           submit: a store of the owner's
//   old ----------------> BUSY --------------------> COMMIT
//   stamp                  |
//                          +-----------------------> DISCARD
//                            the owner; the broker, when the owner is proven dead
//
// Positions are u64 byte counts, multiples of the granule, that never wrap in practice. The lap of
// position p is p / size + 1; a word with an older lap (or state 0) is an old stamp: unclaimed. As
// the lap lies in the futexed half, that half differs between any two values in a row at a slot.
//
// Why out of band: the consumer cannot clear what it consumed, so stale payload would be mistaken
// for a header if headers lay in the payload. Only protocol words are ever written here.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::shm {

static_assert(std::endian::native == std::endian::little,
              "futexes wait on the low half of a control word");

// Who claims. 0 is the broker; producers have the others.
inline constexpr uint32_t kSharedOwners = 64;

// Bits of a lap as shipped. Tests build rings with a few, to see laps come round.
inline constexpr int kSharedLapBits = 30;

// Offsets in CTL.
inline constexpr uint64_t kSharedTail = 0;
inline constexpr uint64_t kSharedOwed = 64;
inline constexpr uint64_t kSharedWantRoom = 128;
// A line that nobody writes while the ring is in use: to look at it costs nothing.
inline constexpr uint64_t kSharedRetired = 192;
inline constexpr uint64_t kSharedWanted = 256;

// Values of `retired`. From the broker, but every producer could write them: hints, about which the
// broker is asked.
inline constexpr uint32_t kSharedRetiredOpen = 1;  // Producers may still write here.
inline constexpr uint32_t kSharedRetiredOver = 2;  // None is left that could.

// Offsets in CONS.
inline constexpr uint64_t kSharedHead = 0;
inline constexpr uint64_t kSharedWait = 64;
inline constexpr uint64_t kSharedHow = 128;
inline constexpr uint64_t kSharedConsumedRecords = 192;
inline constexpr uint64_t kSharedConsumedBytes = 200;
// What consumed will be once head is intent_head; written first, so that a consumer killed at any
// instruction leaves an exact count.
inline constexpr uint64_t kSharedIntentHead = 208;
inline constexpr uint64_t kSharedIntentRecords = 216;
inline constexpr uint64_t kSharedIntentBytes = 224;
// Once retired: how far the records were taken out, and where whose records wait.
inline constexpr uint64_t kSharedFrontier = 256;
inline constexpr uint64_t kSharedHolds = 264;

// In the wait word beside the position, which leaves these bits free, and kFenceForMe.
inline constexpr uint64_t kSharedWaits = 1;

enum class SlotState : uint32_t { kNever = 0, kBusy = 1, kCommit = 2, kDiscard = 3 };

// One control word, taken apart. Every bit pattern is one; what it says is a claim.
class ControlWord {
 public:
  static constexpr int kPayloadBits = 22;
  static constexpr int kOwnerBits = 10;

  constexpr explicit ControlWord(uint64_t bits) : bits_(bits) {}
  static constexpr ControlWord Make(SlotState state, uint64_t lap, uint64_t payload_bytes,
                                    uint32_t owner) {
    return ControlWord(static_cast<uint64_t>(state) | (lap << 2) | (payload_bytes << 32) |
                       (static_cast<uint64_t>(owner) << (32 + kPayloadBits)));
  }
  // A word that others write: all of its fields are in range by their width.
  static ControlWord Load(const SharedAtomic<uint64_t>& word) {
    return ControlWord(*word.LoadAcquire().Between(0, UINT64_MAX));
  }

  constexpr uint64_t bits() const { return bits_; }
  constexpr uint32_t low_half() const { return static_cast<uint32_t>(bits_); }
  constexpr SlotState state() const { return static_cast<SlotState>(bits_ & 3); }
  constexpr uint64_t lap() const { return (bits_ >> 2) & ((uint64_t{1} << 30) - 1); }
  constexpr uint64_t payload_bytes() const {
    return (bits_ >> 32) & ((uint64_t{1} << kPayloadBits) - 1);
  }
  constexpr uint32_t owner() const { return static_cast<uint32_t>(bits_ >> (32 + kPayloadBits)); }
  constexpr ControlWord With(SlotState state) const {
    return ControlWord((bits_ & ~uint64_t{3}) | static_cast<uint64_t>(state));
  }

 private:
  uint64_t bits_;
};

// Sizes of one ring, checked once; arithmetic on it needs no further checks.
class SharedLayout {
 public:
  static constexpr uint64_t kGranuleBytesDefault = 64;
  static constexpr uint64_t kGranuleBytesMin = 16;
  static constexpr uint64_t kGranuleBytesMax = 4096;
  static constexpr uint64_t kSizeBytesMax = uint64_t{2} << 30;
  static constexpr uint64_t kPayloadBytesMax = (uint64_t{1} << ControlWord::kPayloadBits) - 1;
  // No honest ring gets there; below it no sum of a position and a size overflows.
  static constexpr uint64_t kPositionMax = uint64_t{1} << 62;

  // INVALID_ARGUMENT unless both are powers of two, the size at least a page and the granule in
  // its bounds; OUT_OF_RANGE above kSizeBytesMax.
  static absl::StatusOr<SharedLayout> ForSize(uint64_t size_bytes,
                                              uint64_t granule_bytes = kGranuleBytesDefault);

  uint64_t size_bytes() const { return uint64_t{1} << size_shift_; }
  uint64_t granule_bytes() const { return uint64_t{1} << granule_shift_; }
  uint64_t slots() const { return uint64_t{1} << (size_shift_ - granule_shift_); }
  // The longest record that can be stored.
  uint64_t payload_bytes_max() const {
    return size_bytes() < kPayloadBytesMax ? size_bytes() : kPayloadBytesMax;
  }

  // Ring bytes of a record. Never overflows for a payload within kPayloadBytesMax.
  uint64_t Footprint(uint64_t payload_bytes) const {
    const uint64_t mask = granule_bytes() - 1;
    return payload_bytes == 0 ? granule_bytes() : (payload_bytes + mask) & ~mask;
  }
  uint64_t OffsetOf(uint64_t position) const { return position & (size_bytes() - 1); }
  uint64_t SlotOf(uint64_t position) const { return OffsetOf(position) >> granule_shift_; }
  uint64_t TurnOf(uint64_t position) const { return position >> size_shift_; }

  uint64_t ctl_section_bytes() const { return ControlOffset() + RoundUpToPages(slots() * 8); }
  uint64_t data_section_bytes() const { return size_bytes(); }
  uint64_t cons_section_bytes() const { return page_bytes_; }

  static constexpr uint64_t kLedgerLineBytes = 128;
  uint64_t LedgerOffset(uint32_t owner) const { return page_bytes_ + owner * kLedgerLineBytes; }
  uint64_t ControlOffset() const {
    return page_bytes_ + RoundUpToPages(kSharedOwners * kLedgerLineBytes);
  }

 private:
  SharedLayout(int size_shift, int granule_shift, uint64_t page_bytes)
      : size_shift_(size_shift), granule_shift_(granule_shift), page_bytes_(page_bytes) {}
  int size_shift_;
  int granule_shift_;
  uint64_t page_bytes_;
};

// The lap of a position as control words carry it, and whether a word is of that lap.
template <int kLapBits>
struct SharedLap {
  static_assert(4 <= kLapBits && kLapBits <= kSharedLapBits);
  static constexpr uint64_t kMask = (uint64_t{1} << kLapBits) - 1;

  static uint64_t Of(const SharedLayout& layout, uint64_t position) {
    return (layout.TurnOf(position) + 1) & kMask;
  }
  // The record at `position` is claimed, and `word` says by whom and how long it is.
  static bool Claims(const SharedLayout& layout, uint64_t position, ControlWord word) {
    return word.state() != SlotState::kNever && word.lap() == Of(layout, position);
  }
};

// Where the records of one owner wait in a retired ring, as CONS says; 0 for nowhere.
class SharedHold {
 public:
  static constexpr uint64_t OffsetOf(uint32_t owner) {
    return kSharedHolds + owner * sizeof(uint64_t);
  }
  static constexpr uint64_t BitsFor(std::optional<uint64_t> position) {
    return position ? *position | 1 : 0;
  }
  static SharedHold Load(const SharedAtomic<uint64_t>& word) {
    return SharedHold(*word.LoadAcquire().Between(0, UINT64_MAX));
  }

  uint64_t position() const { return claimed_ & ~uint64_t{1}; }
  // Everything of this owner in [position(), frontier) waits. One that is not below the frontier
  // is of a Release that was cut short, and says nothing.
  bool KeepsFrom(uint64_t head, uint64_t frontier) const {
    return (claimed_ & 1) != 0 && head <= position() && position() < frontier;
  }

 private:
  explicit SharedHold(uint64_t claimed) : claimed_(claimed) {}
  uint64_t claimed_;
};

// The three sections of one ring.
struct SharedSections {
  SealedMemfd ctl;
  SealedMemfd data;
  SealedMemfd cons;

  // Empty, at `first_position`: a multiple of the ring's size, below kPositionMax.
  static absl::StatusOr<SharedSections> Create(const SharedLayout& layout,
                                               uint64_t first_position = 0,
                                               const Placement& placement = {});
  // FAILED_PRECONDITION for sections of other sizes than the layout's.
  absl::Status Match(const SharedLayout& layout) const;
};

// One owner's counters, in CTL. The owner alone writes them; after its death, the broker.
//
//   S1  stored + discarded + recovered + lost + open = reserved; `open` reservations are the BUSY
//       words of the owner.
//   S2  attempted = reserved + full + too_large + integrity. (Of the one refusal that its owner was
//       counting when it was killed, the bytes may be missing; nobody was told of it.)
//   S3  The sum of stored over all owners = consumed + resident, once every dead owner is
//       recovered. Exact, whatever instruction it died at: before a submit, the intent says which
//       word is about to change and what the counters will be then. Whoever settles it looks at
//       the word, and writes the counters that belong to what it finds.
struct SharedLedger {
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  uint64_t discarded_records = 0;
  uint64_t recovered_records = 0;  // Claims of a dead owner that the broker discarded.
  uint64_t lost_records = 0;       // Claims that were no longer there when they were submitted.
  uint64_t full_records = 0;
  uint64_t full_bytes = 0;
  uint64_t too_large_records = 0;
  uint64_t too_large_bytes = 0;
  uint64_t integrity_records = 0;  // Refused for words that cannot be, or that never hold still.
  uint64_t helps = 0;              // Claims of others that it swung the tail over.
  uint64_t retries = 0;
  uint64_t wakes = 0;

  void Add(const SharedLedger& other);
};

// A ledger line as words in CTL.
class SharedLedgerLine {
 public:
  // In the first half what each submit writes, in the second what is rare.
  enum Word : uint64_t {
    kStoredRecords = 0,
    kStoredBytes = 8,
    kIntent = 16,  // position | SlotState of the change that is under way; 0 for none.
    kIntentRecords = 24,
    kIntentBytes = 32,
    kDiscarded = 40,
    kHelps = 48,
    kRetries = 56,
    kFullRecords = 64,
    kFullBytes = 72,
    kTooLargeRecords = 80,
    kTooLargeBytes = 88,
    kIntegrity = 96,
    kRecovered = 104,
    kLost = 112,
    kWakes = 120,
  };

  SharedLedgerLine(const Mapping& ctl, const SharedLayout& layout, uint32_t owner)
      : words_(&ctl.Word<uint64_t>(layout.LedgerOffset(owner))) {}

  void Set(Word word, uint64_t value) { words_[word / 8].StoreRelaxed(value); }
  void SetAfterAll(Word word, uint64_t value) { words_[word / 8].StoreRelease(value); }
  // Counters are only ever added to and shown: any value is one.
  uint64_t Get(Word word) const { return *words_[word / 8].LoadAcquire().Between(0, UINT64_MAX); }
  SharedLedger Read() const;

 private:
  SharedAtomic<uint64_t>* words_;
};

}  // namespace iob::shm
