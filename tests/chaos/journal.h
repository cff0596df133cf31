// Journal: what the processes of a round did, in memory that outlives them.
//
// A process that is killed at a random instruction tells nobody how far it got. So each one keeps
// its own account, in an order that leaves no doubt but one:
//
//   writer    begun := n      before the record is handed to the ring
//             fate[n] := f    after the ring has said what became of it
//   reader    log[i] := id    after the record was read, and logged := i + 1
//             releasing := i  before the read records are given back
//             released := i   after
//
// A number that is begun and has no fate may be in the ring or not; a record that is logged and not
// released may be read again by the next reader. Everything else is certain, and is checked.
//
//   J1  Each slot is written by one process, once; only `order` is the driver's.
//   J2  The memory is a memfd that the driver maps and its processes inherit. All of it is touched
//       at the beginning and it is named like a region's, so that neither this test nor another
//       one on the machine takes it for a leak (tests/support/leak_check.h).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/unique_fd.h"

namespace iob::test {

inline constexpr uint32_t kRecordsMax = 16'384;  // Of one writer.
inline constexpr uint32_t kWritersMax = 16;      // In one round, successors included.
inline constexpr uint32_t kReadersMax = 12;      // Followers and successors included.
inline constexpr uint32_t kLogMax = kWritersMax * kRecordsMax;  // Of one reader: all there can be.

enum class Fate : uint8_t {
  kUnknown = 0,
  kStored = 1,     // The ring said so.
  kRejected = 2,   // The ring said so.
  kDiscarded = 3,  // Set before the reservation is given up: the record must never be seen.
  kRefused = 4,    // The call failed: not taken, and not counted by the ring.
};

enum class State : uint32_t {
  kStarting = 0,
  kWorking = 1,
  kLingering = 2,  // Hung up, and still maps its memory.
  kDone = 3,
  kFailed = 4,  // See `problem`.
};

enum class Order : uint32_t {
  kWork = 0,
  kFinish = 1,  // Settle all records, close, exit 0.
  kExit = 2,    // Settle all records, exit 3 without a goodbye.
  kPark = 3,    // Settle all records, then wait to be killed.
  kHangUp = 4,  // End the connection, keep the memory, linger.
};

struct Common {
  std::atomic<uint32_t> order;
  std::atomic<uint32_t> state;
  std::atomic<uint32_t> settled;  // A writer's records all have a fate.
  std::atomic<uint32_t> close_kind;
  std::atomic<int32_t> close_code;
  std::array<char, 512> problem;
};

struct WriterSlot {
  Common common;
  std::atomic<uint32_t> begun;
  std::array<std::atomic<uint8_t>, kRecordsMax> fates;
};

struct ReaderSlot {
  Common common;
  std::atomic<uint32_t> logged;
  std::atomic<uint32_t> releasing;
  std::atomic<uint32_t> released;
  std::atomic<uint64_t> lost;         // That it was told of.
  std::atomic<uint64_t> next_record;  // Where it is, counted from the ring's first; followers.
  std::atomic<uint64_t> first_record;
  std::array<uint64_t, kLogMax> log;  // RecordId.
};

struct Journal {
  std::array<WriterSlot, kWritersMax> writers;
  std::array<ReaderSlot, kReadersMax> readers;
};

constexpr uint64_t RecordId(uint32_t writer, uint32_t number) {
  return uint64_t{writer} << 32 | number;
}

// The journal's memory, mapped.
class JournalMapping {
 public:
  // Of the driver: new memory.
  JournalMapping();
  // Of a process that inherited `fd`.
  explicit JournalMapping(shm::UniqueFd fd);
  JournalMapping(const JournalMapping&) = delete;
  JournalMapping& operator=(const JournalMapping&) = delete;
  ~JournalMapping();

  Journal* operator->() const { return journal_; }
  Journal& operator*() const { return *journal_; }
  int fd() const { return fd_.get(); }
  // For a new round; nobody else may use it.
  void Clear();

 private:
  void Map();
  shm::UniqueFd fd_;
  Journal* journal_ = nullptr;
};

}  // namespace iob::test
