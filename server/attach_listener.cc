#include "server/attach_listener.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/logging.h"
#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::server {

absl::StatusOr<std::unique_ptr<AttachListener>> AttachListener::Start(
    const Dependencies& dependencies, shm::UniqueFd listening) {
  std::unique_ptr<AttachListener> listener(new AttachListener(dependencies));
  IOB_ASSIGN_OR_RETURN(listener->acceptor_,
                       Acceptor::Start(dependencies.loop, std::move(listening),
                                       [self = listener.get()](shm::UniqueFd socket) {
                                         self->OnConnection(std::move(socket));
                                       }));
  return listener;
}

void AttachListener::OnConnection(shm::UniqueFd socket) {
  // From Linux 6.16 on the kernel itself refuses descriptors from the client (EPERM at its
  // sendmsg); before that they are taken, closed and answered with an error.
  const int off = 0;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
  auto identity = IdentityOfPeer(socket.get());
  if (!identity.ok()) {
    ++counters_.turned_away;
    return;
  }
  const ConnectionId id = next_connection_++;
  auto connection = std::make_unique<AttachConnection>(*this, id, shm::FdChannel(std::move(socket)),
                                                       *std::move(identity));
  if (pending_.size() >= limits_.attach_pending_max) {
    ++counters_.turned_away;
    connection->Refuse(
        MakeError(v1::ERROR_REASON_BUSY,
                  absl::StrCat(limits_.attach_pending_max,
                               " connections without a ticket are open already; retry")));
    return;
  }
  if (!connection->Start().ok()) {
    ++counters_.turned_away;
    return;
  }
  connections_[id] = std::move(connection);
  pending_.insert(id);
}

std::optional<absl::Status> AttachListener::SendSnapshot(const Token& ticket, uint32_t peer_uid,
                                                         shm::FdChannel& channel) {
  return snapshots_.Redeem(ticket, peer_uid, channel);
}

void AttachListener::OnAttached(ConnectionId connection, AttachmentId attachment) {
  by_attachment_[attachment] = connection;
  pending_.erase(connection);
  ++counters_.attached;
}

void AttachListener::OnRefused(const absl::Status& why, const Identity& who) {
  const v1::ErrorReason reason = ReasonOf(why);
  ++counters_.refused_by_reason[reason];
  LogPeerTrouble("attach_refused", who.peer_uid, ReasonName(reason), why.message());
}

void AttachListener::OnGone(ConnectionId id, AttachmentId attachment) {
  pending_.erase(id);
  by_attachment_.erase(attachment);
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;  // Refused before it was entered.
  // It is still on the stack: it goes when the stack is gone.
  gone_.push_back(std::move(found->second));
  connections_.erase(found);
  if (sweep_.active()) return;
  sweep_ = loop_.RunAfterMs(0, [this] {
    sweep_.End();
    gone_.clear();
  });
}

AttachConnection* AttachListener::OfAttachment(AttachmentId attachment) {
  const auto id = by_attachment_.find(attachment);
  if (id == by_attachment_.end()) return nullptr;
  const auto found = connections_.find(id->second);
  return found == connections_.end() ? nullptr : found->second.get();
}

std::vector<AttachConnection*> AttachListener::AttachedTo(const Buffer& buffer,
                                                          shm::EndpointId endpoint) {
  std::vector<AttachConnection*> found;
  for (const AttachedHolder& holder : buffer.endpoint(endpoint).attachments) {
    if (AttachConnection* connection = OfAttachment(holder.attachment)) found.push_back(connection);
  }
  return found;
}

void AttachListener::OnEndpointClosed(Koid koid, shm::EndpointId endpoint,
                                      shm::CloseReason reason) {
  mediator_pool_.RefreshConsumers(koid);
  Buffer* const buffer = registry_.Find(koid);
  if (buffer == nullptr) {
    // Its other endpoint was closed already: nobody is left to be told. But writers of other
    // buffers may have waited for it to consume from a ring that they share.
    std::vector<Koid> given_up;
    for (const auto& [region, queue] : waiting_) {
      const SharedRegion* const shared = registry_.FindSharedRegion(region);
      if (shared != nullptr && !ConsumerLeft(*shared)) given_up.push_back(region);
    }
    for (const Koid region : given_up) GiveUpWaiting(region);
    return;
  }
  for (AttachConnection* connection : AttachedTo(*buffer, shm::PeerOf(endpoint))) {
    connection->TellPeerClosed(reason);
  }
  GiveUpWaiting(*buffer);
}

void AttachListener::OnRevoke(AttachmentId attachment) {
  if (AttachConnection* connection = OfAttachment(attachment)) connection->Revoke();
}

void AttachListener::OnSignals(Koid koid, shm::EndpointId endpoint) {
  Buffer* const buffer = registry_.Find(koid);
  if (buffer == nullptr) return;
  for (AttachConnection* connection : AttachedTo(*buffer, endpoint)) connection->TellSignals();
}

void AttachListener::OnReadable(const Buffer& buffer, uint32_t region_index) {
  const auto tell = [this](const Buffer& user, uint32_t index) {
    for (const shm::EndpointId endpoint : {shm::EndpointId::kEp0, shm::EndpointId::kEp1}) {
      const Region& region = user.regions()[index];
      if (!region.Reads(region.spec().access.For(endpoint))) continue;
      for (AttachConnection* connection : AttachedTo(user, endpoint))
        connection->TellReadable(index);
    }
  };
  const SharedRegion* const shared = buffer.regions()[region_index].shared();
  if (shared == nullptr) return tell(buffer, region_index);
  for (const auto& [number, use] : shared->uses()) tell(*use.buffer, use.region_index);
}

void AttachListener::OnStalled(const Buffer& buffer, uint32_t region_index) {
  ring_keeper_.Report(buffer.koid(), region_index);
}

bool AttachListener::KillHolder(AttachmentId attachment) {
  const AttachConnection* const connection = OfAttachment(attachment);
  if (connection == nullptr) return false;
  const int pidfd = connection->identity().pidfd.get();
  return pidfd >= 0 && ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0) == 0;
}

AttachListener::Counters AttachListener::counters() const {
  Counters counters = counters_;
  counters.turned_away += acceptor_->turned_away();
  return counters;
}

void AttachListener::OnWaitsForRoom(ConnectionId connection, Region& region) {
  waiting_[region.koid()].push_back(connection);
}

void AttachListener::OnWaitsNoMore(ConnectionId connection, Region& region) {
  const auto found = waiting_.find(region.koid());
  if (found == waiting_.end()) return;
  std::deque<ConnectionId>& queue = found->second;
  queue.erase(std::remove(queue.begin(), queue.end(), connection), queue.end());
  // The next in line may want less.
  OnRoomMade(region);
}

bool AttachListener::OthersWait(ConnectionId connection, const Region& region) const {
  const auto found = waiting_.find(region.koid());
  return found != waiting_.end() && !found->second.empty() && found->second.front() != connection;
}

void AttachListener::OnRoomMade(Region& region) {
  mediator_pool_.RoomMade(region);
  while (true) {
    // Looked up anew each time: what a served client does next may be to wait again.
    const auto found = waiting_.find(region.koid());
    if (found == waiting_.end()) return;  // Nobody waits: a late or a made-up notice.
    if (found->second.empty()) {
      waiting_.erase(found);
      return Mediator::EndWant(*region.ring());
    }
    const auto connection = connections_.find(found->second.front());
    if (connection != connections_.end() && !connection->second->ResumeWrite()) return;
    const auto served = waiting_.find(region.koid());
    if (served != waiting_.end() && !served->second.empty()) served->second.pop_front();
  }
}

void AttachListener::GiveUpWaiting(const Buffer& buffer) {
  for (const Region& region : buffer.regions()) {
    if (waiting_.contains(region.koid()) && !ConsumerLeft(buffer, region))
      GiveUpWaiting(region.koid());
  }
}

void AttachListener::GiveUpWaiting(Koid region) {
  const auto found = waiting_.find(region);
  if (found == waiting_.end()) return;
  const std::deque<ConnectionId> queue = std::move(found->second);
  waiting_.erase(found);
  for (const ConnectionId id : queue) {
    const auto connection = connections_.find(id);
    if (connection != connections_.end()) connection->second->GiveUpWrite(shm::LossCause::kClosed);
  }
}

}  // namespace iob::server
