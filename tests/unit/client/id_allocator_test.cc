// IdAllocator in both of its kinds: sealed, where only the broker writes, and shared, where whoever
// may map the region does it directly; and what hostile words and answers come to.
#include "client/id_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

class IdsTest : public ::testing::Test {
 protected:
  void Attach(HandleRights rights = HandleRights()) {
    endpoint_.emplace(AttachTo(&broker_, buffer_.Give(rights)).value());
  }
  IdAllocator Open(uint32_t region) { return endpoint_->OpenIdAllocator(region).value(); }

  // The broker's answer to the one packet that `ask` sends.
  v1::ClientPacket Answering(const v1::BrokerPacket& answer, const std::function<void()>& ask) {
    v1::ClientPacket asked;
    std::thread broker([&] {
      asked = ReceivePacket(broker_.peer()).value_or(v1::ClientPacket());
      SendPacket(broker_.peer(), answer);
    });
    ask();
    broker.join();
    return asked;
  }

  FakeBroker broker_;
  TestBuffer buffer_;
  // Own: map-read and mediated-write; peer the same.
  uint32_t sealed_ = buffer_.AddIds(2, 0x99);
  // Own: map-read and map-write; peer the same.
  uint32_t shared_ = buffer_.AddIds(2, 0x33);
  // Own: map-read and mediated-write; the peer maps it for writing.
  uint32_t served_ = buffer_.AddIds(2, 0x39);
  // Own: mediated-write alone.
  uint32_t blind_ = buffer_.AddIds(1, 0x18);
  // Own: map-read alone.
  uint32_t read_ = buffer_.AddIds(1, 0x81);
  // Own: nothing.
  uint32_t foreign_ = buffer_.AddIds(1, 0x90);
  uint32_t raw_ = buffer_.AddRaw(shm::PageBytes(), 0x13);
  std::optional<Endpoint> endpoint_;
};

v1::BrokerPacket IdAnswer(uint32_t id) {
  v1::BrokerPacket packet;
  packet.mutable_allocate_id_result()->set_id(id);
  return packet;
}

v1::BrokerPacket FailureAnswer(int code, v1::ErrorReason reason) {
  v1::BrokerPacket packet;
  packet.mutable_allocate_id_result()->set_id(3);
  packet.mutable_allocate_id_result()->mutable_failure()->set_code(code);
  packet.mutable_allocate_id_result()->mutable_failure()->set_reason(reason);
  return packet;
}

std::string Text(const absl::StatusOr<std::vector<std::byte>>& blob) {
  return blob.ok() ? TextOf(*blob) : blob.status().ToString();
}

TEST_F(IdsTest, OpensWhatIsOne) {
  Attach();
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(raw_).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(99).status()), "OUT_OF_RANGE");
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(foreign_).status()), "ACCESS_DENIED");
  for (const uint32_t region : {sealed_, shared_, served_, blind_, read_}) {
    const IdAllocator ids = Open(region);
    EXPECT_EQ(ids.region_index(), region);
    EXPECT_EQ(ids.direct(), region == shared_);
    EXPECT_EQ(ids.sealed(), region != shared_ && region != served_);
  }
  endpoint_->Close();
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(sealed_).status()), kReasonDetached);
}

TEST_F(IdsTest, ReadsASealedRegionInPlace) {
  Attach();
  const IdAllocator ids = Open(sealed_);
  EXPECT_EQ(ids.next_id().value(), 0u);
  EXPECT_EQ(buffer_.ids(sealed_).MustAllocate("zero"), 0u);
  EXPECT_EQ(buffer_.ids(sealed_).MustAllocate(""), 1u);
  EXPECT_EQ(ids.next_id().value(), 2u);
  EXPECT_EQ(Text(ids.GetBlob(0)), "zero");
  EXPECT_EQ(Text(ids.GetBlob(1)), "");
  EXPECT_EQ(TextOf(ids.ViewBlob(0).value()), "zero");
  EXPECT_EQ(ids.ViewBlob(0).value().data(), ids.ViewBlob(0).value().data());
  EXPECT_EQ(ids.Find(BytesOf("zero")).value(), 0u);
  EXPECT_EQ(ids.Find({}).value(), 1u);
  EXPECT_EQ(ids.Find(BytesOf("none")).value(), std::nullopt);
}

TEST_F(IdsTest, SaysThatAnIdIsNotAllocated) {
  Attach();
  for (const uint32_t region : {sealed_, shared_}) {
    const IdAllocator ids = Open(region);
    for (const uint32_t id : {0u, 1u, shm::kNextIdMax, UINT32_MAX}) {
      const absl::Status unknown = ids.GetBlob(id).status();
      EXPECT_THAT(unknown, StatusIs(StatusCode::kNotFound));
      EXPECT_EQ(ReasonOf(unknown), "NOT_FOUND");
    }
  }
  EXPECT_EQ(ReasonOf(Open(sealed_).ViewBlob(0).status()), "NOT_FOUND");
}

TEST_F(IdsTest, TakesNoMoreMemoryThanAllowed) {
  Attach();
  for (const uint32_t region : {sealed_, shared_}) {
    EXPECT_EQ(buffer_.ids(region).MustAllocate("12345"), 0u);
    const IdAllocator ids = Open(region);
    const absl::Status large = ids.GetBlob(0, 4).status();
    EXPECT_THAT(large, StatusIs(StatusCode::kResourceExhausted));
    EXPECT_EQ(ReasonOf(large), kReasonTooLarge);
    EXPECT_EQ(Text(ids.GetBlob(0, 5)), "12345");
  }
}

TEST_F(IdsTest, AllocatesDirectlyWhereItMayWrite) {
  Attach();
  IdAllocator ids = Open(shared_);
  EXPECT_EQ(ids.AllocateId(BytesOf("mine")).value(), 0u);
  EXPECT_EQ(buffer_.ids(shared_).MustGet(0), "mine");
  EXPECT_EQ(buffer_.ids(shared_).MustAllocate("theirs"), 1u);
  EXPECT_EQ(Text(ids.GetBlob(1)), "theirs");
  EXPECT_EQ(ids.AllocateId({}).value(), 2u);
  EXPECT_EQ(ids.Find(BytesOf("theirs")).value(), 1u);
  EXPECT_EQ(ids.next_id().value(), 3u);
  // No broker was asked.
  endpoint_->Close();
  EXPECT_TRUE(ReceivePacket(broker_.peer())->has_detach());
}

TEST_F(IdsTest, ClaimsUnderItsOwnNumber) {
  // Killed by a blob that cannot be read, between its claim and its commit.
  Child child([&] {
    Attach();
    void* const trap =
        ::mmap(nullptr, shm::PageBytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const auto* const unreadable = static_cast<const std::byte*>(trap);
    Open(shared_).AllocateId({unreadable, 100}).IgnoreError();
  });
  EXPECT_NE(child.Join(), 0);
  Attach();
  IdAllocator ids = Open(shared_);
  shm::SharedRegion& region = buffer_.shared_ids(shared_);
  EXPECT_EQ(shm::WordAt(region.MapForReading(), shm::IdSlotOffset(0)),
            shm::IdSlot::PendingWord(kOwnerNumber, 100));
  EXPECT_EQ(ids.AllocateId(BytesOf("next")).value(), 1u);
  const absl::Status busy = ids.GetBlob(0).status();
  EXPECT_THAT(busy, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(busy), "BUSY");
  EXPECT_EQ(region.Entomb(kOwnerNumber), 1u);
  const absl::Status dead = ids.GetBlob(0).status();
  EXPECT_THAT(dead, StatusIs(StatusCode::kNotFound, "died"));
  EXPECT_EQ(ReasonOf(dead), "NOT_FOUND");
}

TEST_F(IdsTest, MakesNoViewsOfWhatOthersMayWrite) {
  Attach();
  for (const uint32_t region : {shared_, served_}) {
    EXPECT_EQ(buffer_.ids(region).MustAllocate("blob"), 0u);
    const IdAllocator ids = Open(region);
    const absl::Status refused = ids.ViewBlob(0).status();
    EXPECT_THAT(refused, StatusIs(StatusCode::kFailedPrecondition));
    EXPECT_EQ(ReasonOf(refused), "ENFORCEMENT");
    EXPECT_EQ(Text(ids.GetBlob(0)), "blob");
  }
}

TEST_F(IdsTest, SaysThatTheRegionIsFull) {
  Attach();
  IdAllocator ids = Open(shared_);
  const uint64_t region_bytes = 2 * shm::PageBytes();
  const std::string fits = PatternText(1, region_bytes - shm::kIdHeaderBytes - shm::kIdSlotBytes);
  const absl::Status large = ids.AllocateId(BytesOf(fits + "x")).status();
  EXPECT_THAT(large, StatusIs(StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(large), "REGION_FULL");
  EXPECT_EQ(ids.AllocateId(BytesOf(fits)).value(), 0u);
  EXPECT_EQ(ReasonOf(ids.AllocateId({}).status()), "REGION_FULL");
  EXPECT_EQ(Text(ids.GetBlob(0)), fits);
}

TEST_F(IdsTest, MeetsWordsThatCannotBe) {
  Attach();
  IdAllocator ids = Open(shared_);
  shm::SharedRegion& region = buffer_.shared_ids(shared_);
  EXPECT_EQ(ids.AllocateId(BytesOf("blob")).value(), 0u);
  const std::optional<shm::IdHeader> good = region.reader().LoadHeader();
  for (const uint64_t header : {uint64_t{0}, UINT64_MAX, uint64_t{0x20000000}}) {
    region.Set(shm::kIdHeaderOffset, header);
    for (const absl::Status& status :
         {ids.AllocateId(BytesOf("x")).status(), ids.GetBlob(0).status(), ids.next_id().status(),
          ids.Find(BytesOf("blob")).status()}) {
      EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss));
      EXPECT_EQ(ReasonOf(status), "INTEGRITY");
    }
  }
  region.Set(shm::kIdHeaderOffset, good->word());
  EXPECT_EQ(Text(ids.GetBlob(0)), "blob");
  // A slot that points out of the region, and one that claims all of it.
  for (const uint64_t slot : {shm::IdSlot::BlobWord(4, 0xffffefff), shm::IdSlot::BlobWord(4, 8),
                              shm::IdSlot::BlobWord(UINT32_MAX, good->blob_head)}) {
    region.Set(shm::IdSlotOffset(0), slot);
    EXPECT_EQ(ReasonOf(ids.GetBlob(0).status()), "INTEGRITY");
  }
  // A blob where the next id would go.
  region.Set(shm::IdSlotOffset(1), shm::IdSlot::BlobWord(1, good->blob_head));
  EXPECT_EQ(ReasonOf(ids.AllocateId(BytesOf("x")).status()), "INTEGRITY");
}

TEST_F(IdsTest, FindsNoBlobsThatCannotAllBeThere) {
  Attach();
  IdAllocator ids = Open(shared_);
  shm::SharedRegion& region = buffer_.shared_ids(shared_);
  const std::string half = PatternText(1, shm::PageBytes());
  EXPECT_EQ(ids.AllocateId(BytesOf(half)).value(), 0u);
  for (int i = 0; i < 3; ++i) EXPECT_THAT(ids.AllocateId(BytesOf("x")), IsOk());
  const auto offset = static_cast<uint32_t>(shm::PageBytes());
  for (uint32_t id = 1; id < 4; ++id) {
    region.Set(shm::IdSlotOffset(id), shm::IdSlot::BlobWord(offset, offset));
  }
  const absl::Status overlap = ids.Find(BytesOf(PatternText(2, shm::PageBytes()))).status();
  EXPECT_THAT(overlap, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(overlap), "INTEGRITY");
}

TEST_F(IdsTest, AsksTheBrokerWhereItMayNotWrite) {
  Attach();
  for (const uint32_t region : {sealed_, served_, blind_}) {
    IdAllocator ids = Open(region);
    std::optional<absl::StatusOr<uint32_t>> id;
    const v1::ClientPacket asked =
        Answering(IdAnswer(42), [&] { id = ids.AllocateId(BytesOf("blob")); });
    ASSERT_THAT(*id, IsOk());
    EXPECT_EQ(**id, 42u);
    EXPECT_EQ(asked.allocate_id().region_index(), region);
    EXPECT_EQ(asked.allocate_id().blob(), "blob");
  }
}

TEST_F(IdsTest, TellsTheBrokersOwnError) {
  Attach();
  IdAllocator ids = Open(sealed_);
  Answering(FailureAnswer(8, v1::ERROR_REASON_REGION_FULL), [&] {
    const absl::Status full = ids.AllocateId({}).status();
    EXPECT_THAT(full, StatusIs(StatusCode::kResourceExhausted));
    EXPECT_EQ(ReasonOf(full), "REGION_FULL");
  });
  // A failure is one whatever its code is.
  Answering(FailureAnswer(0, v1::ERROR_REASON_UNSPECIFIED),
            [&] { EXPECT_THAT(ids.AllocateId({}).status(), StatusIs(StatusCode::kUnknown)); });
  EXPECT_EQ(ReasonOf(ids.AllocateId({}, Deadline()).status()), "DEADLINE");
}

TEST_F(IdsTest, DoesNotBelieveAnIdThatTheRegionCannotHold) {
  Attach();
  IdAllocator ids = Open(blind_);
  const auto slots = static_cast<uint32_t>(shm::PageBytes() / shm::kIdSlotBytes);
  Answering(IdAnswer(slots - 2), [&] { EXPECT_EQ(ids.AllocateId({}).value_or(0), slots - 2); });
  for (const uint32_t id : {slots - 1, UINT32_MAX}) {
    Answering(IdAnswer(id), [&] {
      const absl::Status wrong = ids.AllocateId({}).status();
      EXPECT_THAT(wrong, StatusIs(StatusCode::kDataLoss));
      EXPECT_EQ(ReasonOf(wrong), "PROTOCOL");
    });
  }
}

TEST_F(IdsTest, SendsTheLongestBlobAndRefusesALongerOne) {
  Attach();
  IdAllocator ids = Open(sealed_);
  const std::string longest = PatternText(3, kMediatedBlobBytesMax);
  const absl::Status refused = ids.AllocateId(BytesOf(longest + "x")).status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument, "65519"));
  EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
  const v1::ClientPacket asked =
      Answering(IdAnswer(0), [&] { EXPECT_THAT(ids.AllocateId(BytesOf(longest)), IsOk()); });
  EXPECT_EQ(asked.allocate_id().blob(), longest);
}

TEST_F(IdsTest, KeepsToItsRights) {
  Attach();
  IdAllocator blind = Open(blind_);
  for (const absl::Status& status :
       {blind.GetBlob(0).status(), blind.ViewBlob(0).status(), blind.Find({}).status(),
        blind.next_id().status(), Open(read_).AllocateId({}).status(),
        // The right is told before the length.
        Open(read_).AllocateId(BytesOf(std::string(100'000, 'x'))).status()}) {
    EXPECT_THAT(status, StatusIs(StatusCode::kPermissionDenied));
    EXPECT_EQ(ReasonOf(status), "ACCESS_DENIED");
  }
}

TEST_F(IdsTest, WithMapWriteAloneAllocatesOnly) {
  const uint32_t region = buffer_.AddIds(1, 0x12);
  Attach();
  IdAllocator ids = Open(region);
  EXPECT_TRUE(ids.direct());
  EXPECT_EQ(ids.AllocateId(BytesOf("blob")).value(), 0u);
  EXPECT_EQ(buffer_.ids(region).MustGet(0), "blob");
  EXPECT_EQ(ReasonOf(ids.GetBlob(0).status()), "ACCESS_DENIED");
  EXPECT_EQ(ReasonOf(ids.next_id().status()), "ACCESS_DENIED");
}

TEST_F(IdsTest, WithoutWriteInTheHandleReadsOnly) {
  Attach(RightsWithout(HandleRights::kWrite));
  for (const uint32_t region : {sealed_, shared_, served_}) {
    IdAllocator ids = Open(region);
    EXPECT_FALSE(ids.direct());
    EXPECT_EQ(ReasonOf(ids.AllocateId({}).status()), "ACCESS_DENIED");
    EXPECT_EQ(ids.next_id().value(), 0u);
  }
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(blind_).status()), "ACCESS_DENIED");
}

TEST_F(IdsTest, WithoutMapInTheHandleAllocatesOnly) {
  Attach(RightsWithout(HandleRights::kMap));
  IdAllocator ids = Open(served_);
  EXPECT_EQ(ReasonOf(ids.next_id().status()), "ACCESS_DENIED");
  Answering(IdAnswer(1), [&] { EXPECT_EQ(ids.AllocateId({}).value_or(0), 1u); });
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(shared_).status()), "ACCESS_DENIED");
}

TEST_F(IdsTest, ReadsOnWhenItsEndpointIsClosedButAllocatesNoMore) {
  Attach();
  IdAllocator sealed = Open(sealed_);
  IdAllocator shared = Open(shared_);
  EXPECT_EQ(buffer_.ids(sealed_).MustAllocate("sealed"), 0u);
  EXPECT_EQ(shared.AllocateId(BytesOf("shared")).value(), 0u);
  endpoint_.reset();
  IdAllocator moved = std::move(shared);
  EXPECT_EQ(Text(sealed.GetBlob(0)), "sealed");
  EXPECT_EQ(Text(moved.GetBlob(0)), "shared");
  EXPECT_EQ(ReasonOf(sealed.AllocateId({}).status()), kReasonDetached);
  EXPECT_EQ(ReasonOf(moved.AllocateId({}).status()), kReasonDetached);
}

TEST_F(IdsTest, AllocatesDirectlyBesideOthers) {
  Attach();
  IdAllocator ids = Open(shared_);
  const shm::IdAllocatorSharedWriter other = buffer_.shared_ids(shared_).WriterOf(99);
  std::vector<uint32_t> theirs;
  std::thread thread([&] {
    uint32_t id = 0;
    while (other.Allocate(BytesOf("b"), &id) == shm::AllocateOutcome::kAllocated)
      theirs.push_back(id);
  });
  std::vector<uint32_t> all;
  absl::StatusOr<uint32_t> id = 0;
  while ((id = ids.AllocateId(BytesOf("a"))).ok()) all.push_back(*id);
  thread.join();
  EXPECT_EQ(ReasonOf(id.status()), "REGION_FULL");
  for (const uint32_t mine : all) EXPECT_EQ(Text(ids.GetBlob(mine)), "a");
  all.insert(all.end(), theirs.begin(), theirs.end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
  EXPECT_EQ(all.size(), ids.next_id().value());
}

}  // namespace
}  // namespace iob::test
