// SlotWriter and SlotReader: the latest value of something, for any number of readers.
//
//     writer.Write(bytes);                                        // ep1
//
//     iob::SlotCopy value;                                       // ep0, any number of them
//     while (*reader.Wait(iob::After(1s)) == iob::WaitOutcome::kRecords) {
//       if (*reader.TryRead(&value)) Use(value.bytes, value.version);
//     }
//
// Values have versions, 1 for the first ever written, over all writers that the slot ever had.
// Who reads rarely misses versions, and never reads an old one.
//
//   S1  A value is given out whole, as it was written, or not at all, also if the writer was killed
//       while it wrote: then the one before stays, and a successor writes the next version.
//   S2  Versions never go back for one reader.
//   S3  The writer never waits for a reader. A reader that is overtaken again and again while it
//       copies gives up for now (UNAVAILABLE / BUSY).
//   S4  Shared words that cannot be poison a reader: DATA_LOSS / INTEGRITY from then on.
//   S5  Nothing waits without a deadline.
//
// Both keep their memory mapped until they are destroyed, also when their Endpoint is closed first.
// Thread-compatible, together with their Endpoint and everything else opened from that. A forked
// child shares the mapping, and must not use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "shm/waiter.h"

namespace iob {

class Connection;
struct GrantedRegion;

using shm::SlotOutcome;
using shm::SlotValue;

class SlotWriter {
 public:
  SlotWriter(SlotWriter&& other) noexcept = default;
  SlotWriter& operator=(SlotWriter&& other) noexcept = default;

  uint32_t region_index() const { return region_index_; }
  // What the slot was made for.
  uint64_t value_bytes_max() const { return value_bytes_max_; }
  // Of the latest value; 0: none was ever written.
  uint64_t version() const { return slot_.version(); }

  // Makes `value` the latest, visible at once, and wakes readers that sleep.
  //   INVALID_ARGUMENT  more than value_bytes_max()
  absl::Status Write(std::span<const std::byte> value);

 private:
  friend class Endpoint;
  static absl::StatusOr<SlotWriter> Open(const GrantedRegion& region,
                                         std::shared_ptr<Connection> connection,
                                         std::shared_ptr<void> claim);
  SlotWriter(shm::SlotWriter slot, const GrantedRegion& region,
             std::shared_ptr<Connection> connection, std::shared_ptr<void> claim);

  shm::SlotWriter slot_;
  uint32_t region_index_;
  uint64_t value_bytes_max_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // The endpoint lends one per slot.
};

// A value of one's own, see TryRead.
struct SlotCopy {
  uint64_t version = 0;
  std::vector<std::byte> bytes;
};

class SlotReader {
 public:
  SlotReader(SlotReader&& other) noexcept = default;
  SlotReader& operator=(SlotReader&& other) noexcept = default;

  uint32_t region_index() const { return region_index_; }
  // What the slot was made for: a buffer of that size is never too small for an honest writer.
  uint64_t value_bytes_max() const { return value_bytes_max_; }

  // The latest value into the front of `buffer`, also if it was read before, or what happened
  // instead: see shm::SlotOutcome. Never blocks.
  SlotOutcome Read(std::span<std::byte> buffer, SlotValue* ret_value) {
    return slot_.Read(buffer, ret_value);
  }

  // The latest value as a copy, also if it was read before; keeps the capacity of `ret_copy`. False
  // when none was ever written.
  //   UNAVAILABLE / BUSY     S3: try again
  //   DATA_LOSS / INTEGRITY  S4
  absl::StatusOr<bool> TryRead(SlotCopy* ret_copy);

  // There is a value that was not read yet: one look at memory.
  bool HasNewer() { return slot_.HasNewer(); }

  // Waits for a value that was not read yet (kRecords): spins a little where that has paid off,
  // then sleeps on the version and the signal word. kPeerClosed: there is none, and none will come.
  // Errors as ReserveRingReader::Wait. Never kPeerClosed without the right WAIT.
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline);

  // As ReserveRingReader::ArmFd. All readers of an endpoint hear one packet.
  bool ArmFd();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

  // OK, or why Read says kPoisoned (S4).
  absl::Status status() const;

 private:
  friend class Endpoint;
  struct Waiting;  // The slot, as waiting sees it.

  static absl::StatusOr<SlotReader> Open(const GrantedRegion& region,
                                         std::shared_ptr<Connection> connection);
  SlotReader(shm::SlotReader slot, const GrantedRegion& region,
             std::shared_ptr<Connection> connection);

  shm::SlotReader slot_;
  uint32_t region_index_;
  uint64_t value_bytes_max_;
  std::shared_ptr<Connection> connection_;
  shm::Waiter waiter_;
};

}  // namespace iob
