// RawClient: the attach protocol as a client in another language speaks it: sockets, mmap and a
// protobuf runtime, nothing of libiob. It checks nothing and can do everything wrong.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "iob/v1/attach.pb.h"
#include "shm/unique_fd.h"

namespace iob::test {

inline constexpr int64_t kPatienceMs = 10'000;

class RawClient {
 public:
  // Not valid() when nobody takes the connection.
  explicit RawClient(const std::string& socket_path);
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  ~RawClient();

  bool valid() const { return socket_.valid(); }
  int fd() const { return socket_.get(); }

  // One packet; 0 or the errno of sendmsg. Waits for room up to the deadline, EAGAIN after that;
  // a deadline of 0 does not wait.
  int SendBytes(const std::string& bytes, const std::vector<int>& fds = {},
                int64_t deadline_ms = kPatienceMs);
  int Send(const v1::ClientPacket& packet) { return SendBytes(packet.SerializeAsString()); }
  int SendRedeem(const std::string& ticket, uint32_t protocol_version = 1);
  int SendMapped();
  int SendWrite(uint32_t region_index, const std::vector<std::string>& records,
                uint32_t wait_ms = 0);
  int SendRoomMade(uint32_t region_index);
  int SendAllocateId(uint32_t region_index, const std::string& blob);
  int SendChangeSignals(bool peer, uint32_t clear, uint32_t set);
  int SendChangeName(const std::string& name);
  int SendDetach();

  // The next packet (its descriptors go to fds()); nullopt at the end of the stream, or when
  // nothing came in time: then timed_out() tells.
  std::optional<v1::BrokerPacket> Receive(int64_t deadline_ms = kPatienceMs);
  bool timed_out() const { return timed_out_; }
  // Reads to the end of the stream. The error packet on the way, if there was one.
  std::optional<v1::AttachError> ReadToEnd(int64_t deadline_ms = kPatienceMs);
  // Waits for the answer to one write; other packets on the way are kept in events().
  std::optional<v1::WriteResult> ReceiveResult(int64_t deadline_ms = kPatienceMs);
  // Waits for the answer to one write or call, passing over events; nullopt at the end of the
  // stream: then error() is what the broker said about it.
  std::optional<v1::BrokerPacket> ReceiveAnswer(int64_t deadline_ms = kPatienceMs);
  // The error packet, once it has come.
  const std::optional<v1::AttachError>& error() const { return error_; }
  // Waits until the peer is reported closed.
  std::optional<v1::CloseReason> ReceivePeerClosed(int64_t deadline_ms = kPatienceMs);

  // Redeems, maps everything, says so. An error text, empty when it worked.
  std::string Attach(const std::string& ticket);
  // The first half: up to the descriptors.
  std::string Redeem(const std::string& ticket);
  // Maps every section that came. A handle without WAIT brings no signal page.
  bool MapAll();

  const v1::GrantSet& grants() const { return grants_; }
  const std::vector<shm::UniqueFd>& fds() const { return fds_; }

  // A section of this endpoint, -1 or nullptr when it has none.
  int SectionFd(uint32_t region_index, v1::SectionKind kind) const;
  uint8_t* SectionBytes(uint32_t region_index, v1::SectionKind kind) const;

  // Words of a mediated ring's HEAD page.
  uint64_t Head(uint32_t region_index) const;
  uint64_t Tail(uint32_t region_index) const;
  void SetTail(uint32_t region_index, uint64_t tail);
  void SetHead(uint32_t region_index, uint64_t head);

  // This endpoint's line of the signal page.
  uint32_t Signals() const;
  v1::CloseReason SignalReason() const;

  void CloseSocket() { socket_.Close(); }
  void CloseFds() { fds_.clear(); }
  void Unmap();

 private:
  struct Mapped {
    uint32_t region_index = 0;
    v1::SectionKind kind = v1::SECTION_KIND_UNSPECIFIED;
    uint32_t fd_index = 0;
    uint8_t* bytes = nullptr;
    uint64_t size_bytes = 0;
  };
  bool MapOne(uint32_t region_index, const v1::SectionGrant& section);

  shm::UniqueFd socket_;
  std::vector<shm::UniqueFd> fds_;
  v1::GrantSet grants_;
  std::vector<Mapped> mapped_;
  std::optional<v1::CloseReason> peer_closed_;
  std::optional<v1::AttachError> error_;
  bool timed_out_ = false;
};

}  // namespace iob::test
