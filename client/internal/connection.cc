#include "client/internal/connection.h"

#include <poll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "google/protobuf/arena.h"
#include "shm/result.h"

namespace iob {
namespace {

using shm::ReceiveOutcome;

// Per Pump; a broker that sends without end does not keep its client from its own work.
constexpr int kPacketsPerPump = 256;
// A packet of the usual size is parsed in here, without the heap.
constexpr size_t kArenaBytes = 4096;
constexpr size_t kFdsMax = std::max(kQueueFds, kRingFds);

google::protobuf::ArenaOptions ArenaIn(std::span<char> block) {
  google::protobuf::ArenaOptions options;
  options.initial_block = block.data();
  options.initial_block_size = block.size();
  return options;
}

CloseReason ToCloseReason(const v1::CloseReason& reason) {
  const int kind = static_cast<int>(reason.kind());
  const bool known =
      kind >= static_cast<int>(CloseKind::kClosed) && kind <= static_cast<int>(CloseKind::kDied);
  return {.kind = known ? static_cast<CloseKind>(kind) : CloseKind::kDied, .code = reason.code()};
}

v1::ClientPacket NoticePacket(Connection::Notice notice, uint32_t region_index) {
  v1::ClientPacket packet;
  switch (notice) {
    case Connection::Notice::kRoomMade:
      packet.mutable_room_made()->set_region_index(region_index);
      break;
    case Connection::Notice::kKick:
      packet.mutable_kick()->set_region_index(region_index);
      break;
    case Connection::Notice::kStalled:
      packet.mutable_stalled()->set_region_index(region_index);
      break;
  }
  return packet;
}

}  // namespace

bool Connection::CarriesDescriptors(AnswerKind kind) {
  return kind == AnswerKind::kQueueGrant || kind == AnswerKind::kRingGrant;
}

struct Connection::Scratch {
  std::unique_ptr<std::byte[]> memory =
      std::make_unique_for_overwrite<std::byte[]>(shm::kPacketBytesMax);
  std::span<std::byte> packet{memory.get(), shm::kPacketBytesMax};
  std::array<char, kArenaBytes> block;
  google::protobuf::Arena arena{ArenaIn(block)};
  const v1::BrokerPacket* parsed = nullptr;  // In the arena.
  std::vector<shm::UniqueFd> fds;            // Of the packet.
  bool fds_dropped = false;                  // There were more than could be received.
  std::vector<BatchLoss> losses;
};

Connection::Connection(shm::FdChannel channel, std::optional<shm::SignalLine> signal)
    : channel_(std::move(channel)),
      signal_(std::move(signal)),
      scratch_(std::make_unique<Scratch>()) {
  events_.reserve(kRegionsMax + 3);
}

Connection::~Connection() { Close(); }

std::optional<shm::FutexWord> Connection::ChangeWord() const {
  if (!signal_) return std::nullopt;
  return signal_->ChangeWord();
}

void Connection::Pump() {
  SendOwedNotices();
  for (int i = 0; i < kPacketsPerPump && status_.ok(); ++i) {
    absl::StatusOr<shm::Received> received =
        channel_.Receive(scratch_->packet, grants_awaited_ == 0 ? 0 : kFdsMax);
    if (!received.ok()) return Fail(DisconnectedError(std::string(received.status().message())));
    if (received->outcome == ReceiveOutcome::kNothing) return;
    Take(std::move(*received));
  }
}

void Connection::Take(shm::Received received) {
  switch (received.outcome) {
    case ReceiveOutcome::kNothing:
      return;
    case ReceiveOutcome::kFdsDropped:
      if (grants_awaited_ == 0) {
        return Fail(ProtocolError("descriptors where none belong"));
      }
      [[fallthrough]];
    case ReceiveOutcome::kPacket:
      scratch_->fds_dropped = received.outcome == ReceiveOutcome::kFdsDropped;
      scratch_->fds = std::move(received.fds);
      Dispatch(scratch_->packet.first(received.size_bytes));
      scratch_->fds.clear();
      return;
    case ReceiveOutcome::kClosed:
      return Fail(DisconnectedError("the broker closed the connection"));
    case ReceiveOutcome::kEmpty:
      return Fail(ProtocolError("an empty packet"));
    case ReceiveOutcome::kTooLong:
      return Fail(ProtocolError("a packet over 65536 bytes"));
  }
}

absl::Status Connection::AwaitSocket(short events, Deadline deadline) {
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    const auto left_ms = std::clamp<int64_t>(left.count(), 0, 1'000'000'000);
    pollfd poller = {.fd = channel_.fd(), .events = events, .revents = 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(left_ms));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return shm::ErrnoStatus(errno, "poll of the attach socket");
    if (ready == 0 && left_ms == 0) {
      return WithReason(absl::DeadlineExceededError("the broker did not answer in time"),
                        "DEADLINE");
    }
  }
}

absl::Status Connection::PumpBy(Deadline deadline) {
  if (!status_.ok()) return status_;
  IOB_RETURN_IF_ERROR(AwaitSocket(POLLIN, deadline));
  Pump();
  return status_;
}

absl::Status Connection::SendBatch(std::span<const std::byte> packet,
                                   std::shared_ptr<ResultSink> sink, Deadline deadline) {
  return Send(packet, {.kind = AnswerKind::kWriteResult, .batch = std::move(sink), .call = nullptr},
              deadline);
}

absl::Status Connection::Call(const v1::ClientPacket& packet, Deadline deadline) {
  return AwaitCall(packet, AnswerKind::kCallResult, deadline).status();
}

absl::StatusOr<uint32_t> Connection::CallForId(const v1::ClientPacket& packet, Deadline deadline) {
  IOB_ASSIGN_OR_RETURN(const std::shared_ptr<PendingCall> call,
                       AwaitCall(packet, AnswerKind::kAllocateIdResult, deadline));
  return call->id;
}

absl::StatusOr<QueueSections> Connection::CallForQueue(const v1::ClientPacket& packet,
                                                       Deadline deadline) {
  IOB_ASSIGN_OR_RETURN(const std::shared_ptr<PendingCall> call,
                       AwaitCall(packet, AnswerKind::kQueueGrant, deadline));
  return std::move(*call->queue);
}

absl::StatusOr<DirectGrant> Connection::CallForRing(const v1::ClientPacket& packet,
                                                    uint32_t region_index, RegionRights rights,
                                                    Deadline deadline) {
  const auto call = std::make_shared<PendingCall>();
  call->region_index = region_index;
  call->rights = rights;
  IOB_RETURN_IF_ERROR(Await(packet, AnswerKind::kRingGrant, call, deadline));
  return std::move(*call->ring);
}

absl::StatusOr<std::shared_ptr<Connection::PendingCall>> Connection::AwaitCall(
    const v1::ClientPacket& packet, AnswerKind kind, Deadline deadline) {
  auto call = std::make_shared<PendingCall>();
  IOB_RETURN_IF_ERROR(Await(packet, kind, call, deadline));
  return call;
}

absl::Status Connection::Await(const v1::ClientPacket& packet, AnswerKind kind,
                               const std::shared_ptr<PendingCall>& call, Deadline deadline) {
  IOB_RETURN_IF_ERROR(
      Send(AsBytes(Encode(packet)), {.kind = kind, .batch = nullptr, .call = call}, deadline));
  while (!call->answered) {
    const absl::Status pumped = PumpBy(deadline);
    // The answer may have come together with the end of the connection.
    if (!call->answered) IOB_RETURN_IF_ERROR(pumped);
  }
  return call->status;
}

absl::Status Connection::Send(std::span<const std::byte> packet, Unanswered unanswered,
                              Deadline deadline) {
  Pump();
  while (status_.ok()) {
    if (unanswered_count_ == kWindow) {
      IOB_RETURN_IF_ERROR(PumpBy(deadline));
      continue;
    }
    const absl::Status sent = channel_.Send(packet);
    if (sent.ok()) {
      if (CarriesDescriptors(unanswered.kind)) grants_awaited_ += 1;
      unanswered_[(unanswered_first_ + unanswered_count_) % kWindow] = std::move(unanswered);
      unanswered_count_ += 1;
      return sent;
    }
    if (!absl::IsUnavailable(sent)) {
      // The broker's reason, if it left one, is among what it sent last.
      Pump();
      if (status_.ok()) Fail(DisconnectedError(std::string(sent.message())));
      break;
    }
    // Also for input: the broker may need its answers read before it takes more.
    IOB_RETURN_IF_ERROR(AwaitSocket(POLLIN | POLLOUT, deadline));
    Pump();
  }
  return status_;
}

void Connection::SendNotice(Notice notice, uint32_t region_index) {
  owed_[static_cast<size_t>(notice)] |= uint64_t{1} << region_index;
  SendOwedNotices();
}

void Connection::SendOwedNotices() {
  for (size_t i = 0; i < kNotices; ++i) {
    uint64_t& owed = owed_[i];
    while (owed != 0 && status_.ok()) {
      const v1::ClientPacket packet =
          NoticePacket(static_cast<Notice>(i), static_cast<uint32_t>(std::countr_zero(owed)));
      // A full socket keeps the debt; a broken one is found by the next receive.
      if (!channel_.Send(AsBytes(Encode(packet))).ok()) return;
      owed &= owed - 1;
    }
  }
}

void Connection::Dispatch(std::span<const std::byte> packet) {
  scratch_->arena.Reset();
  auto* const parsed = google::protobuf::Arena::CreateMessage<v1::BrokerPacket>(&scratch_->arena);
  if (!parsed->ParseFromArray(packet.data(), static_cast<int>(packet.size()))) {
    return Fail(ProtocolError("a packet that cannot be parsed"));
  }
  scratch_->parsed = parsed;
  if ((!scratch_->fds.empty() || scratch_->fds_dropped) && !parsed->has_queue_grant() &&
      !parsed->has_ring_grant()) {
    return Fail(ProtocolError("descriptors where none belong"));
  }
  switch (parsed->packet_case()) {
    case v1::BrokerPacket::kWriteResult:
      return AnswerOldest(AnswerKind::kWriteResult);
    case v1::BrokerPacket::kAllocateIdResult:
      return AnswerOldest(AnswerKind::kAllocateIdResult);
    case v1::BrokerPacket::kCallResult:
      return AnswerOldest(AnswerKind::kCallResult);
    case v1::BrokerPacket::kEvent:
      return QueueEvent();
    case v1::BrokerPacket::kError:
      return Fail(ToStatus(parsed->error()));
    case v1::BrokerPacket::kQueueGrant:
      return AnswerOldest(AnswerKind::kQueueGrant);
    case v1::BrokerPacket::kRingGrant:
      return AnswerOldest(AnswerKind::kRingGrant);
    case v1::BrokerPacket::kGrants:
      return Fail(ProtocolError("a second set of grants"));
    case v1::BrokerPacket::kSnapshot:
      return Fail(ProtocolError("a snapshot on an endpoint's connection"));
    case v1::BrokerPacket::PACKET_NOT_SET:
      // From a newer broker: not for us, and it expects no answer.
      return;
  }
}

void Connection::AnswerOldest(AnswerKind kind) {
  if (unanswered_count_ == 0) return Fail(ProtocolError("an answer that nobody waits for"));
  if (unanswered_[unanswered_first_].kind != kind) {
    return Fail(ProtocolError("an answer of another kind than the oldest question"));
  }
  const Unanswered oldest = std::exchange(unanswered_[unanswered_first_], {});
  unanswered_first_ = (unanswered_first_ + 1) % kWindow;
  unanswered_count_ -= 1;
  switch (kind) {
    case AnswerKind::kWriteResult:
      if (absl::Status fits = AcknowledgeBatch(oldest.batch.get()); !fits.ok()) Fail(fits);
      return;
    case AnswerKind::kAllocateIdResult: {
      const v1::AllocateIdResult& result = scratch_->parsed->allocate_id_result();
      oldest.call->answered = true;
      oldest.call->id = result.id();
      if (result.has_failure()) oldest.call->status = FailureOf(result.failure());
      return;
    }
    case AnswerKind::kCallResult:
      oldest.call->answered = true;
      oldest.call->status = ToStatus(scratch_->parsed->call_result());
      return;
    case AnswerKind::kQueueGrant:
      grants_awaited_ -= 1;
      return AnswerGrant(
          scratch_->parsed->queue_grant(),
          [](const auto& grant, auto fds) { return VerifyQueue(grant, std::move(fds)); },
          oldest.call.get(), &oldest.call->queue);
    case AnswerKind::kRingGrant:
      grants_awaited_ -= 1;
      return AnswerGrant(
          scratch_->parsed->ring_grant(),
          [&call = *oldest.call](const auto& grant, auto fds) {
            return VerifyRing(grant, call.region_index, call.rights, std::move(fds));
          },
          oldest.call.get(), &oldest.call->ring);
  }
}

template <typename Grant, typename Verify, typename Result>
void Connection::AnswerGrant(const Grant& grant, Verify verify, PendingCall* call,
                             std::optional<Result>* ret_result) {
  call->answered = true;
  if (grant.has_failure()) {
    call->status = FailureOf(grant.failure());
    return;
  }
  if (scratch_->fds_dropped) {
    call->status = absl::ResourceExhaustedError(
        "not all descriptors could be received: raise this process's limit of open files "
        "(RLIMIT_NOFILE)");
    return;
  }
  absl::StatusOr<Result> verified = verify(grant, std::move(scratch_->fds));
  if (verified.ok()) {
    ret_result->emplace(std::move(*verified));
    return;
  }
  call->status = verified.status();
  // Who grants what cannot be is not to be believed in anything.
  if (absl::IsDataLoss(verified.status())) Fail(verified.status());
}

absl::Status Connection::AcknowledgeBatch(ResultSink* sink) {
  const v1::WriteResult& result = scratch_->parsed->write_result();
  scratch_->losses.clear();
  for (const v1::RecordLoss& loss : result.lost()) {
    const int cause = static_cast<int>(loss.cause());
    if (cause < static_cast<int>(LossCause::kFull) ||
        cause > static_cast<int>(LossCause::kTooLarge)) {
      return ProtocolError(absl::StrCat("loss cause ", cause));
    }
    scratch_->losses.push_back({.first_index = loss.first_index(),
                                .count = loss.count(),
                                .cause = static_cast<LossCause>(cause)});
  }
  return sink->Acknowledge(result.stored(), scratch_->losses);
}

void Connection::QueueEvent() {
  const v1::Event& event = scratch_->parsed->event();
  switch (event.event_case()) {
    case v1::Event::kPeerClosed:
      if (std::exchange(peer_closed_told_, true)) return;
      events_.push_back({.kind = Event::Kind::kPeerClosed,
                         .reason = ToCloseReason(event.peer_closed().reason())});
      return;
    case v1::Event::kRevoked:
      if (std::exchange(revoked_, true)) return;
      events_.push_back({.kind = Event::Kind::kRevoked, .reason = {}});
      return;
    case v1::Event::kReadable: {
      const uint32_t region_index = event.readable().region_index();
      if (region_index >= kRegionsMax) {
        return Fail(ProtocolError(absl::StrCat("an event of region ", region_index)));
      }
      DropReadable(region_index);
      events_.push_back(
          {.kind = Event::Kind::kReadable, .reason = {}, .region_index = region_index});
      return;
    }
    case v1::Event::kSignaled:
      // Only the latest matters; it takes its place at the end.
      std::erase_if(events_,
                    [](const Event& unread) { return unread.kind == Event::Kind::kSignaled; });
      events_.push_back({.kind = Event::Kind::kSignaled,
                         .reason = {},
                         .region_index = 0,
                         .signals = event.signaled().signals()});
      return;
    case v1::Event::EVENT_NOT_SET:
      return;
  }
}

std::optional<Event> Connection::TakeEvent() {
  if (!events_.empty()) {
    const Event event = events_.front();
    events_.erase(events_.begin());
    return event;
  }
  // The packet may be late, or lost with the connection; memory is not.
  if (!peer_closed_told_ && peer_closed()) {
    peer_closed_told_ = true;
    return Event{.kind = Event::Kind::kPeerClosed, .reason = close_reason()};
  }
  return std::nullopt;
}

void Connection::DropReadable(uint32_t region_index) {
  std::erase_if(events_, [region_index](const Event& event) {
    return event.kind == Event::Kind::kReadable && event.region_index == region_index;
  });
}

void Connection::Fail(absl::Status status) {
  if (!status_.ok()) return;
  // After a revocation the end of the stream is its consequence, not news.
  if (revoked_ && absl::IsUnavailable(status)) {
    status = WithReason(absl::FailedPreconditionError("the buffer was deleted by force"),
                        kReasonRevoked);
  }
  status_ = std::move(status);
  for (Unanswered& unanswered : unanswered_) unanswered = {};
  unanswered_count_ = 0;
  grants_awaited_ = 0;
}

void Connection::Close() {
  if (!channel_.valid()) return;
  // Unread packets at close would reset the connection and overtake the goodbye.
  Pump();
  if (status_.ok()) {
    v1::ClientPacket packet;
    packet.mutable_detach();
    // Best effort: without it the broker finds out by the end of the stream.
    channel_.Send(AsBytes(Encode(packet))).IgnoreError();
  }
  Fail(WithReason(absl::FailedPreconditionError("the endpoint is closed"), kReasonDetached));
  channel_.Close();
  queue_shelf_.Clear();
  signals_at_close_ = signals();
  reason_at_close_ = close_reason();
  signal_.reset();
}

}  // namespace iob
