// Broker's calls on copies: snapshots, and the autopsies of endpoints that crashed.
#include <utility>

#include "client/broker.h"
#include "client/internal/attach_wire.h"
#include "client/internal/broker_impl.h"
#include "client/internal/handshake.h"
#include "client/internal/wire_types.h"
#include "shm/result.h"

namespace iob {
namespace {

// The memory behind a ticket, if there is any.
template <typename Response>
absl::StatusOr<Snapshot> Fetch(const Response& response, Populate populate,
                               std::chrono::milliseconds timeout) {
  SnapshotInfo info = FromWire(response.info());
  ImmutableMapping memory;
  if (response.has_ticket()) {
    IOB_ASSIGN_OR_RETURN(const Ticket ticket, FromWire(response.ticket()));
    IOB_ASSIGN_OR_RETURN(shm::UniqueFd fd, RedeemSnapshot(ticket, After(timeout)));
    absl::StatusOr<ImmutableMapping> mapped =
        ImmutableMapping::Map(std::move(fd), info.size_bytes, populate);
    if (absl::IsFailedPrecondition(mapped.status()))
      return ProtocolError(std::string(mapped.status().message()));
    IOB_RETURN_IF_ERROR(mapped.status());
    memory = *std::move(mapped);
  }
  return Snapshot::Make(std::move(info), std::move(memory));
}

}  // namespace

absl::StatusOr<Snapshot> Broker::TakeSnapshot(const Handle& handle,
                                              const SnapshotOptions& options) {
  v1::SnapshotRequest request;
  request.set_handle(iob::ToWire(handle));
  if (options.region_index) request.set_region_index(*options.region_index);
  request.set_require_consistent(options.require_consistent);
  v1::SnapshotResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::Snapshot, request, &response));
  return Fetch(response, options.populate, impl_->timeout());
}

absl::StatusOr<std::vector<AutopsyInfo>> Broker::ListAutopsies(const std::string& buffer_name) {
  v1::ListAutopsiesRequest request;
  request.set_buffer_name(buffer_name);
  v1::ListAutopsiesResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::ListAutopsies, request, &response));
  std::vector<AutopsyInfo> autopsies;
  for (const v1::Autopsy& autopsy : response.autopsies()) autopsies.push_back(FromWire(autopsy));
  return autopsies;
}

absl::StatusOr<Autopsy> Broker::GetAutopsy(uint64_t id) {
  v1::GetAutopsyRequest request;
  request.set_id(id);
  v1::GetAutopsyResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetAutopsy, request, &response));
  Autopsy autopsy{.info = FromWire(response.autopsy()), .state = {}};
  // Sections of memory that is not there would point nowhere.
  if (!response.has_ticket()) {
    for (v1::SnapshotRegion& region : *response.mutable_info()->mutable_regions())
      region.clear_sections();
  }
  IOB_ASSIGN_OR_RETURN(autopsy.state, Fetch(response, Populate::kLazy, impl_->timeout()));
  return autopsy;
}

}  // namespace iob
