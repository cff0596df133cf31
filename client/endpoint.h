// Endpoint: one end of a buffer, held as a live connection, with its memory.
//
//     absl::StatusOr<iob::Endpoint> endpoint = iob::Endpoint::Attach(ticket);
//     absl::StatusOr<iob::RingReader> reader = endpoint->OpenReader(0);
//
// Attach spends a ticket, receives geometry and descriptors, and believes none of it before the
// kernel confirmed it: sizes, seals and access modes are checked, so that no later access can fault
// and nothing that is read in place can change. What the endpoint may do is decided by the broker
// and by which descriptors exist; the checks here only say it early and in words.
//
// Destroying an Endpoint closes it. What was opened from it may outlive it: a RingReader can still
// drain its memory, a RingWriter answers DETACHED. Readers and MappedRegions keep their memory
// mapped, so for the broker and the peer the endpoint is closed when the last of them is gone. If
// the process dies instead, the broker finds out by itself and says so to the other endpoint.
//
// Thread-compatible, together with everything opened from it: one thread at a time. Two threads
// that want to work at once attach twice. After a fork the child must not use it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/endpoint_event.h"
#include "client/ring_reader.h"
#include "client/ring_writer.h"
#include "client/types.h"
#include "shm/mapping.h"

namespace iob {

// A region as the attached endpoint sees it.
struct AttachedRegion {
  uint32_t index = 0;
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  uint64_t size_bytes = 0;
  AccessBits access;  // Own bits in the low four, the peer's in the next four.
  Enforcement enforcement = Enforcement::kUnspecified;  // Of this endpoint's rights.
  uint64_t tag = 0;                                     // Which its records carry.
  uint64_t koid = 0;
};

struct AttachedInfo {
  uint64_t buffer_koid = 0;
  std::string name;
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t koid = 0;
  uint64_t peer_koid = 0;
  std::vector<AttachedRegion> regions;
};

// The memory of a region without a discipline. Valid until destroyed, also after the endpoint was
// closed. Unless the region says otherwise, the peer may change every byte at any moment: copy what
// a decision depends on, once, before deciding.
class MappedRegion {
 public:
  bool writable() const { return std::holds_alternative<shm::Mapping>(mapping_); }
  std::span<const std::byte> bytes() const;
  // Empty when the endpoint may not map the region for writing.
  std::span<std::byte> writable_bytes();

 private:
  friend class Endpoint;
  explicit MappedRegion(std::variant<shm::Mapping, shm::ReadOnlyMapping> mapping)
      : mapping_(std::move(mapping)) {}
  std::variant<shm::Mapping, shm::ReadOnlyMapping> mapping_;
};

struct AttachOptions {
  // For the whole handshake.
  std::chrono::milliseconds timeout{5'000};
};

class Endpoint {
 public:
  // Spends `ticket`.
  //   UNAVAILABLE / DISCONNECTED   nobody listens on the ticket's socket, or the broker hung up
  //   UNAUTHENTICATED / BAD_HANDLE unknown, spent, expired or somebody else's ticket (no oracle)
  //   DEADLINE_EXCEEDED / DEADLINE the broker said nothing in time
  //   FAILED_PRECONDITION / ENFORCEMENT  a region requires more than this process can be held to
  //   DATA_LOSS / PROTOCOL, INTEGRITY    the broker's answer contradicts itself or the kernel
  //   RESOURCE_EXHAUSTED           this process has no room for the descriptors
  static absl::StatusOr<Endpoint> Attach(const Ticket& ticket, const AttachOptions& options = {});

  Endpoint(Endpoint&& other) noexcept;
  Endpoint& operator=(Endpoint&& other) noexcept;
  ~Endpoint();

  const AttachedInfo& info() const;

  // Maps a region without a discipline, for writing if this endpoint may, else for reading.
  //   OUT_OF_RANGE                              no such region
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE    the region has one
  //   PERMISSION_DENIED / ACCESS_DENIED         no map right, in the region or in the handle
  //   FAILED_PRECONDITION / DETACHED            closed
  absl::StatusOr<MappedRegion> Map(uint32_t region_index) const;

  // The consumer of a mediated ring; needs map-read and map-write. Errors as Map, and
  //   FAILED_PRECONDITION / IN_USE              a reader of this endpoint is open
  //   DATA_LOSS / INTEGRITY                     the ring's positions cannot be
  absl::StatusOr<RingReader> OpenReader(uint32_t region_index);

  // A writer of a mediated ring; needs mediated-write. Errors as Map. The broker checks the right
  // (the handle's too) at the first write.
  absl::StatusOr<RingWriter> OpenWriter(uint32_t region_index,
                                        const RingWriterOptions& options = {});

  // The next event if there is one. Never blocks. Errors: the connection ended (UNAVAILABLE /
  // DISCONNECTED, FAILED_PRECONDITION / REVOKED or DETACHED, or what the broker said), after all
  // events were taken.
  absl::StatusOr<std::optional<Event>> PollEvents();
  // The same, waiting up to `deadline`; nothing when it passes.
  absl::StatusOr<std::optional<Event>> WaitEvent(Deadline deadline);

  // From memory, without a system call: the other endpoint is gone for good, and how. Kind kOpen
  // while it lives. After Close: as of then.
  bool peer_closed() const;
  CloseReason close_reason() const;

  // The attach socket, to poll for reading: readable means PollEvents. -1 when closed.
  int fd() const;

  // Says goodbye, so that the peer is told `closed`, and closes: connection, descriptors and signal
  // page go. Idempotent.
  void Close();

 private:
  class Impl;
  explicit Endpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace iob
