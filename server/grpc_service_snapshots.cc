// GrpcService, the operations on copies: snapshots, and the autopsies of the crash store.
//
// Unlike the others, Snapshot is not over when the loop has looked at it: the call ends when the
// copy is done.
#include <utility>

#include "server/convert.h"
#include "server/grpc_service.h"
#include "server/refusal.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr size_t kAutopsiesListedMax = 1000;

}  // namespace

void GrpcService::FillTicket(const Token& ticket, v1::SnapshotTicket& told) const {
  told.set_ticket(ticket.ToBytes());
  told.set_socket_path(attach_socket_path_);
  told.set_lifetime_ms(registry_.limits().ticket_lifetime_ms);
}

grpc::ServerUnaryReactor* GrpcService::Snapshot(grpc::CallbackServerContext* context,
                                                const v1::SnapshotRequest* request,
                                                v1::SnapshotResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  // Request, response and context live until Finish.
  const bool posted = loop_.Post([this, context, request, response, reactor] {
    FinishCall finish = [reactor](const absl::Status& status) { Finish(reactor, status); };
    const auto caller = listener_->CallerOf(context->peer());
    absl::Status started = caller.status();
    if (caller.ok()) started = StartSnapshot(*caller, *request, *response, finish);
    if (!started.ok()) finish(started);
  });
  if (!posted) reactor->Finish(ToGrpcStatus(LoopIsBehind()));
  return reactor;
}

absl::Status GrpcService::StartSnapshot(const Caller& caller, const v1::SnapshotRequest& request,
                                        v1::SnapshotResponse& response, FinishCall& finish) {
  IOB_ASSIGN_OR_RETURN(const Token token, TokenFromProto(request.handle(), "handle"));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, /*rights=*/0));
  Snapshots::Wish wish{.held = held, .require_consistent = request.require_consistent()};
  if (request.has_region_index()) wish.region_index = request.region_index();
  snapshots_->Take(caller.uid, wish,
                   [this, &response, uid = caller.uid,
                    finish = std::move(finish)](absl::StatusOr<server::Snapshot> snapshot) mutable {
                     if (!snapshot.ok()) return finish(snapshot.status());
                     *response.mutable_info() = snapshot->info;
                     if (snapshot->memory) {
                       FillTicket(snapshots_->Issue(*std::move(snapshot), uid),
                                  *response.mutable_ticket());
                     }
                     finish(absl::OkStatus());
                   });
  return absl::OkStatus();
}

absl::Status GrpcService::DoListAutopsies(const Caller& caller,
                                          const v1::ListAutopsiesRequest& request,
                                          v1::ListAutopsiesResponse& response) {
  for (const CrashStore::Entry* const entry :
       crash_store_->List(caller, request.buffer_name(), kAutopsiesListedMax)) {
    *response.add_autopsies() = entry->told;
  }
  return absl::OkStatus();
}

absl::Status GrpcService::DoGetAutopsy(const Caller& caller, const v1::GetAutopsyRequest& request,
                                       v1::GetAutopsyResponse& response) {
  IOB_ASSIGN_OR_RETURN(const CrashStore::Entry* const entry,
                       crash_store_->Find(caller, request.id()));
  *response.mutable_autopsy() = entry->told;
  *response.mutable_info() = entry->info;
  if (!entry->snapshot || !entry->snapshot->memory) return absl::OkStatus();
  IOB_ASSIGN_OR_RETURN(const Token ticket, snapshots_->IssueCopy(*entry->snapshot, caller.uid));
  FillTicket(ticket, *response.mutable_ticket());
  return absl::OkStatus();
}

}  // namespace iob::server
