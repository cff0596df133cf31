// Broker's calls against a control plane that the test plays: what is asked, what is made of the
// answer, and that errors and retries keep their meaning.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/broker.h"
#include "client/error.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_control.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

std::string SecretText(char fill) { return std::string(kSecretBytes, fill); }

Handle HandleOf(char fill) {
  Secret secret;
  secret.fill(static_cast<std::byte>(fill));
  return Handle(secret);
}

class BrokerCallsTest : public ::testing::Test {
 protected:
  FakeControl control_;
  Broker broker_ = control_.Connect();
};

TEST_F(BrokerCallsTest, CreatesASharedRegion) {
  v1::CreateSharedRegionRequest asked;
  control_.on_CreateSharedRegion = [&](const auto& request, auto* response) {
    asked = request;
    response->set_handle(SecretText('h'));
    v1::SharedRegionInfo& region = *response->mutable_region();
    region.set_koid(7);
    region.mutable_owner()->set_uid(1000);
    region.set_size_bytes(8192);
    region.set_handles(1);
    region.set_memory_bytes(12288);
    region.set_signals(UserSignal(2));
    region.set_user_count(1001);
    region.add_users()->set_buffer_koid(9);
    region.mutable_users(0)->set_buffer_name("user");
    region.mutable_users(0)->set_region_index(3);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(const CreatedSharedRegion created, broker_.CreateSharedRegion(8192, 90s));
  EXPECT_EQ(asked.size_bytes(), 8192u);
  EXPECT_EQ(asked.lease_ms(), 90'000u);
  EXPECT_EQ(asked.request_id().size(), 32u);
  EXPECT_EQ(created.handle.secret(), HandleOf('h').secret());
  EXPECT_EQ(created.info.koid, 7u);
  EXPECT_EQ(created.info.owner.uid, 1000u);
  EXPECT_EQ(created.info.size_bytes, 8192u);
  EXPECT_EQ(created.info.handles, 1u);
  EXPECT_EQ(created.info.memory_bytes, 12288u);
  EXPECT_EQ(created.info.signals, UserSignal(2));
  EXPECT_EQ(created.info.user_count, 1001u);
  ASSERT_EQ(created.info.users.size(), 1u);
  EXPECT_EQ(created.info.users[0].buffer_koid, 9u);
  EXPECT_EQ(created.info.users[0].buffer_name, "user");
  EXPECT_EQ(created.info.users[0].region_index, 3u);
}

TEST_F(BrokerCallsTest, LooksAtASharedRegionByIdAndByHandle) {
  std::vector<v1::GetSharedRegionRequest> asked;
  control_.on_GetSharedRegion = [&](const auto& request, auto* response) {
    asked.push_back(request);
    response->mutable_region()->set_koid(7);
    return grpc::Status();
  };
  EXPECT_EQ(broker_.GetSharedRegion(7).value().koid, 7u);
  EXPECT_EQ(broker_.GetSharedRegion(HandleOf('h')).value().koid, 7u);
  EXPECT_EQ(asked[0].koid(), 7u);
  EXPECT_EQ(asked[1].handle(), SecretText('h'));
}

TEST_F(BrokerCallsTest, CreatesABufferOverASharedRegionWithALease) {
  v1::CreateBufferRequest asked;
  control_.on_CreateBuffer = [&](const auto& request, auto* response) {
    asked = request;
    response->set_ep0_handle(SecretText('0'));
    response->set_ep1_handle(SecretText('1'));
    return grpc::Status();
  };
  RegionSpec ids = IdAllocatorSpec(8192);
  ids.interned_blobs_max = 5;
  EXPECT_THAT(broker_.CreateBuffer({.regions = {SharedRingSpec(HandleOf('s')), ids}, .lease = 1h}),
              IsOk());
  EXPECT_EQ(asked.lease_ms(), 3'600'000u);
  EXPECT_EQ(asked.regions(0).type(), v1::REGION_TYPE_SHARED);
  EXPECT_EQ(asked.regions(0).shared_region(), SecretText('s'));
  EXPECT_EQ(asked.regions(0).size_bytes(), 0u);
  EXPECT_EQ(asked.regions(1).discipline(), v1::DISCIPLINE_ID_ALLOCATOR);
  EXPECT_EQ(asked.regions(1).access_bits(), 0x81u);
  EXPECT_EQ(asked.regions(1).interned_blobs_max(), 5u);
}

TEST_F(BrokerCallsTest, RefusesANegativeLeaseByItself) {
  EXPECT_EQ(ReasonOf(broker_.CreateBuffer({.lease = -1ms}).status()), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonOf(broker_.CreateSharedRegion(8192, -1ms).status()), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonOf(broker_.OpenHandle("n", EndpointId::kEp0, -1ms).status()), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonOf(broker_.DuplicateHandle(HandleOf('h'), {}, {.lease = -1ms}).status()),
            "INVALID_ARGUMENT");
}

TEST_F(BrokerCallsTest, OpensAHandleWithALease) {
  v1::OpenBufferRequest asked;
  control_.on_OpenBuffer = [&](const auto& request, auto* response) {
    asked = request;
    response->set_handle(SecretText('o'));
    return grpc::Status();
  };
  EXPECT_THAT(broker_.OpenHandle("n", EndpointId::kEp1, 60s), IsOk());
  EXPECT_EQ(asked.lease_ms(), 60'000u);
  EXPECT_FALSE(asked.attach());
}

TEST_F(BrokerCallsTest, LooksThroughAHandle) {
  v1::GetBufferRequest asked;
  control_.on_GetBuffer = [&](const auto& request, auto* response) {
    asked = request;
    response->set_viewer(v1::ENDPOINT_ID_EP1);
    v1::BufferInfo& buffer = *response->mutable_buffer();
    buffer.set_koid(7);
    v1::RegionInfo& region = *buffer.add_regions();
    region.set_access_bits(0x18);
    region.mutable_id_allocator()->set_next_id(5);
    region.mutable_id_allocator()->set_free_bytes(100);
    region.mutable_id_allocator()->set_shared(true);
    region.mutable_id_allocator()->set_damaged(true);
    buffer.add_regions()->set_koid(8);
    buffer.add_endpoints()->set_signals(kSignalPeerClosed);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(const BufferView view, broker_.GetBuffer(HandleOf('h')));
  EXPECT_EQ(asked.handle(), SecretText('h'));
  EXPECT_EQ(view.viewer, EndpointId::kEp1);
  EXPECT_EQ(view.info.regions[0].access.bits(), 0x18u);
  ASSERT_TRUE(view.info.regions[0].id_allocator.has_value());
  EXPECT_EQ(view.info.regions[0].id_allocator->next_id, 5u);
  EXPECT_EQ(view.info.regions[0].id_allocator->free_bytes, 100u);
  EXPECT_TRUE(view.info.regions[0].id_allocator->shared);
  EXPECT_TRUE(view.info.regions[0].id_allocator->damaged);
  EXPECT_FALSE(view.info.regions[1].id_allocator.has_value());
  EXPECT_EQ(view.info.endpoints[0].signals, kSignalPeerClosed);
}

// DuplicateHandle and ReplaceHandle are asked for and answered alike.
template <typename Request>
void ExpectHandleRequest(const Request& asked) {
  EXPECT_EQ(asked.handle(), SecretText('h'));
  EXPECT_EQ(asked.rights(), HandleRights::kRead | HandleRights::kMap);
  ASSERT_TRUE(asked.has_recipient_uid());
  EXPECT_EQ(asked.recipient_uid(), 1234u);
  EXPECT_EQ(asked.lease_ms(), 5'000u);
  EXPECT_EQ(asked.request_id().size(), 32u);
}

TEST_F(BrokerCallsTest, DuplicatesAndReplacesHandles) {
  std::vector<v1::DuplicateHandleRequest> duplicates;
  v1::ReplaceHandleRequest replaced;
  control_.on_DuplicateHandle = [&](const auto& request, auto* response) {
    duplicates.push_back(request);
    response->set_handle(SecretText('d'));
    return grpc::Status();
  };
  control_.on_ReplaceHandle = [&](const auto& request, auto* response) {
    replaced = request;
    response->set_handle(SecretText('r'));
    return grpc::Status();
  };
  const HandleRights rights(HandleRights::kRead | HandleRights::kMap);
  const HandleOptions options{.recipient_uid = 1234, .lease = 5s};
  ASSERT_OK_AND_ASSIGN(const Handle duplicate,
                       broker_.DuplicateHandle(HandleOf('h'), rights, options));
  EXPECT_EQ(duplicate.secret(), HandleOf('d').secret());
  ASSERT_OK_AND_ASSIGN(const Handle replacement,
                       broker_.ReplaceHandle(HandleOf('h'), rights, options));
  EXPECT_EQ(replacement.secret(), HandleOf('r').secret());
  ExpectHandleRequest(duplicates[0]);
  ExpectHandleRequest(replaced);
  EXPECT_THAT(broker_.DuplicateHandle(HandleOf('h'), HandleRights(HandleRights::kSameRights)),
              IsOk());
  EXPECT_EQ(duplicates[1].rights(), 0x80000000u);
  EXPECT_FALSE(duplicates[1].has_recipient_uid());
  EXPECT_EQ(duplicates[1].lease_ms(), 0u);
}

TEST_F(BrokerCallsTest, RefusesAHandleOfAnotherLength) {
  control_.on_DuplicateHandle = [&](const auto&, auto* response) {
    response->set_handle("short");
    return grpc::Status();
  };
  EXPECT_THAT(broker_.DuplicateHandle(HandleOf('h'), {}), StatusIs(StatusCode::kInternal));
}

TEST_F(BrokerCallsTest, TellsWhatAHandleIs) {
  control_.on_GetHandleInfo = [&](const auto& request, auto* response) {
    EXPECT_EQ(request.handle(), SecretText('h'));
    response->mutable_info()->set_type(v1::OBJECT_TYPE_SHARED_REGION);
    response->mutable_info()->set_koid(7);
    response->mutable_info()->set_related_koid(8);
    response->mutable_info()->set_rights(HandleRights::kWait);
    response->mutable_info()->set_lease_ms(60'000);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(const HandleInfo info, broker_.GetHandleInfo(HandleOf('h')));
  EXPECT_EQ(info.type, ObjectType::kSharedRegion);
  EXPECT_EQ(info.koid, 7u);
  EXPECT_EQ(info.related_koid, 8u);
  EXPECT_EQ(info.rights, HandleRights(HandleRights::kWait));
  EXPECT_EQ(info.lease, 60s);
}

TEST_F(BrokerCallsTest, KeepsHandlesAlive) {
  v1::KeepAliveRequest asked;
  control_.on_KeepAlive = [&](const auto& request, auto*) {
    asked = request;
    return grpc::Status();
  };
  const Handle handles[] = {HandleOf('a'), HandleOf('b')};
  EXPECT_THAT(broker_.KeepAlive(handles), IsOk());
  ASSERT_EQ(asked.handles_size(), 2);
  EXPECT_EQ(asked.handles(1), SecretText('b'));
  EXPECT_THAT(broker_.KeepAlive({}), IsOk());
}

TEST_F(BrokerCallsTest, NamesABuffer) {
  std::vector<v1::SetNameRequest> asked;
  control_.on_GetName = [&](const auto& request, auto* response) {
    EXPECT_EQ(request.handle(), SecretText('h'));
    response->set_name("old");
    return grpc::Status();
  };
  control_.on_SetName = [&](const auto& request, auto*) {
    asked.push_back(request);
    return grpc::Status();
  };
  EXPECT_EQ(broker_.GetName(HandleOf('h')).value(), "old");
  EXPECT_THAT(broker_.SetName(HandleOf('h'), std::string(1000, 'n')), IsOk());
  EXPECT_THAT(broker_.SetName(HandleOf('h'), ""), IsOk());
  EXPECT_EQ(asked[0].handle(), SecretText('h'));
  EXPECT_EQ(asked[0].name(), std::string(31, 'n'));
  EXPECT_EQ(asked[1].name(), "");
  EXPECT_EQ(ReasonOf(broker_.SetName(HandleOf('h'), "\xc3\x28")), "INVALID_ARGUMENT");
  EXPECT_EQ(asked.size(), 2u);
}

TEST_F(BrokerCallsTest, ChangesSignals) {
  v1::SignalRequest own;
  v1::SignalPeerRequest peers;
  control_.on_Signal = [&](const auto& request, auto*) {
    own = request;
    return grpc::Status();
  };
  control_.on_SignalPeer = [&](const auto& request, auto*) {
    peers = request;
    return DaemonError(grpc::StatusCode::FAILED_PRECONDITION, "PEER_CLOSED");
  };
  EXPECT_THAT(broker_.Signal(HandleOf('h'), UserSignal(0), UserSignal(1)), IsOk());
  EXPECT_EQ(own.handle(), SecretText('h'));
  EXPECT_EQ(own.clear(), UserSignal(0));
  EXPECT_EQ(own.set(), UserSignal(1));
  const absl::Status gone = broker_.SignalPeer(HandleOf('p'), UserSignal(2), UserSignal(3));
  EXPECT_THAT(gone, StatusIs(StatusCode::kFailedPrecondition, "as told"));
  EXPECT_EQ(ReasonOf(gone), "PEER_CLOSED");
  EXPECT_EQ(peers.handle(), SecretText('p'));
  EXPECT_EQ(peers.clear(), UserSignal(2));
  EXPECT_EQ(peers.set(), UserSignal(3));
}

TEST_F(BrokerCallsTest, AllocatesIds) {
  v1::AllocateIdRequest asked;
  control_.on_AllocateId = [&](const auto& request, auto* response) {
    asked = request;
    response->set_id(41);
    return grpc::Status();
  };
  EXPECT_EQ(broker_.AllocateId(HandleOf('h'), 3, BytesOf("blob")).value(), 41u);
  EXPECT_EQ(asked.handle(), SecretText('h'));
  EXPECT_EQ(asked.region_index(), 3u);
  EXPECT_EQ(asked.blob(), "blob");
  EXPECT_THAT(broker_.AllocateId(HandleOf('h'), 3, {}), IsOk());
  EXPECT_EQ(asked.blob(), "");
}

TEST_F(BrokerCallsTest, ListsPageByPageAndAllPages) {
  std::vector<v1::ListBuffersRequest> asked;
  control_.on_ListBuffers = [&](const auto& request, auto* response) {
    asked.push_back(request);
    const uint64_t koid = request.page_token().empty() ? 1 : std::stoull(request.page_token());
    response->add_buffers()->set_koid(koid);
    if (koid < 3) response->set_next_page_token(std::to_string(koid + 1));
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(
      const BufferPage page,
      broker_.ListBuffersPage({.name_prefix = "pre", .page_size = 1, .page_token = "2"}));
  EXPECT_EQ(asked[0].name_prefix(), "pre");
  EXPECT_EQ(asked[0].page_size(), 1u);
  EXPECT_EQ(asked[0].page_token(), "2");
  ASSERT_EQ(page.buffers.size(), 1u);
  EXPECT_EQ(page.buffers[0].koid, 2u);
  EXPECT_EQ(page.next_page_token, "3");
  ASSERT_OK_AND_ASSIGN(const std::vector<BufferInfo> all, broker_.ListBuffers("pre"));
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[2].koid, 3u);
  EXPECT_EQ(asked.back().name_prefix(), "pre");
}

TEST_F(BrokerCallsTest, TellsAllLimits) {
  control_.on_GetLimits = [&](const auto&, auto* response) {
    response->set_mediated_ring_bytes_max(1);
    response->set_id_allocator_bytes_max(2);
    response->set_id_blob_bytes_max(3);
    response->set_interned_blobs_max(4);
    response->set_name_bytes_max(5);
    response->set_handles_max(6);
    response->set_attachments_max(7);
    response->set_watchers_max(8);
    response->set_lease_ms_max(9);
    response->set_descriptors_max(10);
    response->set_descriptors_open(11);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(const Limits limits, broker_.GetLimits());
  EXPECT_EQ(limits.mediated_ring_bytes_max, 1u);
  EXPECT_EQ(limits.id_allocator_bytes_max, 2u);
  EXPECT_EQ(limits.id_blob_bytes_max, 3u);
  EXPECT_EQ(limits.interned_blobs_max, 4u);
  EXPECT_EQ(limits.name_bytes_max, 5u);
  EXPECT_EQ(limits.handles_max, 6u);
  EXPECT_EQ(limits.attachments_max, 7u);
  EXPECT_EQ(limits.watchers_max, 8u);
  EXPECT_EQ(limits.lease_max, 9ms);
  EXPECT_EQ(limits.descriptors_max, 10u);
  EXPECT_EQ(limits.descriptors_open, 11u);
}

TEST_F(BrokerCallsTest, RepeatsACallThatWasTooMuchWithTheSameId) {
  std::set<std::string> ids;
  int calls = 0;
  control_.on_ReplaceHandle = [&](const auto& request, auto* response) {
    ids.insert(request.request_id());
    if (++calls < 3) return DaemonError(grpc::StatusCode::UNAVAILABLE, "BUSY");
    response->set_handle(SecretText('r'));
    return grpc::Status();
  };
  EXPECT_THAT(broker_.ReplaceHandle(HandleOf('h'), {}), IsOk());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(ids.size(), 1u);
}

}  // namespace
}  // namespace iob::test
