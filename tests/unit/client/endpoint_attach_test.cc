// Endpoint::Attach against brokers that lie: whatever they send, the answer is an error that says
// what was wrong, nothing is mapped, and no descriptor stays open.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "shm/kernel.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using Fds = std::vector<shm::UniqueFd>;

TEST(EndpointAttach, BelievesAnHonestBroker) {
  FakeBroker broker;
  HonestBuffer buffer;
  broker.Answer(GrantsPacket(buffer.Grants()), buffer.Fds());
  ASSERT_OK_AND_ASSIGN(const Endpoint endpoint, Endpoint::Attach(broker.ticket()));
  broker.Join();
  EXPECT_EQ(endpoint.info().name, "honest");
  EXPECT_EQ(endpoint.info().buffer_koid, 7u);
  EXPECT_EQ(endpoint.info().koid, 8u);
  EXPECT_EQ(endpoint.info().peer_koid, 9u);
  ASSERT_EQ(endpoint.info().regions.size(), 3u);
  EXPECT_EQ(endpoint.info().regions[0].discipline, Discipline::kMediatedRing);
  EXPECT_EQ(endpoint.info().regions[0].enforcement, Enforcement::kSealed);
  EXPECT_EQ(endpoint.info().rights, HandleRights());
  EXPECT_FALSE(endpoint.peer_closed());
}

TEST(EndpointAttach, SendsTheTicketAndTheProtocolVersion) {
  FakeBroker broker;
  HonestBuffer buffer;
  v1::ClientPacket redeem;
  broker.Serve([&](shm::FdChannel* channel) {
    redeem = ReceivePacket(channel).value_or(v1::ClientPacket());
    SendPacket(channel, GrantsPacket(buffer.Grants()), buffer.Fds());
  });
  ASSERT_THAT(Endpoint::Attach(broker.ticket()), IsOk());
  broker.Join();
  EXPECT_EQ(redeem.redeem().ticket(), std::string(16, '\x5a'));
  EXPECT_EQ(redeem.redeem().protocol_version(), 1u);
}

// One lie in an otherwise honest answer.
struct Lie {
  const char* name;
  std::function<void(v1::GrantSet*, Fds*)> tell;
  StatusCode code = StatusCode::kDataLoss;
  const char* reason = "PROTOCOL";
};

v1::SectionGrant* HeadOf(v1::GrantSet* grants) {
  return grants->mutable_regions(0)->mutable_sections(0);
}
v1::SectionGrant* DataOf(v1::GrantSet* grants) {
  return grants->mutable_regions(0)->mutable_sections(1);
}

shm::UniqueFd Unsealed(uint64_t size_bytes) {
  shm::UniqueFd fd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  return fd;
}

shm::UniqueFd ReadOnlyGrant(uint64_t size_bytes) {
  return MakeMemfd(size_bytes).OpenGrant(shm::FdMode::kReadOnly).value();
}

std::vector<Lie> LiesAboutDescriptors() {
  return {
      {"ADescriptorIsMissing", [](v1::GrantSet*, Fds* fds) { fds->pop_back(); }},
      {"NoDescriptorsAtAll", [](v1::GrantSet*, Fds* fds) { fds->clear(); }},
      {"OneDescriptorTooMany",
       [](v1::GrantSet*, Fds* fds) { fds->push_back(ReadOnlyGrant(shm::PageBytes())); }},
      {"AnIndexOutOfRange", [](v1::GrantSet* grants, Fds*) { DataOf(grants)->set_fd_index(4); }},
      {"TheHighestIndex",
       [](v1::GrantSet* grants, Fds*) { DataOf(grants)->set_fd_index(UINT32_MAX); }},
      {"OneIndexTwice", [](v1::GrantSet* grants, Fds*) { DataOf(grants)->set_fd_index(0); }},
      {"AnUnsealedMemfd", [](v1::GrantSet*, Fds* fds) { (*fds)[0] = Unsealed(shm::PageBytes()); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"NotAMemfd",
       [](v1::GrantSet*, Fds* fds) {
         (*fds)[0] = shm::UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));
       },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"ASmallerMemfdThanSaid",
       [](v1::GrantSet*, Fds* fds) { (*fds)[1] = ReadOnlyGrant(shm::PageBytes()); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"RingDataThatOthersCanWrite",
       [](v1::GrantSet*, Fds* fds) {
         (*fds)[1] = ReadOnlyGrant(HonestBuffer::ring_region_bytes());
       },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"ASignalPageThatOthersCanWrite",
       [](v1::GrantSet*, Fds* fds) { (*fds)[3] = ReadOnlyGrant(shm::PageBytes()); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"AReadOnlyDescriptorSaidToBeWritable",
       [](v1::GrantSet*, Fds* fds) { (*fds)[2] = ReadOnlyGrant(shm::PageBytes()); }},
  };
}

std::vector<Lie> LiesAboutFollowers() {
  return {
      {"FollowersWithoutTheirPage",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(0)->mutable_mediated_ring()->set_followers(true);
       }},
      {"APageForFollowersThatMayNotBe",
       [](v1::GrantSet* grants, Fds* fds) {
         v1::SectionGrant& page = *grants->mutable_regions(0)->add_sections();
         page = grants->regions(0).sections(0);
         page.set_kind(v1::SECTION_KIND_FOLLOW);
         page.set_fd_index(4);
         fds->push_back(MakeMemfd(shm::PageBytes()).OpenGrant(shm::FdMode::kReadWrite).value());
       }},
      {"FollowersWithAPageThatTheyCannotWrite",
       [](v1::GrantSet* grants, Fds* fds) {
         grants->mutable_regions(0)->mutable_mediated_ring()->set_followers(true);
         v1::SectionGrant& page = *grants->mutable_regions(0)->add_sections();
         page = grants->regions(0).sections(0);
         page.set_kind(v1::SECTION_KIND_FOLLOW);
         page.set_writable(false);
         page.set_fd_index(4);
         fds->push_back(ReadOnlyGrant(shm::PageBytes()));
       }},
  };
}

std::vector<Lie> LiesAboutGeometry() {
  return {
      {"NoRegions", [](v1::GrantSet* grants, Fds*) { grants->clear_regions(); }},
      {"SixtyFiveRegions",
       [](v1::GrantSet* grants, Fds*) {
         while (grants->regions_size() < 65) {
           v1::RegionGrant* const region = grants->add_regions();
           *region = grants->regions(2);
           region->set_index(static_cast<uint32_t>(grants->regions_size() - 1));
         }
       }},
      {"RegionsOutOfOrder",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_index(2); }},
      {"ARegionOfNoBytes",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(2)->set_size_bytes(0); }},
      {"ARegionOfHalfAPage",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(2)->set_size_bytes(2048); }},
      {"ARingOfOnePage",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(2)->set_size_bytes(shm::PageBytes());
       }},
      {"ARingOfAllAddresses",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(2)->set_size_bytes(~(shm::PageBytes() - 1));
       }},
      {"ARingLargerThanItsSections",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(0)->set_size_bytes(2 * HonestBuffer::ring_region_bytes());
       }},
      {"ARegionLargerThanItsSection",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(1)->set_size_bytes(2 * shm::PageBytes());
       }},
      {"HalfARing",
       [](v1::GrantSet* grants, Fds* fds) {
         grants->mutable_regions(0)->mutable_sections()->RemoveLast();
         grants->mutable_regions(1)->mutable_sections(0)->set_fd_index(1);
         grants->mutable_signal()->set_fd_index(2);
         fds->erase(fds->begin() + 1);
       }},
      {"TwoHeads",
       [](v1::GrantSet* grants, Fds*) { DataOf(grants)->set_kind(v1::SECTION_KIND_HEAD); }},
      {"ASectionOfNoKind",
       [](v1::GrantSet* grants, Fds*) { HeadOf(grants)->set_kind(v1::SECTION_KIND_UNSPECIFIED); }},
      {"MemoryWithoutAMapRight",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_access_bits(0x18); }},
      {"WritableMemoryWithoutMapWrite",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_access_bits(0x11); }},
      {"AccessBitsBeyondEight",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_access_bits(0x113); }},
      {"ADisciplineOfNoKind",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(2)->set_discipline(v1::DISCIPLINE_UNSPECIFIED);
       }},
      {"NoSignalPage", [](v1::GrantSet* grants, Fds*) { grants->clear_signal(); }},
      {"ASignalLineBeyondItsPage",
       [](v1::GrantSet* grants, Fds*) { grants->set_signal_offset_bytes(4080); }},
      {"AMisalignedSignalLine",
       [](v1::GrantSet* grants, Fds*) { grants->set_signal_offset_bytes(4); }},
      {"TheHighestSignalLine",
       [](v1::GrantSet* grants, Fds*) { grants->set_signal_offset_bytes(UINT32_MAX & ~7u); }},
      {"TheOtherEndpoint",
       [](v1::GrantSet* grants, Fds*) { grants->set_endpoint(v1::ENDPOINT_ID_EP1); }},
  };
}

std::vector<Lie> LiesAboutRights() {
  const auto without = [](uint32_t rights) {
    return [rights](v1::GrantSet* grants, Fds*) {
      grants->set_handle_rights(RightsWithout(rights).bits());
    };
  };
  return {
      {"ARightToExecute",
       [](v1::GrantSet* grants, Fds*) { grants->set_handle_rights(grants->handle_rights() | 16); }},
      {"AllRightsThereCouldBe",
       [](v1::GrantSet* grants, Fds*) { grants->set_handle_rights(UINT32_MAX); }},
      {"TheSameRightsAsWhat",
       [](v1::GrantSet* grants, Fds*) { grants->set_handle_rights(HandleRights::kSameRights); }},
      {"NoRightsAtAll", [](v1::GrantSet* grants, Fds*) { grants->set_handle_rights(0); }},
      {"ASignalPageWithoutWait", without(HandleRights::kWait)},
      {"MemoryWithoutMap", without(HandleRights::kMap)},
      {"MemoryWithoutRead", without(HandleRights::kRead)},
      {"WritableMemoryWithoutWrite", without(HandleRights::kWrite)},
      {"NoSignalPageAndNoDescriptorOfOne",
       [](v1::GrantSet* grants, Fds* fds) {
         grants->clear_signal();
         fds->pop_back();
       }},
      {"AnOwnerNumberForRawMemory",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_id_owner(2); }},
      {"AnOwnerNumberForARing",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(0)->set_id_owner(2); }},
      {"MemoryForARegionOfNoBytes",
       [](v1::GrantSet* grants, Fds*) { grants->mutable_regions(1)->set_size_bytes(0); }},
  };
}

class LyingBroker : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingBroker, IsNotBelieved) {
  const int open_before = OpenFds();
  {
    FakeBroker broker;
    HonestBuffer buffer;
    v1::GrantSet grants = buffer.Grants();
    Fds fds = buffer.Fds();
    GetParam().tell(&grants, &fds);
    broker.Answer(GrantsPacket(grants), std::move(fds));
    const absl::StatusOr<Endpoint> endpoint = Endpoint::Attach(broker.ticket());
    broker.Join();
    EXPECT_THAT(endpoint, StatusIs(GetParam().code));
    EXPECT_EQ(ReasonOf(endpoint.status()), GetParam().reason);
    // It hung up without confirming.
    EXPECT_FALSE(ReceivePacket(broker.peer()).has_value());
  }
  EXPECT_EQ(OpenFds(), open_before);
}

std::string NameOf(const ::testing::TestParamInfo<Lie>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Descriptors, LyingBroker, ::testing::ValuesIn(LiesAboutDescriptors()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Followers, LyingBroker, ::testing::ValuesIn(LiesAboutFollowers()), NameOf);
INSTANTIATE_TEST_SUITE_P(Geometry, LyingBroker, ::testing::ValuesIn(LiesAboutGeometry()), NameOf);
INSTANTIATE_TEST_SUITE_P(Rights, LyingBroker, ::testing::ValuesIn(LiesAboutRights()), NameOf);

// Three id allocators with one descriptor each, sealed, shared and written by this endpoint, shared
// and written by the peer; and one that this endpoint may not map.
constexpr int kSealedIds = 0;
constexpr int kOwnIds = 1;
constexpr int kPeersIds = 2;
constexpr int kForeignIds = 3;

void AddAllIds(TestBuffer* buffer) {
  for (const uint32_t access_bits : {0x89, 0x33, 0x31, 0x90}) buffer->AddIds(2, access_bits);
}

shm::UniqueFd SealedIdsGrant(shm::FdMode mode) {
  return shm::IdAllocatorSealedWriter::Create(shm::Pages(2), {})
      .value()
      .memfd()
      .OpenGrant(mode)
      .value();
}

std::vector<Lie> LiesAboutIds() {
  const auto owner = [](int region, uint32_t number) {
    return [region, number](v1::GrantSet* grants, Fds*) {
      grants->mutable_regions(region)->set_id_owner(number);
    };
  };
  const auto size = [](uint64_t size_bytes) {
    return [size_bytes](v1::GrantSet* grants, Fds*) {
      grants->mutable_regions(kSealedIds)->set_size_bytes(size_bytes);
    };
  };
  return {
      {"SealedIdsThatOthersCanWrite",
       [](v1::GrantSet*, Fds* fds) { (*fds)[kSealedIds] = ReadOnlyGrant(2 * shm::PageBytes()); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"SharedIdsThatNobodyCanWrite",
       [](v1::GrantSet*, Fds* fds) { (*fds)[kOwnIds] = SealedIdsGrant(shm::FdMode::kReadWrite); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"PeersIdsThatItCannotWrite",
       [](v1::GrantSet*, Fds* fds) { (*fds)[kPeersIds] = SealedIdsGrant(shm::FdMode::kReadOnly); },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"SealedIdsSaidToBeShared",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(kSealedIds)->set_access_bits(0x31);
       },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"SharedIdsSaidToBeSealed",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(kPeersIds)->set_access_bits(0x81);
       },
       StatusCode::kDataLoss, "INTEGRITY"},
      {"NoOwnerNumberForAWriter", owner(kOwnIds, 0)},
      {"TheBrokersOwnerNumber", owner(kOwnIds, 1)},
      {"AnOwnerNumberTooHigh", owner(kOwnIds, 4095)},
      {"TheHighestOwnerNumber", owner(kOwnIds, UINT32_MAX)},
      {"AnOwnerNumberForAReader", owner(kPeersIds, 2)},
      {"AnOwnerNumberInSealedIds", owner(kSealedIds, 2)},
      {"IdsLargerThanTheirSection", size(4 * shm::PageBytes())},
      {"IdsOfNoBytes", size(0)},
      {"IdsOfHalfAPage", size(2048)},
      {"IdsThatTheirOffsetsCannotReach", size(uint64_t{1} << 32)},
      {"IdsOfAllAddresses", size(~(shm::PageBytes() - 1))},
      {"IdsWithoutMemoryThatTheirOffsetsCannotReach",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(kForeignIds)->set_size_bytes(uint64_t{1} << 32);
       }},
      {"AnOwnerNumberWithoutMemory", owner(kForeignIds, 2)},
      {"IdsWithAHead",
       [](v1::GrantSet* grants, Fds*) {
         grants->mutable_regions(kSealedIds)->mutable_sections(0)->set_kind(v1::SECTION_KIND_HEAD);
       }},
      {"WritableSealedIds",
       [](v1::GrantSet* grants, Fds* fds) {
         grants->mutable_regions(kSealedIds)->mutable_sections(0)->set_writable(true);
         (*fds)[kSealedIds] = SealedIdsGrant(shm::FdMode::kReadWrite);
       }},
  };
}

class LyingBrokerOfIds : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingBrokerOfIds, IsNotBelieved) {
  const int open_before = OpenFds();
  {
    FakeBroker broker;
    TestBuffer buffer;
    AddAllIds(&buffer);
    Given given = buffer.Give();
    GetParam().tell(&given.grants, &given.fds);
    broker.Answer(GrantsPacket(given.grants), std::move(given.fds));
    const absl::Status status = Endpoint::Attach(broker.ticket()).status();
    broker.Join();
    EXPECT_THAT(status, StatusIs(GetParam().code));
    EXPECT_EQ(ReasonOf(status), GetParam().reason);
    EXPECT_FALSE(ReceivePacket(broker.peer()).has_value());
  }
  EXPECT_EQ(OpenFds(), open_before);
}

INSTANTIATE_TEST_SUITE_P(Ids, LyingBrokerOfIds, ::testing::ValuesIn(LiesAboutIds()), NameOf);

TEST(EndpointAttach, BelievesAnHonestBrokerOfIds) {
  for (const uint32_t owner : {2u, shm::kIdOwnersMax}) {
    FakeBroker broker;
    TestBuffer buffer;
    AddAllIds(&buffer);
    Given given = buffer.Give();
    given.grants.mutable_regions(kOwnIds)->set_id_owner(owner);
    EXPECT_THAT(AttachTo(&broker, std::move(given)), IsOk());
  }
}

TEST(EndpointAttach, TakesARegionOfNoBytesWithOrWithoutADescriptor) {
  for (const bool with_descriptor : {false, true}) {
    FakeBroker broker;
    TestBuffer buffer;
    buffer.AddRaw(0, 0x13);
    Given given = buffer.Give();
    if (with_descriptor) {
      v1::SectionGrant* const section = given.grants.mutable_regions(0)->add_sections();
      section->set_kind(v1::SECTION_KIND_DATA);
      section->set_writable(true);
      section->set_fd_index(1);
      given.fds.push_back(buffer.raw(0).OpenGrant(shm::FdMode::kReadWrite).value());
    }
    ASSERT_OK_AND_ASSIGN(const Endpoint endpoint, AttachTo(&broker, std::move(given)));
    EXPECT_EQ(endpoint.info().regions[0].size_bytes, 0u);
  }
}

TEST(EndpointAttach, TakesAHandleWithFewRights) {
  for (const uint32_t rights :
       {0u, HandleRights::kWait, HandleRights::kMap, HandleRights::kMap | HandleRights::kWrite}) {
    FakeBroker broker;
    TestBuffer buffer;
    buffer.AddRing(16 << 10, 0x83);
    buffer.AddRaw(shm::PageBytes(), 0x13);
    buffer.AddIds(1, 0x33);
    ASSERT_OK_AND_ASSIGN(const Endpoint endpoint,
                         AttachTo(&broker, buffer.Give(HandleRights(rights))));
    EXPECT_EQ(endpoint.info().rights, HandleRights(rights));
  }
}

// The status of attaching to a broker that serves like this.
absl::Status AttachTo(std::function<void(shm::FdChannel*)> serve,
                      std::chrono::milliseconds timeout = std::chrono::seconds(5)) {
  FakeBroker broker;
  broker.Serve(std::move(serve));
  absl::Status status = Endpoint::Attach(broker.ticket(), {.timeout = timeout}).status();
  broker.Join();
  return status;
}

TEST(EndpointAttach, TellsTheBrokersOwnError) {
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(16);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_BAD_HANDLE);
  packet.mutable_error()->set_message("no such ticket");
  const absl::Status status = AttachTo([&](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendPacket(channel, packet);
    channel->Close();
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kUnauthenticated, "no such ticket"));
  EXPECT_EQ(ReasonOf(status), "BAD_HANDLE");
}

TEST(EndpointAttach, MakesAnErrorOfAnErrorWithoutACode) {
  v1::BrokerPacket packet;
  packet.mutable_error()->set_message("0 is no error code");
  const absl::Status status = AttachTo([&](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendPacket(channel, packet);
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kUnknown));
}

TEST(EndpointAttach, ReadsTheErrorOfABrokerThatHungUpBeforeTheRedeem) {
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(14);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_BUSY);
  const absl::Status status = AttachTo([&](shm::FdChannel* channel) {
    SendPacket(channel, packet);
    channel->Close();
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), "BUSY");
}

TEST(EndpointAttach, RefusesGarbage) {
  const absl::Status status = AttachTo([](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendRaw(channel, "\xff\xff\xff\xff garbage");
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(status), "PROTOCOL");
}

TEST(EndpointAttach, RefusesAnEmptyPacket) {
  const absl::Status status = AttachTo([](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendRaw(channel, "");
    ReceivePacket(channel);  // Stays until the client has hung up.
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss, "empty"));
}

TEST(EndpointAttach, RefusesAPacketOverTheLimit) {
  const absl::Status status = AttachTo([](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendRaw(channel, std::string(shm::kPacketBytesMax + 1, 'x'));
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss, "65536"));
}

TEST(EndpointAttach, RefusesAnAnswerToAnotherQuestion) {
  v1::BrokerPacket packet;
  packet.mutable_write_result()->set_stored(1);
  const absl::Status status = AttachTo([&](shm::FdChannel* channel) {
    ReceivePacket(channel);
    SendPacket(channel, packet);
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss));
}

TEST(EndpointAttach, NoticesABrokerThatHangsUp) {
  const absl::Status status = AttachTo([](shm::FdChannel* channel) {
    ReceivePacket(channel);
    channel->Close();
  });
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), kReasonDisconnected);
}

TEST(EndpointAttach, DoesNotWaitForEverForASilentBroker) {
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = AttachTo(
      [](shm::FdChannel* channel) {
        ReceivePacket(channel);
        ReceivePacket(channel);  // The end: the client gave up.
      },
      std::chrono::milliseconds(50));
  EXPECT_THAT(status, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(ReasonOf(status), "DEADLINE");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(EndpointAttach, SaysThatNobodyListens) {
  const Ticket ticket(TestSecret(), EndpointId::kEp0, "/nonexistent/attach.sock",
                      std::chrono::seconds(1));
  const absl::Status status = Endpoint::Attach(ticket).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, "/nonexistent/attach.sock"));
  EXPECT_EQ(ReasonOf(status), kReasonDisconnected);
}

TEST(EndpointAttach, SaysThatTheDescriptorTableIsFull) {
  Child child([] {
    FakeBroker broker;
    HonestBuffer buffer;
    // Open until the client has its answer: it finds its own socket in place, and room for fewer
    // descriptors than come.
    const Fds fds = buffer.Fds();
    broker.Serve([&](shm::FdChannel* channel) {
      ReceivePacket(channel);
      // Room for one: everything below the lowest free number is taken.
      const auto lowest_free = static_cast<rlim_t>(shm::UniqueFd(::dup(0)).get());
      const rlimit limit = {.rlim_cur = lowest_free + 1, .rlim_max = lowest_free + 1};
      ::setrlimit(RLIMIT_NOFILE, &limit);
      SendPacket(channel, GrantsPacket(buffer.Grants()), fds);
    });
    EXPECT_THAT(Endpoint::Attach(broker.ticket()),
                StatusIs(StatusCode::kResourceExhausted, "RLIMIT_NOFILE"));
  });
  EXPECT_EQ(child.Join(), 0);
}

}  // namespace
}  // namespace iob::test
