#include "shm/fd_channel.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// Waits for `events`. OK also on hang-up and error: the next call on the socket says what it is.
absl::Status PollBy(int fd, short events, int64_t deadline_ns) {
  while (true) {
    const int64_t left_ns = deadline_ns - MonotonicNs();
    const int64_t left_ms = std::clamp<int64_t>((left_ns + 999'999) / 1'000'000, 0, 1'000'000'000);
    pollfd poller = {.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(left_ms));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (ready == 0 && left_ms == 0)
      return absl::DeadlineExceededError("the other side did not answer in time");
  }
}

// Nothing more will come: the peer closed or shut down its side, and no bytes are queued.
bool AtEnd(int fd) {
  pollfd poller = {.fd = fd, .events = POLLRDHUP, .revents = 0};
  if (::poll(&poller, 1, 0) <= 0 || (poller.revents & (POLLRDHUP | POLLHUP)) == 0) return false;
  int queued_bytes = 0;
  return ::ioctl(fd, SIOCINQ, &queued_bytes) != 0 || queued_bytes == 0;
}

std::vector<UniqueFd> TakeFds(msghdr* message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

absl::StatusOr<FdChannel> FdChannel::Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path of ", path.size(),
                                                   " bytes, at most ", sizeof(address.sun_path) - 1,
                                                   " are possible: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return ErrnoStatus(errno, "socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("connect ", path, ": ", strerror(errno)));
  }
  return FdChannel(std::move(socket));
}

absl::Status FdChannel::Send(std::span<const std::byte> packet, std::span<const int> fds) {
  if (fds.size() > kPacketFdsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(fds.size(), " descriptors in one packet, at most ", kPacketFdsMax));
  }
  iovec bytes = {.iov_base = const_cast<std::byte*>(packet.data()), .iov_len = packet.size()};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kPacketFdsMax * sizeof(int))];
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  }
  while (::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
      return absl::FailedPreconditionError("the other side closed the connection");
    }
    return ErrnoStatus(errno, "sendmsg");
  }
  return absl::OkStatus();
}

absl::Status FdChannel::SendBy(std::span<const std::byte> packet, int64_t deadline_ns) {
  while (true) {
    const absl::Status sent = Send(packet);
    if (!absl::IsUnavailable(sent)) return sent;
    IOB_RETURN_IF_ERROR(PollBy(socket_.get(), POLLOUT, deadline_ns));
  }
}

absl::StatusOr<Received> FdChannel::Receive(std::span<std::byte> buffer, size_t fds_max) {
  iovec bytes = {.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  // Room for one more than wanted, so that a surplus is seen as such and closed here.
  alignas(cmsghdr) char control[CMSG_SPACE((kPacketFdsMax + 1) * sizeof(int))];
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE((std::min(fds_max, kPacketFdsMax) + 1) * sizeof(int));
  ssize_t size = 0;
  do {
    size = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    // A peer that closed with something of ours unread shows as one ECONNRESET, ahead of what it
    // had sent before; after that the socket reads on, to the end.
  } while (size < 0 && (errno == EINTR || errno == ECONNRESET));
  if (size < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Received{};
    return ErrnoStatus(errno, "recvmsg");
  }
  Received received{.outcome = ReceiveOutcome::kPacket,
                    .size_bytes = static_cast<size_t>(size),
                    .fds = TakeFds(&message)};
  if ((message.msg_flags & MSG_CTRUNC) != 0 || received.fds.size() > fds_max) {
    received.outcome = ReceiveOutcome::kFdsDropped;
  } else if ((message.msg_flags & MSG_TRUNC) != 0) {
    received.outcome = ReceiveOutcome::kTooLong;
  } else if (size == 0 && received.fds.empty()) {
    received.outcome = AtEnd(socket_.get()) ? ReceiveOutcome::kClosed : ReceiveOutcome::kEmpty;
  }
  return received;
}

absl::StatusOr<Received> FdChannel::ReceiveBy(std::span<std::byte> buffer, size_t fds_max,
                                              int64_t deadline_ns) {
  while (true) {
    IOB_ASSIGN_OR_RETURN(Received received, Receive(buffer, fds_max));
    if (received.outcome != ReceiveOutcome::kNothing) return received;
    IOB_RETURN_IF_ERROR(PollBy(socket_.get(), POLLIN, deadline_ns));
  }
}

}  // namespace iob::shm
