#include "server/attach_connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/limits.h"
#include "shm/grant_lock.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;
using shm::EndpointId;
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
      if (live)
        return host_.OnRoomMade(attachment_->buffer->koid(), packet.room_made().region_index());
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
  auto attachment = host_.registry().LookUpTicket(*token, holder, now_ns);
  if (!attachment.ok()) return Refuse(attachment.status());
  attachment_ = *std::move(attachment);
  // Spent only when the descriptors are under way: a full descriptor table must not cost the
  // endpoint.
  const absl::Status sent = SendGrants();
  grant_fds_.clear();
  if (!sent.ok()) {
    attachment_.reset();
    return Refuse(sent);
  }
  attachment_ = *host_.registry().RedeemTicket(*token, holder, now_ns);
  host_.OnAttached(id_, attachment_->id);
  phase_ = Phase::kMapping;
  ArmStepTimer("word that the descriptors are mapped");
}

absl::Status AttachConnection::AddSection(const SectionPlan& plan, v1::SectionGrant& grant) {
  Endpoint& endpoint = attachment_->buffer->endpoint(attachment_->endpoint);
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd fd, plan.memfd->OpenGrant(plan.mode));
  IOB_RETURN_IF_ERROR(shm::LockGrant(fd.get(), attachment_->endpoint, endpoint.grants_made++));
  grant.set_kind(plan.kind);
  grant.set_size_bytes(plan.memfd->size_bytes());
  grant.set_writable(plan.mode == shm::FdMode::kReadWrite);
  grant.set_fd_index(static_cast<uint32_t>(grant_fds_.size()));
  grant_fds_.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status AttachConnection::SendGrants() {
  Buffer& buffer = *attachment_->buffer;
  const EndpointId endpoint = attachment_->endpoint;
  v1::BrokerPacket packet;
  v1::GrantSet& grants = *packet.mutable_grants();
  grants.set_buffer_koid(buffer.koid());
  grants.set_name(buffer.name());
  grants.set_endpoint(endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1);
  grants.set_endpoint_koid(buffer.endpoint(endpoint).koid);
  grants.set_peer_koid(buffer.endpoint(shm::PeerOf(endpoint)).koid);
  uint32_t index = 0;
  for (const Region& region : buffer.regions()) {
    const RegionSpec& spec = region.spec();
    const shm::RegionRights rights =
        shm::EffectiveRights(spec.access.For(endpoint), attachment_->rights);
    v1::RegionGrant& grant = *grants.add_regions();
    grant.set_index(index++);
    grant.set_type(spec.type);
    grant.set_discipline(spec.discipline);
    grant.set_size_bytes(spec.size_bytes);
    grant.set_access_bits(spec.access.SeenFrom(endpoint).bits());
    grant.set_enforcement(
        region.EnforcementFor(rights, identity_.peer_uid, host_.registry().broker_uid()));
    grant.set_tag(buffer.TagOf(region, endpoint));
    grant.set_koid(region.koid());
    for (const SectionPlan& plan : region.SectionsFor(rights)) {
      IOB_RETURN_IF_ERROR(AddSection(plan, *grant.add_sections()));
    }
  }
  const SectionPlan signal{.kind = v1::SECTION_KIND_SIGNAL, .memfd = &buffer.signal().memfd()};
  IOB_RETURN_IF_ERROR(AddSection(signal, *grants.mutable_signal()));
  grants.set_signal_offset_bytes(static_cast<uint32_t>(shm::SignalLineOffset(endpoint)));
  std::vector<int> fds;
  for (const shm::UniqueFd& fd : grant_fds_) fds.push_back(fd.get());
  return channel_.Send(BytesOf(packet.SerializeAsString()), fds);
}

void AttachConnection::OnMapped() {
  step_timer_.End();
  phase_ = Phase::kLive;
  const Endpoint& peer = attachment_->buffer->endpoint(shm::PeerOf(attachment_->endpoint));
  if (peer.closed) TellPeerClosed(peer.reason);
}

void AttachConnection::OnWrite() {
  const v1::WriteBatch& batch = packet_.write();
  auto target = Mediator::Resolve(*attachment_->buffer, attachment_->endpoint, attachment_->rights,
                                  batch.region_index());
  if (!target.ok()) return Refuse(target.status());
  if (batch.records_size() > kWriteBatchRecordsMax) {
    return Refuse(
        BadArgument("records", absl::StrCat(batch.records_size(), " in one batch, at most ",
                                            kWriteBatchRecordsMax, " are allowed")));
  }
  target_ = *target;
  progress_ = {};
  const bool may_wait = batch.wait_ms() != 0;
  const Koid koid = attachment_->buffer->koid();
  const Region& region = attachment_->buffer->regions()[batch.region_index()];
  if (may_wait && !ConsumerLeft(*attachment_->buffer, region)) {
    host_.mediator().GiveUp(*target_, batch.records(), LossCause::kClosed, progress_);
    return FinishWrite();
  }
  const bool behind_others = may_wait && host_.OthersWait(id_, koid, batch.region_index());
  if (!behind_others && host_.mediator().Continue(*target_, batch.records(), may_wait, progress_)) {
    return FinishWrite();
  }
  waits_for_room_ = true;
  write_deadline_ = host_.loop().RunAfterMs(std::min(batch.wait_ms(), kWriteWaitMsMax),
                                            [this] { GiveUpWrite(LossCause::kDeadline); });
  host_.OnWaitsForRoom(id_, koid, batch.region_index());
}

bool AttachConnection::ResumeWrite() {
  if (!host_.mediator().Continue(*target_, packet_.write().records(), /*may_wait=*/true, progress_))
    return false;
  FinishWrite();
  return true;
}

void AttachConnection::GiveUpWrite(LossCause cause) {
  host_.mediator().GiveUp(*target_, packet_.write().records(), cause, progress_);
  const uint32_t region_index = target_->region_index;
  FinishWrite();
  host_.OnWaitsNoMore(id_, attachment_->buffer->koid(), region_index);
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
}

void AttachConnection::UpdateInterest() {
  if (phase_ == Phase::kEnding || hung_up_) return;
  uint32_t interest = EPOLLRDHUP;
  if (!queue_.empty()) interest |= EPOLLOUT;
  if (queue_.empty() && !waits_for_room_) interest |= EPOLLIN;
  if (interest == std::exchange(interest_, interest)) return;
  host_.loop().ChangeEvents(watch_, interest);
}

void AttachConnection::TellPeerClosed(CloseReason reason) {
  if (phase_ != Phase::kLive) return;  // OnMapped looks for itself.
  v1::BrokerPacket packet;
  v1::CloseReason& told = *packet.mutable_event()->mutable_peer_closed()->mutable_reason();
  told.set_kind(static_cast<v1::CloseKind>(reason.kind));
  told.set_code(reason.code);
  Send(packet);
  UpdateInterest();
}

void AttachConnection::TellReadable(uint32_t region_index) {
  // A hint: when the client has not taken what it has, its socket is readable anyway.
  if (phase_ != Phase::kLive || hung_up_ || !queue_.empty()) return;
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
    host_.OnWaitsNoMore(id_, attachment_->buffer->koid(), target_->region_index);
  }
  ReportEnd(reason);
}

void AttachConnection::ReportEnd(CloseReason reason) {
  process_end_ = ProcessEnd();
  end_timer_.End();
  const AttachmentId attachment = attachment_ ? attachment_->id : 0;
  attachment_.reset();
  if (attachment != 0) host_.registry().EndAttachment(attachment, reason);
  host_.OnGone(id_, attachment);
}

}  // namespace iob::server
