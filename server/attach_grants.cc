// What an attachment is given: descriptors of sections, fresh and locked, and submission queues.
//
// The second half of AttachConnection; its rules are in attach_connection.h.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/attach_connection.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/owner_ring.h"
#include "shm/grant_lock.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::EndpointId;

constexpr size_t kQueuesPerAttachmentMax = 64;

void FillOwner(const Region& region, uint32_t owner, v1::RegionGrant& grant) {
  if (region.direct() == nullptr) {
    grant.set_id_owner(owner);
    return;
  }
  grant.set_seat(owner);
  const auto start = region.direct()->StartOf(owner);
  if (!start) return;
  v1::LaneStart& told = *grant.mutable_lane_start();
  told.set_position(start->position);
  told.set_sequence(start->sequence);
  told.set_discards(start->discards);
  told.set_payload_bytes(start->payload_bytes);
}

}  // namespace

// What did not come to be an attachment allocates no ids.
void AttachConnection::LeaveOwners() {
  for (const OwnerOf& of : std::exchange(owners_, {}))
    attachment_->buffer->regions()[of.region_index].LeaveOwner(of.owner);
}

absl::Status AttachConnection::AddSection(const SectionPlan& plan, shm::GrantRange range,
                                          uint32_t grant_number, v1::SectionGrant& grant) {
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd fd, plan.memfd->OpenGrant(plan.mode));
  IOB_RETURN_IF_ERROR(shm::LockGrant(fd.get(), range, grant_number));
  grant.set_kind(plan.kind);
  grant.set_size_bytes(plan.memfd->size_bytes());
  grant.set_writable(plan.mode == shm::FdMode::kReadWrite);
  grant.set_fd_index(static_cast<uint32_t>(grant_fds_.size()));
  grant.set_lane(plan.lane);
  grant_fds_.push_back(std::move(fd));
  return absl::OkStatus();
}

void AttachConnection::DescribeRegion(const Region& region, v1::RegionGrant& grant) {
  const EndpointId endpoint = attachment_->endpoint;
  const RegionSpec& spec = region.spec();
  const shm::RegionRights rights =
      shm::EffectiveRights(spec.access.For(endpoint), attachment_->rights);
  grant.set_type(spec.type);
  grant.set_discipline(spec.discipline);
  grant.set_size_bytes(spec.size_bytes);
  grant.set_access_bits(spec.access.SeenFrom(endpoint).bits());
  grant.set_enforcement(
      region.EnforcementFor(rights, identity_.peer_uid, host_.registry().broker_uid()));
  grant.set_tag(attachment_->buffer->TagOf(region, endpoint));
  grant.set_koid(region.koid());
  FillRingOptions(spec, grant);
  *grant.mutable_placement() = region.placement();
  // For people, in the info reply; 64 regions of them would not fit in a packet.
  grant.mutable_placement()->clear_shortfalls();
}

absl::Status AttachConnection::FillRegion(Region& region, v1::RegionGrant& grant) {
  const EndpointId id = attachment_->endpoint;
  Endpoint& endpoint = attachment_->buffer->endpoint(id);
  const shm::RegionRights rights =
      shm::EffectiveRights(region.spec().access.For(id), attachment_->rights);
  DescribeRegion(region, grant);
  IOB_ASSIGN_OR_RETURN(const std::optional<uint32_t> owner,
                       region.TakeOwner(rights, identity_.peer_uid, id, endpoint.grants_made));
  if (owner) {
    owners_.push_back({.region_index = grant.index(), .owner = *owner});
    FillOwner(region, *owner, grant);
  }
  // A producer whose handle may not write is no consumer: it gets nothing.
  if (region.Produces(id) && !owner) return absl::OkStatus();
  if (OwnerRing* const ring = region.direct() == nullptr ? nullptr : region.direct()->owner_ring())
    grant.set_generation(owner ? ring->newest_generation() : ring->oldest_generation());
  for (const SectionPlan& plan : region.SectionsFor(rights, owner)) {
    IOB_RETURN_IF_ERROR(
        AddSection(plan, region.GrantRangeOf(id), endpoint.grants_made++, *grant.add_sections()));
  }
  return absl::OkStatus();
}

absl::Status AttachConnection::SendGrants() {
  Buffer& buffer = *attachment_->buffer;
  const EndpointId endpoint = attachment_->endpoint;
  v1::BrokerPacket packet;
  v1::GrantSet& grants = *packet.mutable_grants();
  grants.set_buffer_koid(buffer.koid());
  if (attachment_->rights.Has(shm::HandleRights::kGetProperty)) grants.set_name(buffer.name());
  grants.set_endpoint(endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1);
  grants.set_endpoint_koid(buffer.endpoint(endpoint).koid);
  grants.set_peer_koid(buffer.endpoint(shm::PeerOf(endpoint)).koid);
  grants.set_handle_rights(attachment_->rights.bits());
  grants.set_queues(true);
  uint32_t index = 0;
  for (Region& region : buffer.regions()) {
    v1::RegionGrant& grant = *grants.add_regions();
    grant.set_index(index++);
    IOB_RETURN_IF_ERROR(FillRegion(region, grant));
  }
  if (HearsEvents()) {
    IOB_ASSIGN_OR_RETURN(const shm::SealedMemfd* page, buffer.signal().Page());
    const SectionPlan signal{.kind = v1::SECTION_KIND_SIGNAL, .memfd = page};
    IOB_RETURN_IF_ERROR(AddSection(signal, shm::GrantRange(endpoint),
                                   buffer.endpoint(endpoint).grants_made++,
                                   *grants.mutable_signal()));
    grants.set_signal_offset_bytes(static_cast<uint32_t>(shm::SignalLineOffset(endpoint)));
  }
  return SendWith(packet, grant_fds_);
}

bool AttachConnection::HearsEvents() const {
  return attachment_->rights.Has(shm::HandleRights::kWait);
}

absl::Status AttachConnection::OpenQueue(const v1::OpenQueue& request, v1::QueueGrant& grant,
                                         std::vector<shm::UniqueFd>& fds) {
  IOB_ASSIGN_OR_RETURN(const Mediator::Target target,
                       Mediator::Resolve(attachment_->held(), request.region_index()));
  if (queues_.size() >= kQueuesPerAttachmentMax) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("submission queues of this attachment: ", queues_.size(), " of ",
                                  kQueuesPerAttachmentMax, " in use"));
  }
  IOB_ASSIGN_OR_RETURN(
      MediatorPool::OpenedQueue opened,
      host_.mediator_pool().Open(target, identity_.peer_uid, request.entry_bytes(), [this] {
        Refuse(MakeError(v1::ERROR_REASON_PROTOCOL, "the words of a submission queue cannot be"));
      }));
  queues_.push_back(opened.id);
  const shm::SubmissionLayout& layout = opened.layout;
  v1::SectionGrant& submission = *grant.mutable_submission();
  submission.set_kind(v1::SECTION_KIND_SUBMISSION);
  submission.set_size_bytes(layout.submit_section_bytes());
  submission.set_writable(true);
  submission.set_fd_index(0);
  v1::SectionGrant& completion = *grant.mutable_completion();
  completion.set_kind(v1::SECTION_KIND_COMPLETION);
  completion.set_size_bytes(layout.complete_section_bytes());
  completion.set_fd_index(1);
  grant.set_kick_fd_index(2);
  grant.set_entry_bytes(static_cast<uint32_t>(layout.capacity_bytes()));
  fds.push_back(std::move(opened.submission));
  fds.push_back(std::move(opened.completion));
  fds.push_back(std::move(opened.kick));
  return absl::OkStatus();
}

void AttachConnection::OnOpenQueue(const v1::OpenQueue& request) {
  v1::BrokerPacket packet;
  v1::QueueGrant& grant = *packet.mutable_queue_grant();
  std::vector<shm::UniqueFd> fds;
  const absl::Status opened = OpenQueue(request, grant, fds);
  if (opened.ok()) {
    // Nothing waits to be taken, or this packet would not have been read.
    if (!hung_up_ && SendWith(packet, fds).ok()) return;
    grant.Clear();
    const QueueId id = queues_.back();
    queues_.pop_back();
    host_.mediator_pool().Close(id, [] {});
    *grant.mutable_failure() = ToCallResult(
        MakeError(v1::ERROR_REASON_BUSY, "the socket has no room for descriptors; retry"));
  } else {
    *grant.mutable_failure() = ToCallResult(opened);
  }
  Send(packet);
}

std::optional<uint32_t> AttachConnection::OwnerIn(uint32_t region_index) const {
  for (const OwnerOf& of : host_.registry().attachments().at(attachment_->id).owners) {
    if (of.region_index == region_index) return of.owner;
  }
  return std::nullopt;
}

absl::Status AttachConnection::RenewRing(const v1::RenewRing& request, v1::RegionGrant& grant) {
  const auto direct = FindDirect(request.region_index());
  OwnerRing* const ring = direct ? direct->region.direct()->owner_ring() : nullptr;
  const std::optional<uint32_t> seat = OwnerIn(request.region_index());
  if (ring == nullptr || (!seat && !direct->region.Reads(direct->rights))) {
    return MakeError(v1::ERROR_REASON_WRONG_DISCIPLINE,
                     absl::StrCat("region ", request.region_index(),
                                  " is no shared reserve ring that this endpoint may use"));
  }
  const auto renewal = seat ? ring->NextForProducer(request.generation())
                            : ring->NextForConsumer(request.generation());
  if (!renewal) {
    return MakeError(v1::ERROR_REASON_BUSY,
                     absl::StrCat("region ", request.region_index(), ": generation ",
                                  request.generation(), " is the newest"));
  }
  Endpoint& endpoint = attachment_->buffer->endpoint(attachment_->endpoint);
  // The locks of one seat have the same numbers in each generation's files.
  std::optional<uint32_t> number;
  if (seat) number = ring->GrantNumberOf(*seat);
  grant.set_index(request.region_index());
  DescribeRegion(direct->region, grant);
  grant.set_generation(renewal->generation);
  if (seat) grant.set_seat(*seat);
  for (const SectionPlan& plan : renewal->sections) {
    const uint32_t grant_number = number ? (*number)++ : endpoint.grants_made++;
    IOB_RETURN_IF_ERROR(AddSection(plan, direct->region.GrantRangeOf(attachment_->endpoint),
                                   grant_number, *grant.add_sections()));
  }
  return absl::OkStatus();
}

void AttachConnection::OnRenewRing(const v1::RenewRing& request) {
  v1::BrokerPacket packet;
  v1::RingGrant& grant = *packet.mutable_ring_grant();
  grant_fds_.clear();
  absl::Status renewed = RenewRing(request, *grant.mutable_region());
  // Nothing waits to be taken, or this packet would not have been read.
  if (renewed.ok() && !hung_up_) {
    renewed = SendWith(packet, grant_fds_);
    if (renewed.ok()) return grant_fds_.clear();
    renewed = MakeError(v1::ERROR_REASON_BUSY, "the socket has no room for descriptors; retry");
  }
  grant_fds_.clear();
  grant.Clear();
  *grant.mutable_failure() = ToCallResult(renewed);
  Send(packet);
}

}  // namespace iob::server
