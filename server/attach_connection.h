// AttachConnection: one client on the attach socket, from its ticket to its end.
//
//   ticket --redeem--> mapping --mapped--> live --detach, hang-up, error, revoke--> ending --> gone
//     '------- 5 s -------'------ 5 s -----------------------------------------------^
//
//   T1  Out of turn, unknown, oversized, empty, or with descriptors: one error packet, the end.
//   T2  Writes and calls are answered in order, one answer each. Reading stops while an answer
//       waits to be taken or a batch waits for room, so that a client can queue no more than its
//       own socket holds.
//   T3  What the client had sent before its end is still served, waiting for room like before:
//       records that a crashing writer handed over are not lost, and its end is told after them.
//       What it had published in submission queues is decided at once.
//   T4  How it ended: after `detach`, closed; a process that is gone, how it went; else closed. A
//       dying process loses its sockets before its pidfd says so, hence the short wait in between.
//
// Owned by the loop thread, inside AttachListener's table.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "iob/v1/attach.pb.h"
#include "server/event_loop.h"
#include "server/identity.h"
#include "server/mediator.h"
#include "server/mediator_pool.h"
#include "server/process_end.h"
#include "server/registry.h"
#include "shm/fd_channel.h"

namespace iob::server {

using ConnectionId = uint64_t;

// What a connection needs from the table it lives in.
class AttachHost {
 public:
  virtual ~AttachHost() = default;
  virtual EventLoop& loop() = 0;
  virtual Registry& registry() = 0;
  virtual Mediator& mediator() = 0;
  virtual MediatorPool& mediator_pool() = 0;
  // Sends the snapshot behind a ticket; nothing when it is not one of a snapshot of this uid's.
  virtual std::optional<absl::Status> SendSnapshot(const Token& ticket, uint32_t peer_uid,
                                                   shm::FdChannel& channel) = 0;
  // The attachment is held by this connection from here on.
  virtual void OnAttached(ConnectionId connection, AttachmentId attachment) = 0;
  // It got a ticket wrong or broke the protocol.
  virtual void OnRefused(const absl::Status& why, const Identity& who) = 0;
  // Its batch waits for room in the ring of this region (shared ones have one koid in all their
  // buffers); the host calls ResumeWrite in order of arrival.
  virtual void OnWaitsForRoom(ConnectionId connection, Region& region) = 0;
  virtual void OnWaitsNoMore(ConnectionId connection, Region& region) = 0;
  // Somebody else's batch comes first.
  virtual bool OthersWait(ConnectionId connection, const Region& region) const = 0;
  // A ring has records for a consumer that asked for a packet.
  virtual void OnReadable(const Buffer& buffer, uint32_t region_index) = 0;
  // The consumer of a shared reserve ring says that it cannot go on.
  virtual void OnStalled(const Buffer& buffer, uint32_t region_index) = 0;
  // The consumer of this ring made room.
  virtual void OnRoomMade(Region& region) = 0;
  // It is over (`attachment` is 0 if it never got that far); the host destroys the connection
  // later, not from inside this call.
  virtual void OnGone(ConnectionId connection, AttachmentId attachment) = 0;
};

class AttachConnection {
 public:
  AttachConnection(AttachHost& host, ConnectionId id, shm::FdChannel channel, Identity identity)
      : host_(host), id_(id), channel_(std::move(channel)), identity_(std::move(identity)) {}

  // Starts to listen. An error leaves the connection to be destroyed.
  absl::Status Start();

  // Before a ticket was shown.
  bool pending() const { return phase_ == Phase::kTicket; }
  const std::optional<Attachment>& attachment() const { return attachment_; }
  const Identity& identity() const { return identity_; }

  // Says why and ends.
  void Refuse(const absl::Status& why);
  // The other endpoint is gone.
  void TellPeerClosed(shm::CloseReason reason);
  // A ring has records.
  void TellReadable(uint32_t region_index);
  // User signals changed; several changes become one packet when the client does not keep up.
  void TellSignals();
  // The buffer was deleted.
  void Revoke();
  // Room may have been made: tries again. True when the batch is decided.
  bool ResumeWrite();
  // Nobody is left to make room.
  void GiveUpWrite(shm::LossCause cause);

 private:
  enum class Phase { kTicket, kMapping, kLive, kEnding };

  void OnEvents(uint32_t events);
  void ReadPackets();
  void ServeTheRest();
  bool ReadOne();
  void OnPacket(const v1::ClientPacket& packet);
  void OnRedeem(const v1::Redeem& redeem);
  absl::Status SendGrants();
  absl::Status FillRegion(Region& region, v1::RegionGrant& grant);
  absl::Status AddSection(const SectionPlan& plan, shm::GrantRange range, uint32_t grant_number,
                          v1::SectionGrant& grant);
  void DescribeRegion(const Region& region, v1::RegionGrant& grant);
  void OnMapped();
  void OnWrite();
  void FinishWrite();
  void OnRoomMade(const v1::RoomMade& room_made);
  void OnOpenQueue(const v1::OpenQueue& request);
  absl::Status OpenQueue(const v1::OpenQueue& request, v1::QueueGrant& grant,
                         std::vector<shm::UniqueFd>& fds);
  void CloseQueues(shm::CloseReason reason);
  void OnRenewRing(const v1::RenewRing& request);
  absl::Status RenewRing(const v1::RenewRing& request, v1::RegionGrant& grant);
  std::optional<uint32_t> OwnerIn(uint32_t region_index) const;
  // A direct ring of this buffer, and what this attachment may do with it.
  struct DirectRegion {
    Region& region;
    shm::RegionRights rights;
  };
  std::optional<DirectRegion> FindDirect(uint32_t region_index) const;
  void OnKick(const v1::Kick& kick);
  void OnStalled(const v1::Stalled& stalled);
  void OnAllocateId(const v1::AllocateId& request);
  void AnswerCall(const absl::Status& status);
  bool HearsEvents() const;
  void LeaveOwners();
  void Send(const v1::BrokerPacket& packet);
  // At once or not at all.
  absl::Status SendWith(const v1::BrokerPacket& packet, std::span<const shm::UniqueFd> fds);
  void FlushQueue();
  void UpdateInterest();
  void End(shm::CloseReason reason);
  void EndByHangUp();
  void ReportEnd(shm::CloseReason reason);
  void ArmStepTimer(const char* what);

  AttachHost& host_;
  const ConnectionId id_;
  shm::FdChannel channel_;
  Identity identity_;
  Phase phase_ = Phase::kTicket;
  std::optional<Attachment> attachment_;
  Registration watch_;
  Registration step_timer_;
  uint32_t interest_ = 0;

  // Packets that the client has not taken yet.
  std::deque<std::string> queue_;
  bool signals_owed_ = false;
  bool hung_up_ = false;

  // The write being served; the packet's memory is reused from one to the next.
  v1::ClientPacket packet_;
  std::vector<shm::UniqueFd> grant_fds_;
  std::vector<OwnerOf> owners_;  // Until the registry has them.
  std::optional<Mediator::Target> target_;
  Mediator::Progress progress_;
  bool waits_for_room_ = false;
  Registration write_deadline_;

  std::vector<QueueId> queues_;
  size_t queues_closing_ = 0;

  ProcessEnd process_end_;
  Registration end_timer_;
  Registration serve_rest_;
};

}  // namespace iob::server
