// The signal page: what the broker tells each endpoint of a buffer, in memory.
//
//   0             128            256           4096
//   +-------------+--------------+-------------+     broker: writes, through a mapping older than
//   | ep0's line  | ep1's line   |    zeros    |             the page's seal
//   +-------------+--------------+-------------+     endpoints: read only, sealed
//
//   line := u32 signals @0 | u32 changes @4 | u32 close_kind @8 | u32 close_code @12
//           | u64 generation @16
//
//   G1  `signals` has Zircon's values: kPeerClosed is never cleared, user signals come and go.
//   G2  close_kind and close_code are stored before kPeerClosed and never change afterwards.
//   G3  `changes` goes up with each change of `signals`, so it is the word to wait on: a signal
//       that is set and cleared again still wakes its waiters.
//
// The writer belongs to the loop thread; readers may be anywhere.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "shm/access.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"

namespace iob::shm {

// ZX_IOB_PEER_CLOSED.
inline constexpr uint32_t kSignalPeerClosed = 1u << 2;

// ZX_USER_SIGNAL_0 to 7.
inline constexpr uint32_t kUserSignals = 0xff000000;

// How an endpoint ended; the values of iob.v1.CloseKind.
enum class CloseKind : uint32_t {
  kOpen = 0,
  kClosed = 1,
  kExited = 2,
  kKilled = 3,
  kRevoked = 4,
  kExpired = 5,
  kDied = 6,
};

struct CloseReason {
  CloseKind kind = CloseKind::kOpen;
  int32_t code = 0;  // Exit status or signal number.

  friend bool operator==(const CloseReason&, const CloseReason&) = default;
};

// Where an endpoint's line starts.
constexpr uint64_t SignalLineOffset(EndpointId endpoint) {
  return endpoint == EndpointId::kEp0 ? 0 : 128;
}

// The broker's side: makes the page and writes it.
class SignalPageWriter {
 public:
  static absl::StatusOr<SignalPageWriter> Create(uint64_t generation);

  const SealedMemfd& memfd() const { return memfd_; }

  // Tells `listener` that its peer is gone, and wakes whoever waits. Only the first reason counts.
  void RaisePeerClosed(EndpointId listener, CloseReason reason);

  // Clears, then raises, user signals of `listener`; other bits are left alone. True, and whoever
  // waits is woken, when that changes anything.
  bool ChangeUserSignals(EndpointId listener, uint32_t clear, uint32_t set);

  uint32_t signals(EndpointId listener) const;

 private:
  void Publish(EndpointId listener, uint32_t signals);

  SignalPageWriter(SealedMemfd memfd, Mapping mapping)
      : memfd_(std::move(memfd)), mapping_(std::move(mapping)) {}

  SealedMemfd memfd_;
  Mapping mapping_;
  uint32_t signals_[2] = {0, 0};
  uint32_t changes_[2] = {0, 0};
};

// An endpoint's view of its own line.
class SignalLine {
 public:
  // INVALID_ARGUMENT when the line does not fit into the page.
  static absl::StatusOr<SignalLine> Map(const SealedMemfd& memfd, uint64_t line_offset_bytes);

  bool peer_closed() const { return (signals() & kSignalPeerClosed) != 0; }

  // Raised now.
  uint32_t signals() const;

  // Why; kind kOpen while the peer lives. Values that the broker would never write read as kDied.
  CloseReason close_reason() const;

  // To be waited on, together with a data word: expect the value read before looking at the
  // signals.
  FutexWord ChangeWord() const;

 private:
  SignalLine(ReadOnlyMapping page, uint64_t offset_bytes)
      : page_(std::move(page)), offset_bytes_(offset_bytes) {}
  ReadOnlyMapping page_;
  uint64_t offset_bytes_;
};

}  // namespace iob::shm
