// Shared regions: how they are made and used, that buffers on one region do not see each other's
// grants, and that the memory goes with the last user.

#include "server/shared_region.h"

#include <gmock/gmock.h>

#include <set>

#include "server/mediator.h"
#include "shm/grant_lock.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kBadHandle = v1::ERROR_REASON_BAD_HANDLE;
constexpr auto kInvalid = v1::ERROR_REASON_INVALID_ARGUMENT;
constexpr auto kOutOfRange = v1::ERROR_REASON_OUT_OF_RANGE;
constexpr auto kQuota = v1::ERROR_REASON_QUOTA;
constexpr auto kNameTaken = v1::ERROR_REASON_NAME_TAKEN;
constexpr auto kWrongObject = v1::ERROR_REASON_WRONG_OBJECT;

constexpr uint64_t kPage = 4096;

class SharedRegions : public RegistryHarness {
 protected:
  absl::StatusOr<CreatedSharedRegion> TryMakeRegion(uint64_t size_bytes) {
    return registry_.CreateSharedRegion(alice_, size_bytes, clock_.WallTime());
  }
  CreatedBuffer MakeUser(const Token& region) {
    return TryMake("", {SharedSpec(region)}, alice_).value();
  }
  absl::Status Write(Buffer& buffer, shm::EndpointId writer, const std::string& record) {
    const HeldEndpoint held{.buffer = &buffer, .endpoint = writer, .rights = {}};
    const auto target = Mediator::Resolve(held, 0);
    if (!target.ok()) return target.status();
    Mediator::Records parts;
    parts.Add(std::string(record));
    return mediator_.Write(*target, parts);
  }
  void Delete(Buffer& buffer) {
    ASSERT_THAT(registry_.DeleteBuffer(alice_, buffer, /*force=*/true), IsOk());
  }
  void Close(const Token& handle) { ASSERT_THAT(registry_.CloseHandle(alice_, handle), IsOk()); }
  void ExpectNothingHappened(uint64_t memory_bytes) {
    EXPECT_THAT(observer_.Take(), IsEmpty());
    EXPECT_EQ(quota_.memory_bytes(), memory_bytes);
  }

  Mediator mediator_{[](const Buffer&, uint32_t) {}, [](Koid) {}};
};

TEST_F(SharedRegions, AreMadeOfWholePagesWithinTheLimit) {
  const uint64_t most = shm::RingLayout::kRegionBytesMax;
  limits_.memory_bytes_max = limits_.memory_bytes_per_uid_max = 100 * kPage;
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, kPage - 1, kPage + 1, UINT64_MAX}) {
    EXPECT_THAT(TryMakeRegion(size), HasReason(kInvalid)) << size;
  }
  for (const uint64_t size : {most + kPage, uint64_t{1} << 63, UINT64_MAX - (kPage - 1)}) {
    EXPECT_THAT(TryMakeRegion(size), HasReason(kOutOfRange)) << size;
  }
  // At the limit, it is the quota that says no.
  EXPECT_THAT(TryMakeRegion(most), HasReason(kQuota));
  ExpectNothingHappened(0);
  limits_.region_bytes_max = 8 * kPage;
  EXPECT_THAT(TryMakeRegion(9 * kPage), HasReason(kOutOfRange));
  EXPECT_THAT(TryMakeRegion(8 * kPage), IsOk());
  EXPECT_THAT(TryMakeRegion(kPage), IsOk());
  limits_.handles_max = 2;
  EXPECT_THAT(TryMakeRegion(9 * kPage), HasReason(kOutOfRange));
  EXPECT_THAT(TryMakeRegion(kPage),
              StatusIs(absl::StatusCode::kResourceExhausted, "handles of the daemon"));
}

TEST_F(SharedRegions, AreChargedToWhoeverMadeThem) {
  const uint64_t two_pages_and_ledger = 3 * kPage;
  limits_.memory_bytes_per_uid_max = two_pages_and_ledger + 2 * kPage;
  const CreatedSharedRegion made = MakeRegion();
  EXPECT_EQ(made.region->memory_bytes(), two_pages_and_ledger);
  EXPECT_EQ(quota_.memory_bytes(), two_pages_and_ledger);
  EXPECT_EQ(quota_.buffers(), 0u);
  EXPECT_EQ(made.region->owner().uid, 1u);
  EXPECT_THAT(TryMakeRegion(8192), StatusIs(absl::StatusCode::kResourceExhausted,
                                            "memory bytes of uid 1: 12288 of 20480 in use"));
  // A buffer that uses it costs its signal page, whoever makes it.
  MakeUser(made.handle);
  EXPECT_EQ(quota_.memory_bytes(), two_pages_and_ledger + kPage);
  ASSERT_OK_AND_ASSIGN(const Token bobs,
                       Duplicate(alice_, made.handle, shm::HandleRights::kSameRights, 2));
  EXPECT_THAT(TryMake("", {SharedSpec(bobs)}, bob_), IsOk());
  EXPECT_EQ(quota_.memory_bytes(), two_pages_and_ledger + 2 * kPage);
}

TEST_F(SharedRegions, AreFoundByTheirOwnerAndRoot) {
  const CreatedSharedRegion made = MakeRegion();
  const Koid koid = made.region->koid();
  EXPECT_EQ(registry_.FindSharedRegionForOwner(alice_again_, koid).value(), made.region);
  EXPECT_EQ(registry_.FindSharedRegionForOwner(root_, koid).value(), made.region);
  EXPECT_EQ(registry_.FindSharedRegionForOwner(bob_, koid).status(),
            registry_.FindSharedRegionForOwner(root_, koid + 1).status());
  EXPECT_EQ(registry_.Find(koid), nullptr) << "it is no buffer";
}

TEST_F(SharedRegions, AHandleToOneIsAllThatABufferNeeds) {
  const CreatedSharedRegion made = MakeRegion();
  const Token bare = Duplicate(alice_, made.handle, 0).value();
  ASSERT_OK_AND_ASSIGN(const CreatedBuffer user, TryMake("", {SharedSpec(bare)}, alice_));
  const Region& region = user.buffer->regions()[0];
  EXPECT_EQ(region.shared(), made.region);
  EXPECT_EQ(region.koid(), made.region->koid());
  EXPECT_EQ(region.spec().size_bytes, 8192u);
  EXPECT_EQ(region.ring(), made.region->ring());
  // The handle is as it was.
  EXPECT_THAT(registry_.ResolveSharedRegion(alice_, bare, 0), IsOk());
  EXPECT_THAT(TryMake("", {SharedSpec(bare)}, alice_), IsOk());
  EXPECT_EQ(made.region->uses().size(), 2u);
}

TEST_F(SharedRegions, ABufferOverAWrongHandleIsRefused) {
  const CreatedBuffer other = Make();
  const CreatedSharedRegion small = MakeRegion(kPage);
  const CreatedSharedRegion closed = MakeRegion();
  Close(closed.handle);
  observer_.Take();
  const uint64_t memory_bytes = quota_.memory_bytes();
  const size_t buffers = registry_.buffers().size();
  EXPECT_THAT(TryMake("", {SharedSpec(Token::Random())}, alice_), HasReason(kBadHandle));
  EXPECT_THAT(TryMake("", {SharedSpec(closed.handle)}, alice_), HasReason(kBadHandle));
  EXPECT_THAT(TryMake("", {SharedSpec(small.handle)}, bob_), HasReason(kBadHandle));
  EXPECT_THAT(TryMake("", {SharedSpec(other.handles[0])}, alice_), HasReason(kWrongObject));
  EXPECT_THAT(TryMake("", {SharedSpec(small.handle)}, alice_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "regions[0]: a shared region of 4096 bytes has no room for records"));
  ExpectNothingHappened(memory_bytes);
  EXPECT_EQ(registry_.buffers().size(), buffers);
  EXPECT_THAT(small.region->uses(), IsEmpty());
}

// A buffer that is wrong in every way, mended from the first complaint to the last: regions by
// number before the name, that before the handles, and those before the memory.
TEST_F(SharedRegions, ACreationIsCheckedInThisOrder) {
  const CreatedSharedRegion made = MakeRegion();
  const CreatedBuffer taken = Make("taken");
  limits_.handles_max = 4;
  limits_.memory_bytes_max = quota_.memory_bytes();
  observer_.Take();
  const uint64_t memory_bytes = quota_.memory_bytes();
  std::vector<RegionSpec> regions(65, PlainSpec(4096, 0));
  const auto make = [&] { return TryMake("taken", regions, alice_); };
  EXPECT_THAT(make(), HasReason(kOutOfRange));
  regions.clear();
  EXPECT_THAT(make(), HasReason(kInvalid));
  regions = {SharedSpec(made.handle), SharedSpec(Token::Random()), PlainSpec(UINT64_MAX)};
  EXPECT_THAT(make(), HasReason(kBadHandle));
  regions[1] = SharedSpec(taken.handles[0]);
  EXPECT_THAT(make(), HasReason(kWrongObject));
  regions[1] = SharedSpec(made.handle);
  EXPECT_THAT(make(), HasReason(kOutOfRange));
  regions[2] = PlainSpec();
  EXPECT_THAT(make(), HasReason(kNameTaken));
  EXPECT_THAT(TryMake("free", regions, alice_),
              StatusIs(absl::StatusCode::kResourceExhausted, "handles of the daemon"));
  limits_.handles_max = 5;
  EXPECT_THAT(TryMake("free", regions, alice_),
              StatusIs(absl::StatusCode::kResourceExhausted, "memory bytes of the daemon"));
  ExpectNothingHappened(memory_bytes);
  EXPECT_THAT(made.region->uses(), IsEmpty());
  limits_.memory_bytes_max += 2 * kPage;
  EXPECT_THAT(TryMake("free", regions, alice_), IsOk());
}

TEST_F(SharedRegions, AThousandBuffersShareOneRing) {
  constexpr size_t kUsers = 1000;
  const CreatedSharedRegion made = MakeRegion(64 * kPage);
  const uint64_t region_bytes = quota_.memory_bytes();
  std::vector<CreatedBuffer> users;
  std::set<uint64_t> numbers;
  std::set<int64_t> lock_bytes;
  for (size_t i = 0; i < kUsers; ++i) {
    users.push_back(MakeUser(made.handle));
    const Region& region = users.back().buffer->regions()[0];
    ASSERT_EQ(region.koid(), made.region->koid());
    numbers.insert(region.user());
    lock_bytes.insert(region.GrantRangeOf(kEp0).first_byte());
    lock_bytes.insert(region.GrantRangeOf(kEp1).first_byte());
  }
  EXPECT_EQ(numbers.size(), kUsers);
  EXPECT_EQ(lock_bytes.size(), 2 * kUsers);
  EXPECT_EQ(made.region->uses().size(), kUsers);
  EXPECT_EQ(quota_.memory_bytes(), region_bytes + kUsers * kPage);
  // The ring outlives the handle, and every buffer still writes to it.
  Close(made.handle);
  for (size_t i = 0; i < kUsers; ++i)
    ASSERT_THAT(Write(*users[i].buffer, kEp1, std::string(i % 50, 'r')), IsOk());
  const shm::Ledger& ledger = made.region->ring()->ledger;
  EXPECT_EQ(ledger.stored_records, kUsers);
  EXPECT_EQ(ledger.stored_bytes, kUsers * 49 / 2);
  for (size_t i = 0; i < kUsers; ++i) {
    ASSERT_EQ(users[i].buffer->regions()[0].ledger_of(kEp1).stored_bytes, i % 50);
    ASSERT_EQ(users[i].buffer->regions()[0].ledger_of(kEp0).attempted_records, 0u);
  }
  registry_.CheckInvariants();
  for (size_t i = 0; i < kUsers; ++i) {
    ASSERT_EQ(registry_.shared_regions().size(), 1u) << i;
    ASSERT_EQ(quota_.memory_bytes(), region_bytes + (kUsers - i) * kPage);
    Delete(*users[i].buffer);
  }
  EXPECT_THAT(registry_.shared_regions(), IsEmpty());
  EXPECT_EQ(quota_.memory_bytes(), 0u);
  EXPECT_EQ(registry_.retired().ledger.stored_records, kUsers);
}

TEST_F(SharedRegions, GoWithTheLastBufferAndAreToldOfLast) {
  const CreatedSharedRegion made = MakeRegion();
  const CreatedBuffer first = MakeUser(made.handle);
  const CreatedBuffer second = MakeUser(made.handle);
  observer_.Take();
  Close(made.handle);
  EXPECT_THAT(observer_.Take(), ElementsAre("handle gone"));
  Delete(*first.buffer);
  EXPECT_EQ(observer_.Take().back(), "gone 2");
  Delete(*second.buffer);
  EXPECT_THAT(observer_.Take(),
              ElementsAre("unheld 6 ep0", "handle gone", "process 11 holds nothing", "unheld 6 ep1",
                          "handle gone", "closed 6 ep0 4 0", "closed 6 ep1 4 0", "gone 6",
                          "region gone 1 of uid 1"));
  EXPECT_EQ(registry_.FindSharedRegion(1), nullptr);
  EXPECT_EQ(quota_.memory_bytes(), 0u);
}

TEST_F(SharedRegions, LiveByAHandleAloneToo) {
  const CreatedSharedRegion made = MakeRegion();
  Delete(*MakeUser(made.handle).buffer);
  EXPECT_THAT(made.region->uses(), IsEmpty());
  EXPECT_EQ(registry_.FindSharedRegion(1), made.region);
  ASSERT_THAT(TryMake("", {SharedSpec(made.handle)}, alice_), IsOk());
  EXPECT_EQ(made.region->uses().begin()->first, 1u) << "a user number is never given twice";
}

TEST_F(SharedRegions, OneBufferMayUseTheSameOneTwice) {
  const CreatedSharedRegion made = MakeRegion();
  ASSERT_OK_AND_ASSIGN(
      const CreatedBuffer user,
      TryMake("", {SharedSpec(made.handle), PlainSpec(), SharedSpec(made.handle, 0x38)}, alice_));
  const std::vector<Region>& regions = user.buffer->regions();
  EXPECT_EQ(regions[0].koid(), regions[2].koid());
  EXPECT_NE(regions[0].user(), regions[2].user());
  ASSERT_EQ(made.region->uses().size(), 2u);
  EXPECT_EQ(made.region->uses().at(regions[2].user()).region_index, 2u);
  registry_.CheckInvariants();
  Close(made.handle);
  observer_.Take();
  Delete(*user.buffer);
  const std::vector<std::string> told = observer_.Take();
  EXPECT_EQ(std::count(told.begin(), told.end(), "region gone 1 of uid 1"), 1);
  EXPECT_EQ(told.back(), "region gone 1 of uid 1");
  EXPECT_EQ(quota_.memory_bytes(), 0u);
}

TEST_F(SharedRegions, WaitForTheMappingsOfTheirBuffers) {
  const CreatedSharedRegion made = MakeRegion();
  const CreatedBuffer user = MakeUser(made.handle);
  observer_.mapped = true;
  Close(made.handle);
  Delete(*user.buffer);
  EXPECT_EQ(registry_.FindSharedRegion(1), made.region);
  registry_.EndpointReleased(2, kEp0);
  EXPECT_EQ(registry_.FindSharedRegion(1), made.region);
  registry_.EndpointReleased(2, kEp1);
  EXPECT_EQ(registry_.FindSharedRegion(1), nullptr);
}

TEST_F(SharedRegions, GrantsOfOneBufferAreNotAnothers) {
  const CreatedSharedRegion made = MakeRegion();
  const CreatedBuffer first = MakeUser(made.handle);
  const CreatedBuffer second = MakeUser(made.handle);
  first.buffer->endpoint(kEp0).grants_made = second.buffer->endpoint(kEp0).grants_made = 1;
  const Region& region = second.buffer->regions()[0];
  for (const shm::SealedMemfd* section : region.Sections()) {
    shm::UniqueFd grant = section->OpenGrant(shm::FdMode::kReadOnly).value();
    ASSERT_THAT(shm::LockGrant(grant.get(), region.GrantRangeOf(kEp0), 0), IsOk());
    EXPECT_TRUE(second.buffer->AnyGrantHeld(kEp0));
    EXPECT_FALSE(second.buffer->AnyGrantHeld(kEp1));
    EXPECT_FALSE(first.buffer->AnyGrantHeld(kEp0));
    grant.Close();
    EXPECT_FALSE(second.buffer->AnyGrantHeld(kEp0));
  }
}

TEST_F(SharedRegions, ReadersSeeOneOrderAndWhoWroteWhat) {
  const CreatedSharedRegion made = MakeRegion();
  const CreatedBuffer first = MakeUser(made.handle);
  RegionSpec tagged = SharedSpec(made.handle);
  tagged.tag = 77;
  const CreatedBuffer second = TryMake("", {tagged}, alice_).value();
  for (const char* record : {"a", "b", "c"}) {
    ASSERT_THAT(Write(*first.buffer, kEp1, record), IsOk());
    ASSERT_THAT(Write(*second.buffer, kEp1, record), IsOk());
  }
  const auto data = shm::ReadOnlyMapping::Map(made.region->ring()->writer.data_memfd()).value();
  uint64_t offset = 0;
  for (const char record : {'a', 'b', 'c'}) {
    for (const uint64_t tag : {first.buffer->endpoint(kEp1).koid, uint64_t{77}}) {
      EXPECT_EQ(data.Word<uint64_t>(offset).LoadAcquire().ForHintOnly(), tag);
      EXPECT_EQ(data.Word<uint64_t>(offset + 16).LoadAcquire().ForHintOnly(),
                static_cast<uint64_t>(record));
      offset += 24;
    }
  }
}

TEST_F(SharedRegions, AConsumerInAnyBufferIsAConsumer) {
  const CreatedSharedRegion made = MakeRegion();
  // Neither endpoint of this one may move the tail.
  const CreatedBuffer writers = TryMake("", {SharedSpec(made.handle, 0x88)}, alice_).value();
  const Region& region = writers.buffer->regions()[0];
  EXPECT_FALSE(ConsumerLeft(*writers.buffer, region));
  const CreatedBuffer readers = MakeUser(made.handle);
  EXPECT_TRUE(ConsumerLeft(*writers.buffer, region));
  Close(readers.handles[0]);
  EXPECT_FALSE(ConsumerLeft(*writers.buffer, region));
  const CreatedBuffer more = MakeUser(made.handle);
  EXPECT_TRUE(ConsumerLeft(*writers.buffer, region));
  Delete(*more.buffer);
  EXPECT_FALSE(ConsumerLeft(*writers.buffer, region));
}

}  // namespace
}  // namespace iob::server
