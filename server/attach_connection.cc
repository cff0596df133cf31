#include "server/attach_connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/limits.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;
using shm::LossCause;

constexpr uint32_t kProtocolVersion = 1;
constexpr int kPacketsPerPass = 16;
// How long a process may take from losing its sockets to being dead.
constexpr int64_t kDyingMs = 20;

absl::Status ProtocolError(absl::string_view message) {
  return MakeError(v1::ERROR_REASON_PROTOCOL, message);
}

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// One buffer for all connections of a loop: packets are parsed before the next one is read.
std::span<std::byte> PacketBuffer() {
  static thread_local std::array<std::byte, shm::kPacketBytesMax> buffer;
  return buffer;
}

}  // namespace

absl::Status AttachConnection::Start() {
  interest_ = EPOLLIN | EPOLLRDHUP;
  IOB_ASSIGN_OR_RETURN(watch_, host_.loop().WatchFd(channel_.fd(), interest_,
                                                    [this](uint32_t events) { OnEvents(events); }));
  ArmStepTimer("ticket");
  return absl::OkStatus();
}

void AttachConnection::ArmStepTimer(const char* what) {
  const uint32_t step_ms = host_.registry().limits().attach_step_ms;
  step_timer_ = host_.loop().RunAfterMs(step_ms, [this, what, step_ms] {
    Refuse(ProtocolError(absl::StrCat("no ", what, " within ", step_ms, " ms")));
  });
}

void AttachConnection::OnEvents(uint32_t events) {
  if ((events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0) {
    hung_up_ = true;
    queue_.clear();
    // A hang-up stays: epoll would report it without end while a batch waits.
    watch_.End();
    return ServeTheRest();
  }
  if ((events & EPOLLOUT) != 0) FlushQueue();
  ReadPackets();
}

void AttachConnection::ServeTheRest() {
  ReadPackets();
  if (phase_ == Phase::kEnding || waits_for_room_) return;
  serve_rest_ = host_.loop().RunAfterMs(0, [this] { ServeTheRest(); });
}

void AttachConnection::ReadPackets() {
  for (int i = 0; i < kPacketsPerPass; ++i) {
    if (phase_ == Phase::kEnding || waits_for_room_ || !queue_.empty()) break;
    if (!ReadOne()) break;
  }
  if (phase_ != Phase::kEnding) UpdateInterest();
}

bool AttachConnection::ReadOne() {
  auto received = channel_.Receive(PacketBuffer(), /*fds_max=*/0);
  if (!received.ok()) {
    EndByHangUp();
    return false;
  }
  if (!received->fds.empty()) received->outcome = shm::ReceiveOutcome::kFdsDropped;
  switch (received->outcome) {
    case shm::ReceiveOutcome::kNothing:
      if (hung_up_) EndByHangUp();
      return false;
    case shm::ReceiveOutcome::kClosed:
      EndByHangUp();
      return false;
    case shm::ReceiveOutcome::kEmpty:
      Refuse(ProtocolError("an empty packet"));
      return false;
    case shm::ReceiveOutcome::kTooLong:
      Refuse(ProtocolError(absl::StrCat("a packet of more than ", shm::kPacketBytesMax, " bytes")));
      return false;
    case shm::ReceiveOutcome::kFdsDropped:
      Refuse(ProtocolError("descriptors in a packet; none are expected from a client"));
      return false;
    case shm::ReceiveOutcome::kPacket:
      break;
  }
  if (!packet_.ParseFromArray(PacketBuffer().data(), static_cast<int>(received->size_bytes))) {
    Refuse(ProtocolError(
        absl::StrCat("a packet of ", received->size_bytes, " bytes that is no ClientPacket")));
    return false;
  }
  OnPacket(packet_);
  return true;
}

void AttachConnection::OnPacket(const v1::ClientPacket& packet) {
  const bool live = phase_ == Phase::kLive;
  switch (packet.packet_case()) {
    case v1::ClientPacket::kRedeem:
      if (phase_ == Phase::kTicket) return OnRedeem(packet.redeem());
      break;
    case v1::ClientPacket::kMapped:
      if (phase_ == Phase::kMapping) return OnMapped();
      break;
    case v1::ClientPacket::kWrite:
      if (live) return OnWrite();
      break;
    case v1::ClientPacket::kRoomMade:
      if (live) return OnRoomMade(packet.room_made());
      break;
    case v1::ClientPacket::kAllocateId:
      if (live) return OnAllocateId(packet.allocate_id());
      break;
    case v1::ClientPacket::kChangeSignals: {
      if (!live) break;
      const v1::ChangeSignals& change = packet.change_signals();
      return AnswerCall(host_.registry().ChangeSignals(attachment_->held(), change.peer(),
                                                       change.clear(), change.set()));
    }
    case v1::ClientPacket::kChangeName:
      if (!live) break;
      return AnswerCall(host_.registry().SetName(attachment_->held(), packet.change_name().name()));
    case v1::ClientPacket::kOpenQueue:
      if (live) return OnOpenQueue(packet.open_queue());
      break;
    case v1::ClientPacket::kKick:
      if (live) return OnKick(packet.kick());
      break;
    case v1::ClientPacket::kStalled:
      if (live) return OnStalled(packet.stalled());
      break;
    case v1::ClientPacket::kRenewRing:
      if (live) return OnRenewRing(packet.renew_ring());
      break;
    case v1::ClientPacket::kDetach:
      return End({.kind = CloseKind::kClosed});
    case v1::ClientPacket::PACKET_NOT_SET:
      return Refuse(ProtocolError("a packet of a kind that this daemon does not know"));
  }
  Refuse(ProtocolError("a packet out of turn: redeem, then mapped, then the others"));
}

void AttachConnection::OnRedeem(const v1::Redeem& redeem) {
  if (redeem.protocol_version() != kProtocolVersion) {
    return Refuse(ProtocolError(absl::StrCat("protocol_version: ", redeem.protocol_version(),
                                             ", this daemon speaks ", kProtocolVersion)));
  }
  const auto token = Token::FromBytes(redeem.ticket());
  if (!token) {
    return Refuse(BadArgument(
        "ticket", absl::StrCat(redeem.ticket().size(), " bytes, a ticket has ", Token::kBytes)));
  }
  const HolderInfo holder{
      .uid = identity_.peer_uid, .gid = identity_.peer_gid, .pid = identity_.peer_pid};
  const int64_t now_ns = host_.loop().clock().MonotonicNs();
  if (const auto sent = host_.SendSnapshot(*token, holder.uid, channel_))
    return sent->ok() ? End({.kind = CloseKind::kClosed}) : Refuse(*sent);
  auto attachment = host_.registry().LookUpTicket(*token, holder, now_ns);
  if (!attachment.ok()) return Refuse(attachment.status());
  attachment_ = *std::move(attachment);
  // Spent only when the descriptors are under way: a full descriptor table must not cost the
  // endpoint.
  const absl::Status sent = SendGrants();
  grant_fds_.clear();
  if (!sent.ok()) {
    LeaveOwners();
    attachment_.reset();
    return Refuse(sent);
  }
  attachment_ = *host_.registry().RedeemTicket(*token, holder, now_ns);
  host_.registry().SetOwners(attachment_->id, std::exchange(owners_, {}));
  host_.OnAttached(id_, attachment_->id);
  phase_ = Phase::kMapping;
  ArmStepTimer("word that the descriptors are mapped");
}

void AttachConnection::OnMapped() {
  step_timer_.End();
  phase_ = Phase::kLive;
  const Endpoint& peer = attachment_->buffer->endpoint(shm::PeerOf(attachment_->endpoint));
  if (peer.closed) TellPeerClosed(peer.reason);
}

void AttachConnection::OnWrite() {
  const v1::WriteBatch& batch = packet_.write();
  auto target = Mediator::Resolve(attachment_->held(), batch.region_index());
  if (!target.ok()) return Refuse(target.status());
  if (batch.records_size() > kWriteBatchRecordsMax) {
    return Refuse(
        BadArgument("records", absl::StrCat(batch.records_size(), " in one batch, at most ",
                                            kWriteBatchRecordsMax, " are allowed")));
  }
  target_ = *target;
  progress_ = {};
  Region& region = *target_->region;
  const uint32_t wait_ms =
      batch.wait_ms() != 0 ? batch.wait_ms() : region.spec().mediated.block_ms();
  const bool may_wait = wait_ms != 0;
  if (may_wait && !ConsumerLeft(*attachment_->buffer, region)) {
    host_.mediator().GiveUp(*target_, batch.records(), LossCause::kClosed, progress_);
    return FinishWrite();
  }
  const bool behind_others = may_wait && host_.OthersWait(id_, region);
  if (!behind_others && host_.mediator().Continue(*target_, batch.records(), may_wait, progress_)) {
    return FinishWrite();
  }
  waits_for_room_ = true;
  write_deadline_ = host_.loop().RunAfterMs(std::min(wait_ms, kWriteWaitMsMax),
                                            [this] { GiveUpWrite(LossCause::kDeadline); });
  host_.OnWaitsForRoom(id_, region);
}

void AttachConnection::OnRoomMade(const v1::RoomMade& room_made) {
  std::vector<Region>& regions = attachment_->buffer->regions();
  // Of a region that has no ring: a made-up notice, like one of a ring for which nobody waits.
  if (room_made.region_index() < regions.size() && regions[room_made.region_index()].ring())
    host_.OnRoomMade(regions[room_made.region_index()]);
}

// Notices about regions for which they make no sense are made up, and change nothing.
std::optional<AttachConnection::DirectRegion> AttachConnection::FindDirect(
    uint32_t region_index) const {
  std::vector<Region>& regions = attachment_->buffer->regions();
  if (region_index >= regions.size() || regions[region_index].direct() == nullptr)
    return std::nullopt;
  Region& region = regions[region_index];
  return DirectRegion{.region = region,
                      .rights = shm::EffectiveRights(
                          region.spec().access.For(attachment_->endpoint), attachment_->rights)};
}

void AttachConnection::OnKick(const v1::Kick& kick) {
  const auto direct = FindDirect(kick.region_index());
  if (direct && direct->rights.map_write())
    host_.OnReadable(*attachment_->buffer, kick.region_index());
}

void AttachConnection::OnStalled(const v1::Stalled& stalled) {
  const auto direct = FindDirect(stalled.region_index());
  if (direct && direct->region.Reads(direct->rights))
    host_.OnStalled(*attachment_->buffer, stalled.region_index());
}

void AttachConnection::OnAllocateId(const v1::AllocateId& request) {
  const auto id = Mediator::AllocateId(attachment_->held(), request.region_index(), request.blob());
  v1::BrokerPacket packet;
  v1::AllocateIdResult& result = *packet.mutable_allocate_id_result();
  if (id.ok()) {
    result.set_id(*id);
  } else {
    *result.mutable_failure() = ToCallResult(id.status());
  }
  Send(packet);
}

void AttachConnection::AnswerCall(const absl::Status& status) {
  v1::BrokerPacket packet;
  *packet.mutable_call_result() = ToCallResult(status);
  Send(packet);
}

bool AttachConnection::ResumeWrite() {
  if (!host_.mediator().Continue(*target_, packet_.write().records(), /*may_wait=*/true, progress_))
    return false;
  FinishWrite();
  return true;
}

void AttachConnection::GiveUpWrite(LossCause cause) {
  host_.mediator().GiveUp(*target_, packet_.write().records(), cause, progress_);
  Region& region = *target_->region;
  FinishWrite();
  host_.OnWaitsNoMore(id_, region);
  UpdateInterest();
}

void AttachConnection::FinishWrite() {
  const bool waited = std::exchange(waits_for_room_, false);
  write_deadline_.End();
  target_.reset();
  v1::BrokerPacket packet;
  v1::WriteResult& result = *packet.mutable_write_result();
  result.set_stored(progress_.stored);
  for (const Mediator::Progress::Loss& loss : progress_.lost) {
    v1::RecordLoss& lost = *result.add_lost();
    lost.set_first_index(loss.first_index);
    lost.set_count(loss.count);
    lost.set_cause(static_cast<v1::LossCause>(loss.cause));
  }
  Send(packet);
  if (!waited) return;
  UpdateInterest();
  if (hung_up_) serve_rest_ = host_.loop().RunAfterMs(0, [this] { ServeTheRest(); });
}

absl::Status AttachConnection::SendWith(const v1::BrokerPacket& packet,
                                        std::span<const shm::UniqueFd> fds) {
  std::vector<int> numbers;
  numbers.reserve(fds.size());
  for (const shm::UniqueFd& fd : fds) numbers.push_back(fd.get());
  return channel_.Send(BytesOf(packet.SerializeAsString()), numbers);
}

void AttachConnection::Send(const v1::BrokerPacket& packet) {
  if (hung_up_) return;
  std::string bytes = packet.SerializeAsString();
  if (queue_.empty()) {
    const absl::Status sent = channel_.Send(BytesOf(bytes));
    if (!absl::IsUnavailable(sent))
      return;  // Taken, or the client is gone: the loop hears of that.
  }
  queue_.push_back(std::move(bytes));
}

void AttachConnection::FlushQueue() {
  while (!queue_.empty()) {
    if (absl::IsUnavailable(channel_.Send(BytesOf(queue_.front())))) return;
    queue_.pop_front();
  }
  if (std::exchange(signals_owed_, false)) TellSignals();
}

void AttachConnection::UpdateInterest() {
  if (phase_ == Phase::kEnding || hung_up_) return;
  uint32_t interest = EPOLLRDHUP;
  if (!queue_.empty()) interest |= EPOLLOUT;
  if (queue_.empty() && !waits_for_room_) interest |= EPOLLIN;
  if (interest == std::exchange(interest_, interest)) return;
  host_.loop().ChangeEvents(watch_, interest);
}

void AttachConnection::TellSignals() {
  if (phase_ != Phase::kLive || !HearsEvents()) return;
  if (!queue_.empty()) {
    signals_owed_ = true;
    return;
  }
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_signaled()->set_signals(
      attachment_->buffer->signal().signals(attachment_->endpoint));
  Send(packet);
  UpdateInterest();
}

void AttachConnection::TellPeerClosed(CloseReason reason) {
  // OnMapped looks for itself.
  if (phase_ != Phase::kLive || !HearsEvents()) return;
  v1::BrokerPacket packet;
  v1::CloseReason& told = *packet.mutable_event()->mutable_peer_closed()->mutable_reason();
  told.set_kind(static_cast<v1::CloseKind>(reason.kind));
  told.set_code(reason.code);
  Send(packet);
  UpdateInterest();
}

void AttachConnection::TellReadable(uint32_t region_index) {
  // A hint: when the client has not taken what it has, its socket is readable anyway.
  if (phase_ != Phase::kLive || !HearsEvents() || hung_up_ || !queue_.empty()) return;
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_readable()->set_region_index(region_index);
  channel_.Send(BytesOf(packet.SerializeAsString())).IgnoreError();
}

void AttachConnection::Revoke() {
  if (phase_ == Phase::kEnding) return;
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_revoked();
  Send(packet);
  End({.kind = CloseKind::kRevoked});
}

void AttachConnection::Refuse(const absl::Status& why) {
  if (phase_ == Phase::kEnding) return;
  host_.OnRefused(why, identity_);
  Send(ToErrorPacket(why));
  End({.kind = CloseKind::kRevoked});
}

void AttachConnection::EndByHangUp() {
  if (!attachment_) return End({.kind = CloseKind::kClosed});
  phase_ = Phase::kEnding;
  step_timer_.End();
  serve_rest_.End();
  watch_.End();
  channel_.Close();
  process_end_.Watch(host_.loop(), identity_, [this](CloseReason reason) { ReportEnd(reason); });
  if (HasEnded(identity_.pidfd.get())) return;
  end_timer_ = host_.loop().RunAfterMs(kDyingMs, [this] {
    if (!HasEnded(identity_.pidfd.get())) ReportEnd({.kind = CloseKind::kClosed});
  });
}

void AttachConnection::End(CloseReason reason) {
  phase_ = Phase::kEnding;
  step_timer_.End();
  serve_rest_.End();
  watch_.End();
  channel_.Close();
  if (waits_for_room_) {
    host_.mediator().GiveUp(*target_, packet_.write().records(), LossCause::kClosed, progress_);
    waits_for_room_ = false;
    write_deadline_.End();
    host_.OnWaitsNoMore(id_, *target_->region);
  }
  ReportEnd(reason);
}

// What is published is decided by another thread; the end is told after that.
void AttachConnection::CloseQueues(CloseReason reason) {
  queues_closing_ = queues_.size();
  for (const QueueId id : std::exchange(queues_, {})) {
    host_.mediator_pool().Close(id, [this, reason] {
      if (--queues_closing_ == 0) ReportEnd(reason);
    });
  }
}

void AttachConnection::ReportEnd(CloseReason reason) {
  process_end_ = ProcessEnd();
  end_timer_.End();
  if (!queues_.empty()) return CloseQueues(reason);
  const AttachmentId attachment = attachment_ ? attachment_->id : 0;
  attachment_.reset();
  if (attachment != 0) host_.registry().EndAttachment(attachment, reason);
  host_.OnGone(id_, attachment);
}

}  // namespace iob::server
