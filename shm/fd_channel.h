// FdChannel: packets with descriptors over a SOCK_SEQPACKET Unix socket.
//
// What the kernel does and this class makes safe:
//   - Descriptors arrive with MSG_CMSG_CLOEXEC and in UniqueFds, wanted or not: none leaks.
//   - MSG_CTRUNC (more descriptors than asked for, or a full descriptor table) and MSG_TRUNC (a
//     packet longer than the buffer) are told apart from a good packet.
//   - An empty packet and the end of the stream both read as 0 bytes; they are told apart.
//   - Sending never blocks and never raises SIGPIPE; whether a send that found no room is an error
//     is the caller's choice.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/unique_fd.h"

namespace iob::shm {

// Largest packet of the attach protocol.
inline constexpr size_t kPacketBytesMax = 65536;
// Most descriptors the kernel takes in one packet (SCM_MAX_FD).
inline constexpr size_t kPacketFdsMax = 253;

enum class ReceiveOutcome {
  kPacket,      // `size_bytes` bytes, and `fds`.
  kNothing,     // Non-blocking socket: nothing there now.
  kClosed,      // The other side is gone.
  kEmpty,       // A packet without a byte.
  kTooLong,     // Longer than the buffer; its first bytes were read, the rest is gone.
  kFdsDropped,  // The kernel could not deliver all descriptors (surplus, or our table is full).
};

struct Received {
  ReceiveOutcome outcome = ReceiveOutcome::kNothing;
  size_t size_bytes = 0;
  std::vector<UniqueFd> fds;  // Also set for the bad outcomes, to be dropped.
};

class FdChannel {
 public:
  FdChannel() = default;
  explicit FdChannel(UniqueFd socket) : socket_(std::move(socket)) {}

  // Connects to a listening socket by path (at most 107 bytes). UNAVAILABLE when nobody listens.
  static absl::StatusOr<FdChannel> Connect(const std::string& path);

  int fd() const { return socket_.get(); }
  bool valid() const { return socket_.valid(); }
  void Close() { socket_.Close(); }

  // One packet, whole or not at all. UNAVAILABLE when the other side does not take it now (its
  // queue is full, or too many descriptors are in flight); FAILED_PRECONDITION when it is gone.
  absl::Status Send(std::span<const std::byte> packet, std::span<const int> fds = {});

  // Waits up to `deadline_ns` (CLOCK_MONOTONIC) for room, then as Send; DEADLINE_EXCEEDED.
  absl::Status SendBy(std::span<const std::byte> packet, int64_t deadline_ns);

  // One packet into `buffer`, at most `fds_max` descriptors. Never blocks. An error is a socket
  // error.
  absl::StatusOr<Received> Receive(std::span<std::byte> buffer, size_t fds_max);

  // Waits up to `deadline_ns` (CLOCK_MONOTONIC) for a packet or the end, then as Receive.
  absl::StatusOr<Received> ReceiveBy(std::span<std::byte> buffer, size_t fds_max,
                                     int64_t deadline_ns);

 private:
  UniqueFd socket_;
};

}  // namespace iob::shm
