// Who allocates ids directly: a number is nobody else's until no process can use its claims any
// more. With real sections, grants and processes that die in the middle.

#include "server/id_owners.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "tests/support/shm_id_region.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using shm::BlobOutcome;
using shm::EndpointId;
using shm::GrantRange;
using shm::IdOwner;
using test::IsOk;
using test::StatusIs;

const GrantRange kEp0(EndpointId::kEp0);
const GrantRange kEp1(EndpointId::kEp1);
constexpr uint32_t kNumbers = shm::kIdOwnersMax - 1;  // All but the broker's.

class IdOwners : public ::testing::Test {
 protected:
  IdOwners() : IdOwners(shm::IdAllocatorSharedWriter::Create(shm::Pages(1)).value()) {}

  // A descriptor as an attachment gets it.
  shm::UniqueFd Grant(GrantRange range, uint32_t number) {
    shm::UniqueFd fd = ids_.memfd().OpenGrant(shm::FdMode::kReadWrite).value();
    EXPECT_THAT(shm::LockGrant(fd.get(), range, number), IsOk());
    return fd;
  }
  // What an attachment makes of it; the descriptor is not needed any longer.
  static shm::IdAllocatorSharedWriter WriterOf(shm::UniqueFd fd, IdOwner owner) {
    const shm::SealedMemfd memfd =
        shm::SealedMemfd::Adopt(std::move(fd), shm::PageBytes(), false).value();
    return shm::IdAllocatorSharedWriter::Map(shm::Pages(1), memfd, owner).value();
  }
  BlobOutcome Look(uint32_t id, std::string* ret_blob = nullptr) {
    std::vector<std::byte> copy;
    const BlobOutcome outcome = reader_.GetCopy(id, UINT32_MAX, &copy);
    if (ret_blob != nullptr) *ret_blob = test::TextOf(copy);
    return outcome;
  }
  // What somebody with the region mapped can do.
  void SetHeader(uint64_t word) {
    shm::Mapping::Map(ids_.memfd()).value().Word<uint64_t>(0).StoreRelease(word);
  }
  uint64_t Header() { return shm::WordAt(shm::ReadOnlyMapping::Map(ids_.memfd()).value(), 0); }
  void ExpectCounts(size_t live, size_t left) {
    EXPECT_EQ(ids_.live_count(), live);
    EXPECT_EQ(ids_.left_count(), left);
  }

  SharedIds ids_;
  shm::IdAllocatorSharedReader reader_;

 private:
  explicit IdOwners(std::pair<shm::SealedMemfd, shm::IdAllocatorSharedWriter> made)
      : ids_(std::move(made.first), std::move(made.second)),
        reader_(shm::IdAllocatorSharedReader::Map(shm::Pages(1), ids_.memfd()).value()) {}
};

TEST_F(IdOwners, EveryAttachmentGetsANumberThatIsNotTheBrokers) {
  std::set<IdOwner> seen = {0, shm::kIdOwnerBroker};
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, i));
    EXPECT_TRUE(seen.insert(owner).second) << owner;
    EXPECT_LE(owner, shm::kIdOwnersMax);
  }
  ExpectCounts(100, 0);
}

TEST_F(IdOwners, ANumberIsFreeOnlyWhenItsGrantIs) {
  shm::UniqueFd grant = Grant(kEp0, 0);
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  ids_.Leave(owner);
  ExpectCounts(0, 1);
  EXPECT_FALSE(ids_.Reap());
  ExpectCounts(0, 1);
  ASSERT_OK_AND_ASSIGN(const IdOwner meanwhile, ids_.Take(kEp0, 1));
  EXPECT_NE(meanwhile, owner);
  grant.Close();
  EXPECT_TRUE(ids_.Reap());
  ExpectCounts(1, 0);
  EXPECT_EQ(ids_.Take(kEp0, 2).value(), owner);
}

TEST_F(IdOwners, AMappingInAnotherProcessKeepsTheNumber) {
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  shm::UniqueFd grant = Grant(kEp0, 0);
  void* const address =
      ::mmap(nullptr, shm::PageBytes(), PROT_READ | PROT_WRITE, MAP_SHARED, grant.get(), 0);
  ASSERT_NE(address, MAP_FAILED);
  grant.Close();
  test::Turn may_end;
  test::Child child([&may_end] { may_end.Take(); });
  ::munmap(address, shm::PageBytes());
  ids_.Leave(owner);
  EXPECT_FALSE(ids_.Reap());
  may_end.Give();
  EXPECT_EQ(child.Join(), 0);
  EXPECT_TRUE(ids_.Reap());
}

TEST_F(IdOwners, ALiveAttachmentsNumberIsNotReaped) {
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  // Nobody holds its grant, but the attachment has not ended: its descriptors may be under way.
  EXPECT_TRUE(ids_.Reap());
  ExpectCounts(1, 0);
  EXPECT_NE(ids_.Take(kEp0, 1).value(), owner);
}

TEST_F(IdOwners, LeavingTwiceOrWithoutANumberChangesNothing) {
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  ids_.Leave(owner + 1);
  ids_.Leave(0);
  ids_.Leave(shm::kIdOwnerBroker);
  ExpectCounts(1, 0);
  ids_.Leave(owner);
  ids_.Leave(owner);
  ExpectCounts(0, 1);
  EXPECT_TRUE(ids_.Reap());
  ids_.Leave(owner);
  ExpectCounts(0, 0);
}

TEST_F(IdOwners, OtherGrantsDoNotCount) {
  const shm::UniqueFd other_number = Grant(kEp0, 1);
  const shm::UniqueFd other_endpoint = Grant(kEp1, 0);
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  ASSERT_OK_AND_ASSIGN(const IdOwner kept, ids_.Take(kEp1, 0));
  ids_.Leave(kept);
  ids_.Leave(owner);
  EXPECT_FALSE(ids_.Reap());
  ExpectCounts(0, 1);
  EXPECT_EQ(ids_.Take(kEp0, 2).value(), owner);
}

// Where a child stops between its claim and its commit: at the first byte of a blob that it may not
// read. Global, for the handler's sake.
test::Turn* stopped_turn = nullptr;

void StopHere(int) {
  stopped_turn->Give();
  while (true) ::pause();
}

TEST_F(IdOwners, AProcessThatIsKilledInTheMiddleLeavesATombstone) {
  void* const unreadable =
      ::mmap(nullptr, shm::PageBytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(unreadable, MAP_FAILED);
  ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, 0));
  shm::UniqueFd grant = Grant(kEp0, 0);
  test::Turn stopped;
  stopped_turn = &stopped;
  test::Child child([&] {
    const auto writer = WriterOf(std::move(grant), owner);
    uint32_t id = UINT32_MAX;
    EXPECT_EQ(writer.Allocate(test::BytesOf("whole"), &id), shm::AllocateOutcome::kAllocated);
    ::signal(SIGSEGV, StopHere);
    writer.Allocate({static_cast<const std::byte*>(unreadable), 100}, &id);
    ADD_FAILURE() << "read what it may not read";
  });
  grant.Close();
  ASSERT_TRUE(stopped.Take());
  ids_.Leave(owner);
  // It is stopped, not dead: it may still commit.
  EXPECT_FALSE(ids_.Reap());
  EXPECT_EQ(Look(1), BlobOutcome::kUncommitted);
  ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
  EXPECT_EQ(child.Join(), 128 + SIGKILL);
  EXPECT_EQ(Look(1), BlobOutcome::kUncommitted) << "nobody has looked yet";
  EXPECT_TRUE(ids_.Reap());
  EXPECT_EQ(Look(1), BlobOutcome::kTombstone);
  std::string blob;
  EXPECT_EQ(Look(0, &blob), BlobOutcome::kBlob);
  EXPECT_EQ(blob, "whole");
  // The number is as good as new, and the next id is the next one.
  EXPECT_EQ(ids_.Take(kEp0, 1).value(), owner);
  uint32_t id = 0;
  EXPECT_EQ(ids_.writer().Allocate(test::BytesOf("next"), &id), shm::AllocateOutcome::kAllocated);
  EXPECT_EQ(id, 2u);
  ::munmap(unreadable, shm::PageBytes());
}

TEST_F(IdOwners, ANumberWhoseWordsCannotBeIsNeverUsedAgain) {
  const uint64_t good = Header();
  ASSERT_OK_AND_ASSIGN(const IdOwner burned, ids_.Take(kEp0, 0));
  ASSERT_OK_AND_ASSIGN(const IdOwner spared, ids_.Take(kEp0, 1));
  SetHeader(UINT64_MAX);
  ids_.Leave(burned);
  // Nothing had to be kept for later.
  EXPECT_TRUE(ids_.Reap());
  ExpectCounts(1, 0);
  SetHeader(good);
  ids_.Leave(spared);
  EXPECT_TRUE(ids_.Reap());
  std::set<IdOwner> seen;
  for (uint32_t i = 0; i < kNumbers - 1; ++i) {
    ASSERT_OK_AND_ASSIGN(const IdOwner owner, ids_.Take(kEp0, i));
    EXPECT_NE(owner, burned);
    EXPECT_TRUE(seen.insert(owner).second);
  }
  EXPECT_TRUE(seen.contains(spared));
  EXPECT_FALSE(ids_.Take(kEp0, 0).ok()) << "all are taken but the burned one";
}

TEST_F(IdOwners, WithoutANumberLeftAttachingIsAQuotaError) {
  std::vector<IdOwner> owners;
  for (uint32_t i = 0; i < kNumbers; ++i) owners.push_back(ids_.Take(kEp0, i).value());
  const auto refused = ids_.Take(kEp0, 0);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                "4093 live and 0 not yet let go of, of 4093"));
  EXPECT_EQ(ReasonOf(refused.status()), v1::ERROR_REASON_QUOTA);
  // One has left, but somebody still holds its grant.
  shm::UniqueFd grant = Grant(kEp0, 7);
  ids_.Leave(owners[7]);
  EXPECT_THAT(ids_.Take(kEp0, 0), StatusIs(absl::StatusCode::kResourceExhausted,
                                           "4092 live and 1 not yet let go of, of 4093"));
  // Nobody has to reap first.
  grant.Close();
  EXPECT_EQ(ids_.Take(kEp0, 0).value(), owners[7]);
  ExpectCounts(kNumbers, 0);
}

}  // namespace
}  // namespace iob::server
