#include "tests/support/raw_client.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"

namespace iob::test {
namespace {

constexpr size_t kPacketBytesMax = 65536;
constexpr size_t kFdsMax = 253;
constexpr uint32_t kSignalRegion = UINT32_MAX;

template <typename T>
T LoadWord(const uint8_t* address) {
  auto* const word = reinterpret_cast<T*>(const_cast<uint8_t*>(address));
  return std::atomic_ref<T>(*word).load(std::memory_order_acquire);
}

int64_t DeadlineNs(int64_t deadline_ms) { return shm::MonotonicNs() + deadline_ms * 1'000'000; }

bool PollBy(int fd, short events, int64_t deadline_ns) {
  while (true) {
    const int64_t left_ms =
        std::max<int64_t>((deadline_ns - shm::MonotonicNs() + 999'999) / 1'000'000, 0);
    pollfd poller = {.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(left_ms));
    if (ready > 0) return true;
    if (ready == 0 && left_ms == 0) return false;
  }
}

}  // namespace

RawClient::RawClient(const std::string& socket_path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path.data(),
              std::min(socket_path.size(), sizeof(address.sun_path) - 1));
  socket_ = shm::UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    socket_.Close();
  }
}

RawClient::~RawClient() { Unmap(); }

void RawClient::Unmap() {
  for (const Mapped& mapped : mapped_) ::munmap(mapped.bytes, mapped.size_bytes);
  mapped_.clear();
}

int RawClient::SendBytes(const std::string& bytes, const std::vector<int>& fds,
                         int64_t deadline_ms) {
  iovec part = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  const int64_t deadline_ns = DeadlineNs(deadline_ms);
  while (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    // The broker closed with a packet of ours unread; what follows says EPIPE.
    if (errno == ECONNRESET) continue;
    if (errno != EAGAIN) return errno;
    if (deadline_ms == 0 || !PollBy(socket_.get(), POLLOUT, deadline_ns)) return EAGAIN;
  }
  return 0;
}

int RawClient::SendRedeem(const std::string& ticket, uint32_t protocol_version) {
  v1::ClientPacket packet;
  packet.mutable_redeem()->set_ticket(ticket);
  packet.mutable_redeem()->set_protocol_version(protocol_version);
  return Send(packet);
}

int RawClient::SendMapped() {
  v1::ClientPacket packet;
  packet.mutable_mapped();
  return Send(packet);
}

int RawClient::SendWrite(uint32_t region_index, const std::vector<std::string>& records,
                         uint32_t wait_ms) {
  v1::ClientPacket packet;
  v1::WriteBatch& batch = *packet.mutable_write();
  batch.set_region_index(region_index);
  for (const std::string& record : records) batch.add_records(record);
  batch.set_wait_ms(wait_ms);
  return Send(packet);
}

int RawClient::SendRoomMade(uint32_t region_index) {
  v1::ClientPacket packet;
  packet.mutable_room_made()->set_region_index(region_index);
  return Send(packet);
}

int RawClient::SendAllocateId(uint32_t region_index, const std::string& blob) {
  v1::ClientPacket packet;
  packet.mutable_allocate_id()->set_region_index(region_index);
  packet.mutable_allocate_id()->set_blob(blob);
  return Send(packet);
}

int RawClient::SendChangeSignals(bool peer, uint32_t clear, uint32_t set) {
  v1::ClientPacket packet;
  v1::ChangeSignals& change = *packet.mutable_change_signals();
  change.set_peer(peer);
  change.set_clear(clear);
  change.set_set(set);
  return Send(packet);
}

int RawClient::SendChangeName(const std::string& name) {
  v1::ClientPacket packet;
  packet.mutable_change_name()->set_name(name);
  return Send(packet);
}

int RawClient::SendDetach() {
  v1::ClientPacket packet;
  packet.mutable_detach();
  return Send(packet);
}

std::optional<v1::BrokerPacket> RawClient::Receive(int64_t deadline_ms) {
  const int64_t deadline_ns = DeadlineNs(deadline_ms);
  std::array<char, kPacketBytesMax> buffer;
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))];
  timed_out_ = false;
  while (true) {
    if (!PollBy(socket_.get(), POLLIN, deadline_ns)) {
      timed_out_ = true;
      return std::nullopt;
    }
    iovec part = {.iov_base = buffer.data(), .iov_len = buffer.size()};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t size = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    // ECONNRESET comes once, ahead of what was sent before it.
    if (size < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET)) continue;
    if (size <= 0) return std::nullopt;
    for (cmsghdr* rights = CMSG_FIRSTHDR(&message); rights != nullptr;
         rights = CMSG_NXTHDR(&message, rights)) {
      const size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof(int), sizeof(fd));
        fds_.emplace_back(fd);
      }
    }
    v1::BrokerPacket packet;
    if (!packet.ParseFromArray(buffer.data(), static_cast<int>(size))) return std::nullopt;
    if (packet.event().has_peer_closed()) peer_closed_ = packet.event().peer_closed().reason();
    if (packet.has_error()) error_ = packet.error();
    return packet;
  }
}

std::optional<v1::AttachError> RawClient::ReadToEnd(int64_t deadline_ms) {
  std::optional<v1::AttachError> error;
  while (const auto packet = Receive(deadline_ms)) {
    if (packet->has_error()) error = packet->error();
  }
  return error;
}

std::optional<v1::WriteResult> RawClient::ReceiveResult(int64_t deadline_ms) {
  while (const auto packet = Receive(deadline_ms)) {
    if (packet->has_write_result()) return packet->write_result();
  }
  return std::nullopt;
}

std::optional<v1::BrokerPacket> RawClient::ReceiveAnswer(int64_t deadline_ms) {
  while (auto packet = Receive(deadline_ms)) {
    if (!packet->has_event() && !packet->has_error()) return packet;
  }
  return std::nullopt;
}

std::optional<v1::CloseReason> RawClient::ReceivePeerClosed(int64_t deadline_ms) {
  while (!peer_closed_) {
    if (!Receive(deadline_ms)) return std::nullopt;
  }
  return peer_closed_;
}

std::string RawClient::Redeem(const std::string& ticket) {
  if (const int error = SendRedeem(ticket); error != 0) return strerror(error);
  const auto packet = Receive();
  if (!packet) return timed_out_ ? "no answer" : "closed without an answer";
  if (packet->has_error()) return packet->error().message();
  if (!packet->has_grants()) return "neither grants nor an error";
  grants_ = packet->grants();
  return {};
}

bool RawClient::MapOne(uint32_t region_index, const v1::SectionGrant& section) {
  if (section.fd_index() >= fds_.size()) return false;
  const int protection = PROT_READ | (section.writable() ? PROT_WRITE : 0);
  void* const address = ::mmap(nullptr, section.size_bytes(), protection, MAP_SHARED,
                               fds_[section.fd_index()].get(), 0);
  if (address == MAP_FAILED) return false;
  mapped_.push_back({.region_index = region_index,
                     .kind = section.kind(),
                     .fd_index = section.fd_index(),
                     .bytes = static_cast<uint8_t*>(address),
                     .size_bytes = section.size_bytes()});
  return true;
}

bool RawClient::MapAll() {
  for (const v1::RegionGrant& region : grants_.regions()) {
    for (const v1::SectionGrant& section : region.sections()) {
      if (!MapOne(region.index(), section)) return false;
    }
  }
  return !grants_.has_signal() || MapOne(kSignalRegion, grants_.signal());
}

std::string RawClient::Attach(const std::string& ticket) {
  if (std::string problem = Redeem(ticket); !problem.empty()) return problem;
  if (!MapAll()) return absl::StrCat("mmap: ", strerror(errno));
  if (const int error = SendMapped(); error != 0) return strerror(error);
  return {};
}

int RawClient::SectionFd(uint32_t region_index, v1::SectionKind kind) const {
  for (const Mapped& mapped : mapped_) {
    if (mapped.region_index == region_index && mapped.kind == kind)
      return fds_[mapped.fd_index].get();
  }
  return -1;
}

uint8_t* RawClient::SectionBytes(uint32_t region_index, v1::SectionKind kind) const {
  for (const Mapped& mapped : mapped_) {
    if (mapped.region_index == region_index && mapped.kind == kind) return mapped.bytes;
  }
  return nullptr;
}

uint64_t RawClient::Head(uint32_t region_index) const {
  return LoadWord<uint64_t>(SectionBytes(region_index, v1::SECTION_KIND_HEAD));
}

uint64_t RawClient::Tail(uint32_t region_index) const {
  return LoadWord<uint64_t>(SectionBytes(region_index, v1::SECTION_KIND_HEAD) + 8);
}

void RawClient::SetTail(uint32_t region_index, uint64_t tail) {
  auto* const word =
      reinterpret_cast<uint64_t*>(SectionBytes(region_index, v1::SECTION_KIND_HEAD) + 8);
  std::atomic_ref<uint64_t>(*word).store(tail, std::memory_order_release);
}

void RawClient::SetHead(uint32_t region_index, uint64_t head) {
  auto* const word = reinterpret_cast<uint64_t*>(SectionBytes(region_index, v1::SECTION_KIND_HEAD));
  std::atomic_ref<uint64_t>(*word).store(head, std::memory_order_release);
}

uint32_t RawClient::Signals() const {
  const uint8_t* const page = SectionBytes(kSignalRegion, v1::SECTION_KIND_SIGNAL);
  return LoadWord<uint32_t>(page + grants_.signal_offset_bytes());
}

v1::CloseReason RawClient::SignalReason() const {
  const uint8_t* const line =
      SectionBytes(kSignalRegion, v1::SECTION_KIND_SIGNAL) + grants_.signal_offset_bytes();
  v1::CloseReason reason;
  reason.set_kind(static_cast<v1::CloseKind>(LoadWord<uint32_t>(line + 8)));
  reason.set_code(static_cast<int32_t>(LoadWord<uint32_t>(line + 12)));
  return reason;
}

}  // namespace iob::test
