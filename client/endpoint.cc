#include "client/endpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/grants.h"
#include "client/internal/handshake.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob {
namespace {

AttachedRegion ToAttachedRegion(const GrantedRegion& region) {
  return {.index = region.index,
          .type = region.type,
          .discipline = region.discipline,
          .size_bytes = region.size_bytes,
          .access = region.access,
          .enforcement = region.enforcement,
          .tag = region.tag,
          .koid = region.koid};
}

AttachedInfo ToInfo(const Grants& grants) {
  AttachedInfo info{.buffer_koid = grants.buffer_koid,
                    .name = grants.name,
                    .endpoint = grants.endpoint,
                    .koid = grants.endpoint_koid,
                    .peer_koid = grants.peer_koid,
                    .regions = {}};
  info.regions.reserve(grants.regions.size());
  for (const GrantedRegion& region : grants.regions) {
    info.regions.push_back(ToAttachedRegion(region));
  }
  return info;
}

absl::Status AccessDenied(uint32_t region_index, const char* right) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat("this endpoint has no ", right,
                                                             " right to region ", region_index)),
                    "ACCESS_DENIED");
}

}  // namespace

std::span<const std::byte> MappedRegion::bytes() const {
  return std::visit(
      [](const auto& mapping) {
        return std::span<const std::byte>(mapping.base(), mapping.size_bytes());
      },
      mapping_);
}

std::span<std::byte> MappedRegion::writable_bytes() {
  shm::Mapping* const mapping = std::get_if<shm::Mapping>(&mapping_);
  if (mapping == nullptr) return {};
  return {mapping->base(), mapping->size_bytes()};
}

class Endpoint::Impl {
 public:
  Impl(std::shared_ptr<Connection> connection, Grants grants)
      : info_(ToInfo(grants)),
        regions_(std::move(grants.regions)),
        readers_(regions_.size()),
        connection_(std::move(connection)) {}
  ~Impl() { Close(); }

  const AttachedInfo& info() const { return info_; }
  const std::shared_ptr<Connection>& connection() const { return connection_; }

  // The region, if it exists and has that discipline and the endpoint is not closed.
  absl::StatusOr<const GrantedRegion*> Find(uint32_t region_index, Discipline discipline) const;

  // What an open reader holds, so that there is one per ring.
  absl::StatusOr<std::shared_ptr<void>> ClaimReader(uint32_t region_index);

  void Close() {
    connection_->Close();
    // The descriptors count as held by this endpoint.
    regions_.clear();
  }

 private:
  AttachedInfo info_;
  std::vector<GrantedRegion> regions_;
  std::vector<std::weak_ptr<void>> readers_;
  std::shared_ptr<Connection> connection_;
};

absl::StatusOr<const GrantedRegion*> Endpoint::Impl::Find(uint32_t region_index,
                                                          Discipline discipline) const {
  if (connection_->fd() < 0) return connection_->status();
  if (region_index >= regions_.size()) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("region ", region_index, "; the buffer has ",
                                           regions_.size(), ", counted from 0")),
        "OUT_OF_RANGE");
  }
  const GrantedRegion& region = regions_[region_index];
  if (region.discipline != discipline) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "region ", region_index, " has discipline ", ToString(region.discipline),
                          ", this needs ", ToString(discipline))),
                      "WRONG_DISCIPLINE");
  }
  return &region;
}

absl::StatusOr<std::shared_ptr<void>> Endpoint::Impl::ClaimReader(uint32_t region_index) {
  if (!readers_[region_index].expired()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "region ", region_index, " has a reader open; a ring has one consumer")),
                      "IN_USE");
  }
  std::shared_ptr<void> claim = std::make_shared<char>();
  readers_[region_index] = claim;
  return claim;
}

absl::StatusOr<Endpoint> Endpoint::Attach(const Ticket& ticket, const AttachOptions& options) {
  IOB_ASSIGN_OR_RETURN(Handshake handshake, RedeemTicket(ticket, After(options.timeout)));
  Grants& grants = handshake.grants;
  absl::StatusOr<shm::SignalLine> signal =
      shm::SignalLine::Map(grants.signal, grants.signal_offset_bytes);
  if (absl::IsInvalidArgument(signal.status())) {
    return WithReason(absl::DataLossError(signal.status().message()), "PROTOCOL");
  }
  IOB_RETURN_IF_ERROR(signal.status());
  IOB_RETURN_IF_ERROR(ConfirmMapped(&handshake.channel));
  auto connection = std::make_shared<Connection>(std::move(handshake.channel), std::move(*signal));
  return Endpoint(std::make_unique<Impl>(std::move(connection), std::move(grants)));
}

Endpoint::Endpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Endpoint::Endpoint(Endpoint&& other) noexcept = default;
Endpoint& Endpoint::operator=(Endpoint&& other) noexcept = default;
Endpoint::~Endpoint() = default;

const AttachedInfo& Endpoint::info() const { return impl_->info(); }

absl::StatusOr<MappedRegion> Endpoint::Map(uint32_t region_index) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index, Discipline::kNone));
  if (!region->data) return AccessDenied(region_index, "map");
  if (region->data->writable) {
    IOB_ASSIGN_OR_RETURN(shm::Mapping mapping, shm::Mapping::Map(region->data->memfd));
    return MappedRegion(std::move(mapping));
  }
  IOB_ASSIGN_OR_RETURN(shm::ReadOnlyMapping mapping,
                       shm::ReadOnlyMapping::Map(region->data->memfd));
  return MappedRegion(std::move(mapping));
}

absl::StatusOr<RingReader> Endpoint::OpenReader(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kMediatedRing));
  if (!region->data) return AccessDenied(region_index, "map-read");
  if (!region->head->writable) return AccessDenied(region_index, "map-write");
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimReader(region_index));
  IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout,
                       shm::RingLayout::ForRegion(region->size_bytes));
  absl::StatusOr<shm::MediatedRingReader> ring =
      shm::MediatedRingReader::Map(layout, region->head->memfd, region->data->memfd);
  if (absl::IsDataLoss(ring.status())) return WithReason(ring.status(), "INTEGRITY");
  IOB_RETURN_IF_ERROR(ring.status());
  return RingReader(std::move(*ring), region_index, impl_->connection(), std::move(claim));
}

absl::StatusOr<RingWriter> Endpoint::OpenWriter(uint32_t region_index,
                                                const RingWriterOptions& options) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kMediatedRing));
  if (!region->access.For(EndpointId::kEp0).mediated_write()) {
    return AccessDenied(region_index, "mediated-write");
  }
  return RingWriter(region_index, options, impl_->connection());
}

absl::StatusOr<std::optional<Event>> Endpoint::PollEvents() {
  Connection& connection = *impl_->connection();
  if (!connection.has_event()) connection.Pump();
  std::optional<Event> event = connection.TakeEvent();
  if (!event) IOB_RETURN_IF_ERROR(connection.status());
  return event;
}

absl::StatusOr<std::optional<Event>> Endpoint::WaitEvent(Deadline deadline) {
  while (true) {
    IOB_ASSIGN_OR_RETURN(std::optional<Event> event, PollEvents());
    if (event) return event;
    const absl::Status pumped = impl_->connection()->PumpBy(deadline);
    // What ended the connection is told after the events that came before.
    if (pumped.ok() || !impl_->connection()->status().ok()) continue;
    if (absl::IsDeadlineExceeded(pumped)) return std::optional<Event>();
    return pumped;
  }
}

bool Endpoint::peer_closed() const { return impl_->connection()->peer_closed(); }

CloseReason Endpoint::close_reason() const { return impl_->connection()->close_reason(); }

int Endpoint::fd() const { return impl_->connection()->fd(); }

void Endpoint::Close() { impl_->Close(); }

}  // namespace iob
