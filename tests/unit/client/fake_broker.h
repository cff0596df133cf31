// A broker that a test writes: a real SEQPACKET socket, real sealed memory, and answers of the
// test's choice. The handshake runs in a thread, because Endpoint::Attach blocks; afterwards the
// test plays the broker on peer(), in its own thread.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/types.h"
#include "iob/v1/attach.pb.h"
#include "shm/fd_channel.h"
#include "shm/futex.h"
#include "shm/mediated_ring_writer.h"
#include "shm/signal_page.h"
#include "tests/support/shm_ring.h"

namespace iob::test {

inline constexpr int64_t kPatienceNs = 5'000'000'000;

inline Secret TestSecret() {
  Secret secret;
  secret.fill(std::byte{0x5a});
  return secret;
}

// What the client sent next; nothing when it hung up.
inline std::optional<v1::ClientPacket> ReceivePacket(shm::FdChannel* channel) {
  std::vector<std::byte> buffer(shm::kPacketBytesMax);
  const auto received = channel->ReceiveBy(buffer, 0, shm::MonotonicNs() + kPatienceNs);
  EXPECT_TRUE(received.ok()) << received.status();
  if (!received.ok() || received->outcome != shm::ReceiveOutcome::kPacket) return std::nullopt;
  v1::ClientPacket packet;
  EXPECT_TRUE(packet.ParseFromArray(buffer.data(), static_cast<int>(received->size_bytes)));
  return packet;
}

inline void SendRaw(shm::FdChannel* channel, const std::string& bytes,
                    const std::vector<shm::UniqueFd>& fds = {}) {
  std::vector<int> numbers;
  for (const shm::UniqueFd& fd : fds) numbers.push_back(fd.get());
  EXPECT_TRUE(channel->Send(BytesOf(bytes), numbers).ok());
}

inline void SendPacket(shm::FdChannel* channel, const v1::BrokerPacket& packet,
                       const std::vector<shm::UniqueFd>& fds = {}) {
  SendRaw(channel, packet.SerializeAsString(), fds);
}

class FakeBroker {
 public:
  FakeBroker() {
    std::string pattern = "/tmp/iob-client-XXXXXX";
    IOB_CHECK(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket_path().data(), socket_path().size());
    listener_ = shm::UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    IOB_CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    IOB_CHECK(::listen(listener_.get(), 4) == 0);
  }
  ~FakeBroker() {
    Join();
    std::filesystem::remove_all(directory_);
  }

  std::string socket_path() const { return directory_ + "/attach.sock"; }
  Ticket ticket(EndpointId endpoint = EndpointId::kEp0) const {
    return Ticket(TestSecret(), endpoint, socket_path(), std::chrono::seconds(10));
  }

  // Accepts one connection and runs `serve` on it, in a thread.
  void Serve(std::function<void(shm::FdChannel*)> serve) {
    thread_ = std::thread([this, serve = std::move(serve)] {
      const int accepted =
          ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      IOB_CHECK(accepted >= 0);
      peer_ = shm::FdChannel(shm::UniqueFd(accepted));
      serve(&peer_);
    });
  }
  // As Serve, with the redeem received and answered.
  void Answer(v1::BrokerPacket answer, std::vector<shm::UniqueFd> fds) {
    Serve([answer = std::move(answer), fds = std::make_shared<std::vector<shm::UniqueFd>>(
                                           std::move(fds))](shm::FdChannel* channel) {
      ReceivePacket(channel);
      SendPacket(channel, answer, *fds);
    });
  }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // After Join: the broker's end of the connection.
  shm::FdChannel* peer() { return &peer_; }

 private:
  std::string directory_;
  shm::UniqueFd listener_;
  std::thread thread_;
  shm::FdChannel peer_;
};

// A buffer as an honest broker makes it, seen from ep0: region 0 a ring that it consumes, region 1
// raw memory that it maps for writing, region 2 a ring that it writes.
struct HonestBuffer {
  static constexpr uint64_t kRingCapacity = 64 << 10;

  CountingWriter ring{kRingCapacity};
  shm::SealedMemfd raw = MakeMemfd(shm::PageBytes());
  shm::SignalPageWriter signal = shm::SignalPageWriter::Create(1).value();

  v1::GrantSet Grants() const {
    v1::GrantSet grants;
    grants.set_buffer_koid(7);
    grants.set_name("honest");
    grants.set_endpoint(v1::ENDPOINT_ID_EP0);
    grants.set_endpoint_koid(8);
    grants.set_peer_koid(9);
    grants.set_handle_rights(HandleRights::kEndpointDefault);
    v1::RegionGrant* const consumed =
        AddRegion(&grants, v1::DISCIPLINE_MEDIATED_RING, ring_region_bytes(), 0x83);
    AddSection(consumed, v1::SECTION_KIND_HEAD, shm::PageBytes(), true, 0);
    AddSection(consumed, v1::SECTION_KIND_DATA, ring_region_bytes(), false, 1);
    v1::RegionGrant* const mapped = AddRegion(&grants, v1::DISCIPLINE_NONE, shm::PageBytes(), 0x13);
    AddSection(mapped, v1::SECTION_KIND_DATA, shm::PageBytes(), true, 2);
    AddRegion(&grants, v1::DISCIPLINE_MEDIATED_RING, ring_region_bytes(), 0x38);
    Fill(grants.mutable_signal(), v1::SECTION_KIND_SIGNAL, shm::PageBytes(), false, 3);
    return grants;
  }

  std::vector<shm::UniqueFd> Fds() {
    std::vector<shm::UniqueFd> fds;
    fds.push_back(ring.ring().head_memfd().OpenGrant(shm::FdMode::kReadWrite).value());
    fds.push_back(ring.ring().data_memfd().OpenGrant(shm::FdMode::kReadOnly).value());
    fds.push_back(raw.OpenGrant(shm::FdMode::kReadWrite).value());
    fds.push_back(signal.memfd().OpenGrant(shm::FdMode::kReadOnly).value());
    return fds;
  }

  static uint64_t ring_region_bytes() { return kRingCapacity + shm::PageBytes(); }

 private:
  static v1::RegionGrant* AddRegion(v1::GrantSet* grants, v1::Discipline discipline,
                                    uint64_t size_bytes, uint32_t access_bits) {
    v1::RegionGrant* const region = grants->add_regions();
    region->set_index(static_cast<uint32_t>(grants->regions_size() - 1));
    region->set_type(v1::REGION_TYPE_PRIVATE);
    region->set_discipline(discipline);
    region->set_size_bytes(size_bytes);
    region->set_access_bits(access_bits);
    region->set_enforcement(v1::ENFORCEMENT_SEALED);
    return region;
  }
  static void AddSection(v1::RegionGrant* region, v1::SectionKind kind, uint64_t size_bytes,
                         bool writable, uint32_t fd_index) {
    Fill(region->add_sections(), kind, size_bytes, writable, fd_index);
  }
  static void Fill(v1::SectionGrant* section, v1::SectionKind kind, uint64_t size_bytes,
                   bool writable, uint32_t fd_index) {
    section->set_kind(kind);
    section->set_size_bytes(size_bytes);
    section->set_writable(writable);
    section->set_fd_index(fd_index);
  }
};

inline v1::BrokerPacket GrantsPacket(const v1::GrantSet& grants) {
  v1::BrokerPacket packet;
  *packet.mutable_grants() = grants;
  return packet;
}

// An endpoint that an honest broker attached, with the broker's side in the test's hands.
class Attached : public ::testing::Test {
 protected:
  Attached() {
    broker_.Answer(GrantsPacket(buffer_.Grants()), buffer_.Fds());
    auto endpoint = Endpoint::Attach(broker_.ticket());
    broker_.Join();
    IOB_CHECK(endpoint.ok());
    endpoint_.emplace(std::move(*endpoint));
    const auto mapped = ReceivePacket(broker_.peer());
    EXPECT_TRUE(mapped && mapped->has_mapped());
  }

  FakeBroker broker_;
  HonestBuffer buffer_;
  std::optional<Endpoint> endpoint_;
};

}  // namespace iob::test
