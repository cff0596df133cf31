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
// drain its memory and an IdAllocator read its blobs, while a RingWriter and an allocation answer
// DETACHED. Readers, Windows and MappedRegions keep their memory mapped, so for the broker and the
// peer the endpoint is closed when the last of them is gone. If the process dies instead, the
// broker finds out by itself and says so to the other endpoint.
//
// An endpoint of a handle without the right WAIT is told nothing: it has no signals and no events,
// and its peer seems to live for ever. Everything else works the same.
//
// Calls (SetName, Signal, SignalPeer, IdAllocator::AllocateId) travel on the attach socket with the
// writes of RingWriters, and are answered in order: behind a batch that waits for room in its ring,
// a call waits too. The broker's errors keep their code and reason. Errors of every call, besides
// those listed at each:
//   DEADLINE_EXCEEDED / DEADLINE  no answer in time; whether it was done is not known
//   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED  the connection is over
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
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/acquired_range.h"
#include "client/broadcast.h"
#include "client/endpoint_event.h"
#include "client/id_allocator.h"
#include "client/reserve_ring_reader.h"
#include "client/reserve_ring_writer.h"
#include "client/ring_follower.h"
#include "client/ring_reader.h"
#include "client/ring_writer.h"
#include "client/slot.h"
#include "client/types.h"
#include "client/window.h"
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
  MediatedRingOptions mediated_ring = {};  // Of that discipline, as created.
  ObtainedPlacement placement = {};        // Without shortfalls: see RegionInfo.
};

struct AttachedInfo {
  uint64_t buffer_koid = 0;
  std::string name;  // As it was when this was attached.
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t koid = 0;
  uint64_t peer_koid = 0;
  HandleRights rights;  // Of the handle that was attached.
  std::vector<AttachedRegion> regions;
};

// A window of a region's memory. Valid until destroyed, also after the endpoint was closed, which
// counts as open until then. Unless the region says otherwise, the peer may change every byte at
// any moment: copy what a decision depends on, once, before deciding. A forked child shares the
// mapping.
class MappedRegion {
 public:
  // Where the window begins, in the region.
  uint64_t offset_bytes() const { return offset_bytes_; }
  bool writable() const { return writable_; }
  // Whole pages.
  std::span<const std::byte> bytes() const { return {range_.base(), range_.size_bytes()}; }
  // Empty unless it was mapped for writing.
  std::span<std::byte> writable_bytes() {
    if (!writable_) return {};
    return {range_.base(), range_.size_bytes()};
  }

 private:
  friend class Endpoint;
  MappedRegion(shm::AddressRange range, uint64_t offset_bytes, bool writable)
      : range_(std::move(range)), offset_bytes_(offset_bytes), writable_(writable) {}
  shm::AddressRange range_;
  uint64_t offset_bytes_;
  bool writable_;
};

class Endpoint;

// What WaitSignals saw.
struct ObservedSignals {
  uint32_t signals = 0;    // All that were raised, whether they were waited for or not.
  bool timed_out = false;  // None of those waited for was, until the deadline (ZX_ERR_TIMED_OUT).
};

// One endpoint of WaitMany (zx_wait_item_t).
struct WaitItem {
  const Endpoint* endpoint = nullptr;
  uint32_t signals = 0;   // Any of them ends the wait.
  uint32_t observed = 0;  // Answer: all that were raised, whether they were waited for or not.
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

  // Maps all of a region without a discipline, for writing if this endpoint may, else for reading.
  //   FAILED_PRECONDITION / DETACHED            closed
  //   OUT_OF_RANGE                              no such region
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE    the region has one
  //   PERMISSION_DENIED / ACCESS_DENIED         no map right, in the region or in the handle
  //   INVALID_ARGUMENT                          it has no bytes
  absl::StatusOr<MappedRegion> Map(uint32_t region_index) const;

  // Maps `length_bytes`, rounded up to whole pages, from `offset_bytes` on of any region
  // (zx_vmar_map_iob). Several mappings of the same pages are fine, at once and of any size; each
  // keeps the endpoint from closing. It works also when the peer is closed. The first check that
  // fails is the answer:
  //   FAILED_PRECONDITION / DETACHED     closed
  //   OUT_OF_RANGE                       no such region
  //   PERMISSION_DENIED / ACCESS_DENIED  no map right: neither map bit in the region, or no MAP in
  //                                      the handle
  //   INVALID_ARGUMENT                   `prot` without kRead: what can be written or executed can
  //                                      be read. (Zircon has mappings without any access.)
  //   PERMISSION_DENIED / ACCESS_DENIED  kRead or kWrite without that right in the region and in
  //                                      the handle; kExecute, always
  //   INVALID_ARGUMENT                   other bits in `prot`
  //   INVALID_ARGUMENT                   `offset_bytes` is not a multiple of the page size
  //   OUT_OF_RANGE                       the rounded length overflows, or offset and length do
  //   INVALID_ARGUMENT                   no bytes
  //   OUT_OF_RANGE                       it ends beyond the region. Zircon maps it, and faults when
  //                                      it is touched; here that would be a SIGBUS.
  //   UNAVAILABLE, RESOURCE_EXHAUSTED    the kernel has no room
  // How the disciplines lie in a region:
  //   none            the bytes.
  //   id allocator    header, slots and blobs (shm/id_allocator_layout.h).
  //   mediated ring   the head page, and the records side by side with it, byte for byte Zircon's
  //                   MEDIATED_WRITE_RING_BUFFER. The records are sealed: kWrite is for windows of
  //                   the head page alone, and anything longer answers PERMISSION_DENIED /
  //                   ACCESS_DENIED, after all other checks. Who moves the tail through a mapping
  //                   must not have a RingReader open as well.
  //   others          not in one range: UNIMPLEMENTED / UNSUPPORTED. Open them.
  absl::StatusOr<MappedRegion> Map(uint32_t region_index, uint64_t offset_bytes,
                                   uint64_t length_bytes, Prot prot) const;

  // The same two, seen through a Window, which checks every access. Here `offset_bytes` and
  // `length_bytes` are any bytes of the region: the pages around them are mapped, and the window
  // ends where they end. Errors as Map, but for offsets that are not whole pages.
  absl::StatusOr<Window> OpenWindow(uint32_t region_index) const;
  absl::StatusOr<Window> OpenWindow(uint32_t region_index, uint64_t offset_bytes,
                                    uint64_t length_bytes, Prot prot) const;

  // Bytes of a region without a discipline for this holder alone, or shared with other readers, as
  // long as the answer lives; see acquired_range.h for what that means. The first check that fails
  // is the answer:
  //   FAILED_PRECONDITION / DETACHED            closed
  //   OUT_OF_RANGE                              no such region
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE    the region has one
  //   PERMISSION_DENIED / ACCESS_DENIED         no right to map it for reading; exclusive: for
  //                                             writing
  //   INVALID_ARGUMENT                          no bytes
  //   OUT_OF_RANGE                              it ends beyond the region, or beyond 2^40
  //   PERMISSION_DENIED / RANGE_TAKEN           a part of it is held, exclusively or, if this one
  //                                             shall be exclusive, at all; nothing was taken
  //   UNAVAILABLE, RESOURCE_EXHAUSTED           the kernel has no room
  absl::StatusOr<AcquiredRange> Acquire(uint32_t region_index, uint64_t offset_bytes,
                                        uint64_t length_bytes, RangeMode mode);

  // Who holds which ranges of such a region, by offset, this Endpoint included; at most 1024 of
  // them. What the kernel knows is which bytes are locked and how. Who it is, the holder says
  // itself: its pid, in its own pid namespace; 0 when it says nothing. It is old when it is told.
  //   DETACHED, OUT_OF_RANGE, WRONG_DISCIPLINE, ACCESS_DENIED    as Acquire, for reading
  absl::StatusOr<std::vector<RangeHold>> RangeHolds(uint32_t region_index) const;

  // The consumer of a mediated ring; needs map-read and map-write. Errors as Map, and
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE    the ring overwrites its oldest records, so that
  //                                             they cannot be read in place: OpenFollower
  //   FAILED_PRECONDITION / IN_USE              a reader of this endpoint is open
  //   DATA_LOSS / INTEGRITY                     the ring's positions cannot be
  absl::StatusOr<RingReader> OpenReader(uint32_t region_index);

  // Reads a mediated ring by copying. Any number may follow a ring that was made for followers, and
  // need map-read; the one consumer of a ring that overwrites its oldest records needs map-write
  // too. Errors as OpenReader; WRONG_DISCIPLINE for a ring that was not made for it.
  absl::StatusOr<RingFollower> OpenFollower(uint32_t region_index,
                                            const RingFollowerOptions& options = {});

  // A writer of a mediated ring; needs mediated-write in the region and WRITE in the handle. Errors
  // as Map, and what ended the connection. With TransportChoice::kQueue also
  //   FAILED_PRECONDITION / UNSUPPORTED         the daemon has no queues
  //   INVALID_ARGUMENT                          queue_bytes above the limit
  //   RESOURCE_EXHAUSTED / QUOTA, UNAVAILABLE   there is none for this attachment now
  //   DEADLINE_EXCEEDED / DEADLINE              the broker did not answer in time
  absl::StatusOr<RingWriter> OpenWriter(uint32_t region_index,
                                        const RingWriterOptions& options = {});

  // An id allocator: ids for blobs, blobs for ids. Errors as the first Map; ACCESS_DENIED when this
  // endpoint may neither read it (map-read) nor allocate (map-write, or mediated-write).
  absl::StatusOr<IdAllocator> OpenIdAllocator(uint32_t region_index);

  // The rings without the broker on the path: the endpoint that may map-write produces, the other
  // one consumes. One writer at once, and of a reserve ring one reader; any number of followers and
  // slot readers. Errors of all of them as the first Map, and
  //   PERMISSION_DENIED / ACCESS_DENIED         not this endpoint's role
  //   FAILED_PRECONDITION / IN_USE              a writer, or a reserve ring's reader, is open
  //   DATA_LOSS / INTEGRITY                     the shared words cannot be
  //   UNAVAILABLE, RESOURCE_EXHAUSTED           the kernel has no room
  absl::StatusOr<ReserveRingWriter> OpenReserveWriter(uint32_t region_index);
  // Also INVALID_ARGUMENT for an order by stamp without stamps.
  absl::StatusOr<ReserveRingReader> OpenReserveReader(uint32_t region_index,
                                                      const ReserveReaderOptions& options = {});
  absl::StatusOr<BroadcastWriter> OpenBroadcastWriter(uint32_t region_index);
  absl::StatusOr<BroadcastFollower> OpenBroadcastFollower(uint32_t region_index,
                                                          FollowFrom from = FollowFrom::kOldest);
  absl::StatusOr<SlotWriter> OpenSlotWriter(uint32_t region_index);
  absl::StatusOr<SlotReader> OpenSlotReader(uint32_t region_index);

  // Names the buffer, for both endpoints (ZX_PROP_NAME). Only the first 31 bytes count, as in
  // Zircon; empty: no name. Right: SET_PROPERTY.
  //   INVALID_ARGUMENT                   not printable ASCII, or starts with '#'
  //   PERMISSION_DENIED / ACCESS_DENIED
  //   ALREADY_EXISTS / NAME_TAKEN        another buffer has it
  absl::Status SetName(const std::string& name, Deadline deadline = After(kCallTimeout));

  // Clears, then raises, user signals of this endpoint (zx_object_signal). Right: SIGNAL.
  //   INVALID_ARGUMENT                   a bit outside of kUserSignals
  //   PERMISSION_DENIED / ACCESS_DENIED
  absl::Status Signal(uint32_t clear, uint32_t set, Deadline deadline = After(kCallTimeout));

  // The same for the other endpoint (zx_object_signal_peer). Right: SIGNAL_PEER. Errors as Signal,
  // and
  //   FAILED_PRECONDITION / PEER_CLOSED  the peer has no handle and no attachment left, even if
  //                                      mappings still delay kSignalPeerClosed
  absl::Status SignalPeer(uint32_t clear, uint32_t set, Deadline deadline = After(kCallTimeout));

  // From memory, without a system call: what is raised on this endpoint, kSignalPeerClosed and user
  // signals. 0 without the right WAIT; after Close, as of then.
  uint32_t signals() const;

  // Waits until any of `signals` is raised (zx_object_wait_one); a deadline in the past looks once.
  // A signal that is raised and cleared again before this looks is not seen. What was raised is
  // told also when the connection has ended since.
  //   FAILED_PRECONDITION / DETACHED     closed
  //   PERMISSION_DENIED / ACCESS_DENIED  no WAIT
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED  none is raised, and none will be
  //                                      any more; a lost broker is noticed within half a second
  absl::StatusOr<ObservedSignals> WaitSignals(uint32_t signals, Deadline deadline) const;

  // Waits until any item has any of its signals raised (zx_object_wait_many), and fills `observed`
  // of all of them, also on failure. How many items are satisfied; 0: the deadline passed.
  //   INVALID_ARGUMENT   no item, or one without an endpoint
  //   OUT_OF_RANGE       more than kWaitItemsMax
  //   and as WaitSignals, for the first item that fails; the message says which
  static absl::StatusOr<size_t> WaitMany(std::span<WaitItem> items, Deadline deadline);
  static constexpr size_t kWaitItemsMax = 8;

  // The next event if there is one. Never blocks. Errors: the connection ended (UNAVAILABLE /
  // DISCONNECTED, FAILED_PRECONDITION / REVOKED or DETACHED, or what the broker said), after all
  // events were taken.
  absl::StatusOr<std::optional<Event>> PollEvents();
  // The same, waiting up to `deadline`; nothing when it passes.
  absl::StatusOr<std::optional<Event>> WaitEvent(Deadline deadline);

  // From memory, without a system call: the other endpoint is gone for good, and how. Kind kOpen
  // while it lives, and always without the right WAIT. After Close: as of then.
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
