#include "client/internal/handshake.h"

#include <array>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "iob/v1/attach.pb.h"
#include "shm/result.h"
#include "shm/waiter.h"

namespace iob {
namespace {

using shm::ReceiveOutcome;

constexpr uint32_t kProtocolVersion = 1;
// A full backlog looks like nobody listening, but passes: a few tries tell them apart.
constexpr std::array<std::chrono::milliseconds, 3> kConnectPauses = {
    std::chrono::milliseconds(1), std::chrono::milliseconds(5), std::chrono::milliseconds(20)};

constexpr int64_t kAnswerSpinNs = 100'000;
constexpr int kRelaxesPerLook = 20;

int64_t ToMonotonicNs(Deadline deadline) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
}

absl::StatusOr<shm::FdChannel> Connect(const std::string& path) {
  absl::StatusOr<shm::FdChannel> channel = shm::FdChannel::Connect(path);
  for (const std::chrono::milliseconds pause : kConnectPauses) {
    if (!absl::IsUnavailable(channel.status())) break;
    std::this_thread::sleep_for(pause);
    channel = shm::FdChannel::Connect(path);
  }
  if (absl::IsUnavailable(channel.status())) {
    return DisconnectedError(std::string(channel.status().message()));
  }
  return channel;
}

absl::Status SendRedeem(const Ticket& ticket, shm::FdChannel* channel, Deadline deadline) {
  v1::ClientPacket packet;
  v1::Redeem& redeem = *packet.mutable_redeem();
  redeem.set_ticket(ticket.secret().data(), ticket.secret().size());
  redeem.set_protocol_version(kProtocolVersion);
  return channel->SendBy(AsBytes(Encode(packet)), ToMonotonicNs(deadline));
}

absl::Status NoAnswer(const absl::Status& received) {
  if (absl::IsDeadlineExceeded(received)) {
    return WithReason(absl::DeadlineExceededError("the broker did not answer the ticket in time"),
                      "DEADLINE");
  }
  return DisconnectedError(std::string(received.message()));
}

// Looks for the answer without sleeping for a while: it takes the broker less than a sleep and its
// wake-up cost here. Nothing within that time is an answer too.
absl::StatusOr<shm::Received> SpinForAnswer(shm::FdChannel* channel, std::span<std::byte> buffer) {
  absl::StatusOr<shm::Received> received = channel->Receive(buffer, shm::kPacketFdsMax);
  if (!shm::Waiter::SeveralProcessors()) return received;
  const int64_t end_ns = shm::MonotonicNs() + kAnswerSpinNs;
  while (received.ok() && received->outcome == ReceiveOutcome::kNothing &&
         shm::MonotonicNs() < end_ns) {
    for (int i = 0; i < kRelaxesPerLook; ++i) shm::CpuRelax();
    received = channel->Receive(buffer, shm::kPacketFdsMax);
  }
  return received;
}

// The answer's bytes are in `buffer`.
absl::StatusOr<shm::Received> ReceiveAnswer(shm::FdChannel* channel, std::span<std::byte> buffer,
                                            Deadline deadline) {
  absl::StatusOr<shm::Received> received = SpinForAnswer(channel, buffer);
  if (received.ok() && received->outcome == ReceiveOutcome::kNothing) {
    received = channel->ReceiveBy(buffer, shm::kPacketFdsMax, ToMonotonicNs(deadline));
  }
  if (!received.ok()) return NoAnswer(received.status());
  switch (received->outcome) {
    case ReceiveOutcome::kPacket:
      return received;
    case ReceiveOutcome::kNothing:
    case ReceiveOutcome::kClosed:
      return DisconnectedError("the broker closed the connection instead of answering the ticket");
    case ReceiveOutcome::kEmpty:
      return ProtocolError("an empty packet for an answer");
    case ReceiveOutcome::kTooLong:
      return ProtocolError("an answer over 65536 bytes");
    case ReceiveOutcome::kFdsDropped:
      return absl::ResourceExhaustedError(
          "not all descriptors could be received: raise this process's limit of open files "
          "(RLIMIT_NOFILE)");
  }
  return ProtocolError("an answer of no kind");
}

struct Answer {
  shm::FdChannel channel;
  v1::BrokerPacket packet;
  std::vector<shm::UniqueFd> fds;
};

// What the broker gives for the ticket; its refusal as an error.
absl::StatusOr<Answer> ShowTicket(const Ticket& ticket, Deadline deadline) {
  Answer answer;
  IOB_ASSIGN_OR_RETURN(answer.channel, Connect(ticket.socket_path()));
  // A failure to send is explained by what the broker said before it hung up.
  const absl::Status sent = SendRedeem(ticket, &answer.channel, deadline);
  if (absl::IsDeadlineExceeded(sent)) return NoAnswer(sent);
  const auto memory = std::make_unique_for_overwrite<std::byte[]>(shm::kPacketBytesMax);
  const std::span<std::byte> buffer(memory.get(), shm::kPacketBytesMax);
  IOB_ASSIGN_OR_RETURN(shm::Received received, ReceiveAnswer(&answer.channel, buffer, deadline));
  if (!answer.packet.ParseFromArray(buffer.data(), static_cast<int>(received.size_bytes)))
    return ProtocolError("an answer that cannot be parsed");
  if (answer.packet.has_error()) return ToStatus(answer.packet.error());
  answer.fds = std::move(received.fds);
  return answer;
}

}  // namespace

absl::StatusOr<Handshake> RedeemTicket(const Ticket& ticket, Deadline deadline) {
  IOB_ASSIGN_OR_RETURN(Answer answer, ShowTicket(ticket, deadline));
  if (!answer.packet.has_grants())
    return ProtocolError("an answer that is neither grants nor an error");
  IOB_ASSIGN_OR_RETURN(Grants grants, VerifyGrants(answer.packet.grants(), std::move(answer.fds),
                                                   ticket.endpoint()));
  return Handshake{.channel = std::move(answer.channel), .grants = std::move(grants)};
}

absl::StatusOr<shm::UniqueFd> RedeemSnapshot(const Ticket& ticket, Deadline deadline) {
  IOB_ASSIGN_OR_RETURN(Answer answer, ShowTicket(ticket, deadline));
  if (!answer.packet.has_snapshot() || answer.fds.size() != 1)
    return ProtocolError("an answer that is neither one snapshot nor an error");
  return std::move(answer.fds.front());
}

absl::Status ConfirmMapped(shm::FdChannel* channel) {
  v1::ClientPacket packet;
  packet.mutable_mapped();
  const absl::Status sent = channel->Send(AsBytes(Encode(packet)));
  return sent.ok() ? sent : DisconnectedError(std::string(sent.message()));
}

}  // namespace iob
